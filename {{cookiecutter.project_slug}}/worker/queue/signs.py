"""Which clusters are alive, and what each of them does."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt that goes on."""

    id: str
    name: str
    func: str
    attempt: int
    since: float  #: by the clock of its host
    worker: str


@dataclass(frozen=True, slots=True)
class Sign:
    """What a cluster's main process has said of itself."""

    name: str  #: of the cluster
    queue: str
    host: str
    pid: int
    since: datetime
    seen: datetime
    alive: bool
    workers: int
    ahead: int  #: tasks that it has fetched and not begun
    oldest: float | None  #: since when the oldest of these may be run, in seconds since 1970
    late: dict[str, float]
    running: list[Run]


def look(patience: float = 3.0) -> list[Sign]:
    """Return the signs of all clusters, once those have answered that are alive."""
    return []
