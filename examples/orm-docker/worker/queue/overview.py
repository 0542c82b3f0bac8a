"""The overview of all queues: a number of queries that does not grow with what they find."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, router
from django.db.models import Case, F, Sum, When
from django.db.models.functions import Greatest, Least
from django.utils import timezone
from django_q.models import Schedule
from django_q.models import Task as Model

from worker.delivery import Depth
from worker.models import Failure, Minute, Pause, ScheduleState
from worker.packages import table
from worker.processes import clusters, queue_of, workers
from worker.queue import signs
from worker.queue.depths import MOST, Told, told_within
from worker.queue.state import Again, ClusterState, Group, Overview, QueueState, Scheduled, Waiting

NEWEST = 2_000  #: failures that are looked at: each is a page of the database to read
SHOWN = 20  #: groups of failures, and further attempts
SCHEDULES = 500
LATELY = timedelta(minutes=5)
FAR = timedelta(days=36_500)  #: of a schedule that is due in a century or later, never
LATE = 10.0  #: seconds after which a schedule is overdue; agents queue it within a few
NO_DEPTH = Depth(0, 0, 0, None)

#: The newest failures, by function and exception. Three of each group, and with each the number of them.
FAILED = """
SELECT id, func, exception, reason, stopped, looked_at, in_group FROM (
    SELECT id, func, exception, reason, stopped, looked_at, COUNT(*) OVER (PARTITION BY func, exception) AS in_group,
        MAX(stopped) OVER (PARTITION BY func, exception) AS newest,
        ROW_NUMBER() OVER (PARTITION BY func, exception ORDER BY stopped DESC, id) AS place
    FROM (
        SELECT t.id, t.func, t.stopped, f.next_try, COUNT(*) OVER () AS looked_at,
            COALESCE(f.exception, '') AS exception, COALESCE(f.reason, '') AS reason
        FROM ({rows}) t LEFT JOIN {failures} f ON f.task = t.id
    ) newest WHERE next_try IS NULL
) placed WHERE place <= 3 ORDER BY newest DESC, func, exception, place LIMIT {limit}
"""


def overview(patience: float = 3.0) -> Overview:
    """Return what there is to know now; of what the broker would have to tell, nothing while it is away.

    Clusters that are alive have so many seconds to say so, and the broker what is left of them and half a second.
    """
    end = time.monotonic() + patience + 0.5
    found = signs.look(patience)
    told = told_within(max(end - time.monotonic(), 0.3))
    now = timezone.now()
    total, groups = failed_total(), failed_groups()
    running = sorted((run for cluster in found if cluster.alive for run in cluster.running), key=lambda run: run.since)
    return Overview(
        at=now,
        queues=queues(found, told, now),
        running=running,
        again=again([each.id for each in running]),
        failed=groups,
        failed_total=total,
        failed_older=max(0, total - sum(group.count for group in groups)),
        schedules=schedules(now),
    )


# Queues


def queues(found: list[ClusterState], told: dict[str, Told], now: datetime) -> list[QueueState]:
    alias = table().db
    since = now - LATELY
    lately = Minute.objects.using(alias).filter(minute__gte=since).values("cluster").order_by()
    sums = lately.annotate(done=Sum("done"), failed=Sum("failed")).values_list("cluster", "done", "failed")
    ended: dict[str, tuple[int, int]] = {cluster: (done, failed) for cluster, done, failed in sums}
    pauses = Pause.objects.using(alias).in_bulk()
    commands = {process.cluster: process.command for process in workers()}
    states = []
    for name in clusters():
        mine = [cluster for cluster in found if cluster.name == name]
        alive = [cluster for cluster in mine if cluster.alive]
        depth = told[name].depth
        if depth and depth.taken and not told[name].can_peek:
            depth = with_put_off(depth, name)
        pause = pauses.get(name)
        states.append(
            QueueState(
                name=queue_of(name),
                cluster=name,
                **counted(depth, alive, now),
                ahead=sum(cluster.ahead for cluster in alive),
                clusters=mine,
                done=ended.get(name, (0, 0))[0],
                failed=ended.get(name, (0, 0))[1],
                paused_by=pause.by if pause else "",
                paused_since=pause.since if pause else None,
                start_with="" if alive else commands.get(name, f"python manage.py qcluster --name {name}"),
                problem=told[name].problem,
            )
        )
    return states


def with_put_off(depth: Depth, cluster: str) -> Depth:
    """Return a depth in which tasks between two attempts are due: SQS, which shows none, counts them as taken."""
    later = Failure.objects.using(table().db).filter(next_try__gt=timezone.now())[:MOST]
    number = min(depth.taken, table().filter(cluster=cluster, pk__in=later.values("pk")).count())
    return depth._replace(due=depth.due + number, taken=depth.taken - number)


def counted(depth: Depth | None, alive: list[ClusterState], now: datetime) -> dict[str, Any]:
    """Return what is counted of a queue, by its broker and by the clusters that have fetched some of it.

    What dead clusters hold is due when their leases run out.
    """
    waiting, due, taken, oldest = depth or NO_DEPTH
    ahead, long = sum(cluster.ahead for cluster in alive), sum(len(cluster.running) for cluster in alive)
    since = [when for when in (oldest, *(cluster.oldest for cluster in alive)) if when is not None]
    return {
        "waiting": waiting + ahead if depth else None,
        "due": due + (0 if alive else taken) if depth else None,
        "more": max(waiting, due, taken) >= MOST,
        "oldest": max(0.0, now.timestamp() - min(since)) if since else None,
        # Clusters name those that take long; the others are what is taken, and not waiting in them.
        "running": max(long, min(taken - ahead, sum(cluster.workers for cluster in alive))),
    }


# What has failed


def again(running: Iterable[str]) -> Again:
    """Return what will be tried again, without what runs by now."""
    rows = Failure.objects.using(table().db).filter(next_try__isnull=False).exclude(pk__in=running)
    first = list(rows.order_by("next_try").defer("errors", "options")[:SHOWN])
    named = table().filter(pk__in=[row.pk for row in first]).values("id", "name", "func", "cluster")
    tasks = {row["id"]: row for row in named}
    return Again(
        total=rows[:MOST].count() if len(first) == SHOWN else len(first),
        first=[
            Waiting(
                id=row.pk,
                name=task["name"],
                func=task["func"],
                queue=queue_of(task["cluster"]),
                reason=row.reason,
                attempts=row.attempts,
                of=row.max_attempts,
                next=row.next_try,
            )
            for row in first
            if row.next_try and (task := tasks.get(row.pk))
        ],
    )


def failed_total() -> int:
    """Return how many tasks have failed for good, without looking at each: an index knows those that have not."""
    again = Failure.objects.using(table().db).filter(next_try__isnull=False)[:MOST].count()
    return max(0, table().filter(success=False).order_by()[: MOST + again].count() - again)


def failed_groups() -> list[Group]:
    """Return the newest groups of failures for good."""
    alias = table().db
    newest: Any = table().filter(success=False).order_by("-stopped").values("id", "func", "stopped")[:NEWEST]
    rows, parameters = newest.query.get_compiler(alias).as_sql()
    failures = connections[alias].ops.quote_name(Failure._meta.db_table)  # noqa: SLF001 (a documented part of models)
    statement = FAILED.format(rows=rows, failures=failures, limit=3 * SHOWN)
    found = list(Model.objects.using(alias).raw(statement, parameters))
    groups: dict[tuple[str, str], Group] = {}
    for row in found:  # the newest one of a group has its reason
        key = (row.func, row.exception)
        more = row.looked_at == NEWEST
        groups.setdefault(key, Group(*key, row.reason, row.in_group, more, row.stopped, [])).ids.append(row.id)
    shown = list(groups.values())[:SHOWN]
    # What was set aside, or could not be queued, has its reason in the result alone.
    newest_ids = [group.ids[0] for group in shown if not group.reason]
    results = dict(table().filter(pk__in=newest_ids).values_list("pk", "result")) if newest_ids else {}
    said = {key: text for key, text in results.items() if isinstance(text, str)}
    return [replace(group, reason=group.reason or said.get(group.ids[0], "")[:256]) for group in shown]


# Schedules


def schedules(now: datetime) -> list[Scheduled]:
    """Return the schedules, first those that are due next, and those that are turned off at the end."""
    alias = router.db_for_write(Schedule)
    # PostgreSQL keeps times that Python does not know, such as the year 10,000, and infinity.
    due = Case(When(next_run__isnull=False, then=Greatest(Least("next_run", now + FAR), now - FAR)))
    known = Schedule.objects.using(alias).defer("next_run").annotate(due=due)
    on = known.exclude(repeats=0).order_by(F("next_run").asc(nulls_last=True), "pk")
    rows = list(on[:SCHEDULES])
    if len(rows) < SCHEDULES:
        rows += known.filter(repeats=0).order_by("name", "pk")[: SCHEDULES - len(rows)]
    queued = dict(
        ScheduleState.objects.using(alias).filter(pk__in=[row.pk for row in rows]).values_list("pk", "queued")
    )
    tasks = [row.task for row in rows if row.task]
    waiting = Failure.objects.using(table().db).filter(pk__in=tasks, next_try__isnull=False)
    again = set(waiting.values_list("pk", flat=True))
    ended = {key: row for key, *row in table().filter(pk__in=tasks).values_list("id", "stopped", "success")}
    found = []
    for row in rows:
        stopped, success = ended.get(row.task, (None, True))
        next_run = row.due if row.repeats and row.due and row.due < now + FAR else None
        late = (now - next_run).total_seconds() if next_run else 0.0
        found.append(
            Scheduled(
                id=row.pk,
                name=row.name or f"schedule {row.pk}",
                func=row.func,
                queue=queue_of(row.cluster),
                last=stopped or queued.get(row.pk),
                last_failed=not success and row.task not in again,
                off=not row.repeats,
                next=next_run,
                overdue=late if late > LATE else 0.0,
            )
        )
    return found


# Limits


def excesses(queue: QueueState, max_age: float = math.inf, max_waiting: float = math.inf) -> Iterator[str]:
    """Yield a sentence for each thing that is not well with a queue."""
    if queue.problem:
        yield f"{queue.name}: {queue.problem}"
    if queue.start_with:
        yield f"Nothing serves the queue {queue.name}: start it with `{queue.start_with}`."
    paused = f" It is paused by {queue.paused_by}." if queue.paused_since else ""
    if (queue.oldest or 0) > max_age:
        waits = f"The oldest task of the queue {queue.name} waits for {queue.oldest:.0f} s"
        yield f"{waits}, more than {max_age:g}.{paused}"
    if (queue.waiting or 0) > max_waiting:
        yield f"In the queue {queue.name} {queue.waiting} tasks wait, more than {max_waiting:.0f}.{paused}"
