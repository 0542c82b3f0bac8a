"""What an overview of the queues tells, as plain values that JSON knows."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt that has gone on for about a second, or longer."""

    id: str
    name: str
    func: str
    queue: str
    attempt: int
    since: datetime
    seconds: float
    worker: str
    host: str


@dataclass(frozen=True, slots=True)
class ClusterState:
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
    running: list[Running] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue of Django's tasks, and the clusters that serve it."""

    name: str
    cluster: str
    waiting: int | None  #: tasks that may begin now, and nobody has begun; None if the broker does not answer
    due: int | None  #: tasks that are delayed, or between two attempts
    more: bool  #: whether there are more than these numbers say: counting ends at MOST
    oldest: float | None  #: seconds for which the oldest waits; None if none does, or if nobody can tell
    running: int
    ahead: int  #: of those that wait, what clusters have fetched
    clusters: list[ClusterState]  #: dead ones too, for a while
    done: int  #: tasks that have succeeded in the last five minutes
    failed: int  #: and those that have failed for good
    paused_by: str  #: "" if it is not paused
    paused_since: datetime | None
    start_with: str  #: what starts a cluster, if none is alive; else ""
    problem: str  #: why something of this is not known, in a sentence; else ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that has failed, and will be tried again."""

    id: str
    name: str
    func: str
    queue: str
    reason: str
    attempts: int  #: that have failed
    of: int  #: attempts that it may have; 0 for no limit
    next: datetime


@dataclass(frozen=True, slots=True)
class Again:
    """The tasks that will be tried again."""

    total: int
    first: list[Waiting]  #: the 20 whose turn is next


@dataclass(frozen=True, slots=True)
class Group:
    """Tasks of one function that have failed for good by the same exception."""

    func: str
    exception: str  #: the dotted path of its class; "" for what was set aside, or could not be queued
    reason: str  #: of the newest
    count: int
    more: bool  #: whether older ones may not be counted: only the newest failures are looked at
    last: datetime
    ids: list[str]  #: of the newest, 3 at most


@dataclass(frozen=True, slots=True)
class Scheduled:
    id: int
    name: str
    func: str
    queue: str
    last: datetime | None  #: when its newest task ended, or was queued
    last_failed: bool  #: whether that has failed for good
    off: bool  #: whether somebody has turned it off, or it has run as often as it should
    next: datetime | None  #: None if that is never
    overdue: float  #: seconds; 0 if it is not


@dataclass(frozen=True, slots=True)
class Overview:
    """All that there is to know at a moment."""

    at: datetime
    queues: list[QueueState]
    running: list[Running]  #: the longest first
    again: Again
    failed: list[Group]  #: the 20 newest groups, of the newest failures
    failed_total: int  #: tasks that have failed for good; counting ends at MOST
    failed_older: int  #: of these, such as are counted in no group
    schedules: list[Scheduled]
