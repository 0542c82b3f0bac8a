"""The clusters that run, on whatever host, and whether they are alive.

They are asked, by announcements, when somebody looks, and so need not write all the time. One that does not answer is
marked as lost, unless it is on this host and its main process says otherwise by its file; it is not waited for again,
and takes that back when it next writes. Where nothing can be announced, that file tells, and otherwise what it wrote
last.
"""

import time
from contextlib import suppress
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, router
from django.db.models.functions import Now
from django_q.models import Schedule, Task

from worker import announcements, heartbeat
from worker.announcements import SIGNS
from worker.conf import setting
from worker.failures import moment
from worker.models import Cluster
from worker.processes import queue_of
from worker.queue.state import ClusterState, Running
from worker.single_flight import SingleFlight

ASK_EVERY = 2.0  #: seconds between two questions of this process
AWAY = 10.0  #: seconds until the next one if the broker's server, which is to announce it, is away
LOOK_EVERY = 0.05  #: seconds between two looks for answers
FRESH = 4.0  #: seconds for which a main process's file counts, which it writes each second
FORGOTTEN = timedelta(hours=1)  #: after which a cluster that does not write is shown no more, and goes with old results

#: when this process has asked last: by its clock, and by the database's
_asked: tuple[float, datetime | None] = -ASK_EVERY, None
_publish = SingleFlight(lambda: announcements.ask(SIGNS))


def registered() -> Any:
    return Cluster.objects.using(router.db_for_write(Task))


def all_rows() -> list[Any]:
    """Return the rows that are not forgotten, with the time by the clock that they go by."""
    rows = registered().annotate(now=Now()).order_by("name", "host", "since")
    return [row for row in rows if row.now - row.seen < FORGOTTEN]


def look(patience: float = 3.0) -> list[ClusterState]:
    """Return the states of all clusters, by name and host; whoever does not answer for so many seconds is dead."""
    rows = all_rows()
    here = {row.pk: is_alive_here(row) for row in rows}
    asked = [row.pk for row in rows if row.lost is None and row.state["hears"] and here[row.pk] is not False]
    if asked and (since := ask(rows[0].now, patience / 2)):
        end = time.monotonic() + patience
        while (silent := [row for row in rows if row.pk in asked and row.seen < since and row.lost is None]) and (
            time.monotonic() < end
        ):
            time.sleep(LOOK_EVERY)
            rows = all_rows()
        for row in [row for row in silent if not here[row.pk]]:  # unless it has answered meanwhile
            registered().filter(pk=row.pk, seen=row.seen).update(lost=Now())
            row.lost = row.now
    known = {key: alive for key, alive in here.items() if alive is not None}
    return [state_of(row, row.lost is None and known.get(row.pk, has_written_lately(row))) for row in rows]


def ask(now: datetime, patience: float) -> datetime | None:
    """Ask all clusters, unless this process has just done so; return since when answers count, None if nobody hears.

    The broker's server, if it is to announce that, has so many seconds to do it.
    """
    global _asked
    alias = router.db_for_write(Schedule)
    if connections[alias].in_atomic_block or connections[router.db_for_write(Task)].in_atomic_block:
        return None  # what is announced would come too late
    if time.monotonic() - _asked[0] > ASK_EVERY:
        _asked = time.monotonic(), now
        heard = _publish.wait(patience) if announcements.client() else announcements.ask(SIGNS)
        if not heard:  # nobody is dead for not answering then
            _asked = time.monotonic() + AWAY, None
    return _asked[1]


def is_alive_here(row: Cluster) -> bool | None:
    """Say whether a cluster on this host is alive, as far as the file of its main process tells; None if it is not."""
    if not row.state["folder"] or row.state["folder"] != heartbeat.folder_id():
        return None
    with suppress(OSError, ValueError):
        beats = [beat for beat in heartbeat.beats(row.name) if beat.main == row.pid]
        return any(beat.age < FRESH and all(map(heartbeat.is_running, (beat.main, beat.agent))) for beat in beats)
    return None


def has_written_lately(row: Any) -> bool:
    """Say whether a cluster has; of three times in a row, two may fail."""
    return bool(row.now - row.seen < timedelta(seconds=3 * setting("Q_QUIET")))


def state_of(row: Any, alive: bool) -> ClusterState:
    names = {each.name for each in fields(ClusterState)}
    state = {name: value for name, value in row.state.items() if name in names}
    state["running"] = running_of(row) if alive else []
    return ClusterState(row.name, queue_of(row.name), row.host, row.pid, row.since, row.seen, alive, **state)


def running_of(row: Any) -> list[Running]:
    """Return the attempts that a row tells of."""
    now, known = row.now.timestamp(), {"queue": queue_of(row.name), "host": row.host}
    return [
        Running(**{**run, "since": moment(run["since"])}, seconds=max(0.0, now - run["since"]), **known)
        for run in row.state["running"]
    ]


def running(task: str) -> Running | None:
    """Return the attempt of a task that goes on, by one query; None if there is none, or it has just begun."""
    rows = [row for row in all_rows() if row.lost is None and has_written_lately(row)]
    return next((run for row in rows for run in running_of(row) if run.id == task), None)
