"""The clusters that run, on whatever host, and whether they are alive: they answer when somebody looks."""

from dataclasses import dataclass, field
from datetime import datetime

from django.db import router
from django_q.models import Task

from worker.models import Cluster
from worker.processes import queue_of


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt that goes on, and has for about a second."""

    id: str  #: of the task
    name: str
    func: str
    attempt: int
    since: float  #: by the clock of its host
    worker: str


@dataclass(frozen=True, slots=True)
class Sign:
    """A cluster that runs, or did until lately."""

    name: str  #: of the cluster
    queue: str  #: as Django's tasks call it
    host: str
    pid: int  #: of its main process
    since: datetime
    seen: datetime
    alive: bool
    workers: int = 0
    ahead: int = 0  #: tasks that it has claimed, and not begun
    oldest: float | None = None  #: since when the oldest of these might have begun
    lag: float = 0.0  #: seconds for which results wait to be saved
    late: dict[str, float] = field(default_factory=dict)  #: what a thread does, and the seconds for which it is late
    running: list[Run] = field(default_factory=list)


def look(patience: float = 3.0) -> list[Sign]:
    """Return the signs of all clusters, by name and host; whoever does not answer for so many seconds is dead."""
    rows = Cluster.objects.using(router.db_for_write(Task)).order_by("name", "host", "pid")
    return [sign_of(row) for row in rows]


def sign_of(row: Cluster) -> Sign:
    """Return what a row says."""
    state = {**row.state, "running": [Run(**run) for run in row.state.get("running", ())]}
    alive = row.lost is None
    return Sign(row.name, queue_of(row.name), row.host, row.pid, row.since, row.seen, alive, **state)
