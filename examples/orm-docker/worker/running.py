"""Which tasks are running, as all hosts see it: the agent publishes those that have run for about a second."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.core.cache import caches
from django_q.conf import Conf

if TYPE_CHECKING:
    from worker.cluster.board import Board

SHOWN_AFTER = 0.75  #: seconds that a task has run: most never have an entry
KEPT_FOR = 45  #: seconds that an entry outlives a cluster that was killed
RENEWED_AFTER = 15.0  #: seconds


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt that goes on."""

    attempt: int
    since: float  #: by the clock of its host
    worker: str


def entry(key: str) -> Run | None:
    """Return the attempt of a task that goes on, None if there is none, or it has just begun."""
    found = caches[Conf.CACHE].get(_key(key))
    return Run(*found) if found else None


class Running:
    """The entries of an agent's cluster."""

    def __init__(self) -> None:
        """Begin with none."""
        self.renewed: dict[tuple[str, float], float] = {}  #: when, by the task and since when it runs

    def publish(self, board: "Board", workers: Mapping[int, str]) -> None:
        """Bring the entries in line with what workers do, whose names are by seat; raises what the cache raises."""
        now = time.monotonic()
        runs = {run[1:3]: run for run in board.attempts() if now - run[2] > SHOWN_AFTER}
        if ended := self.renewed.keys() - runs.keys():
            caches[Conf.CACHE].delete_many([_key(task) for task, _ in ended])
            for run in ended:
                del self.renewed[run]
        for run, (seat, task, since, attempt) in runs.items():
            if now - self.renewed.get(run, -math.inf) > RENEWED_AFTER:
                shown = (attempt, time.time() - (now - since), workers.get(seat, ""))
                caches[Conf.CACHE].set(_key(task), shown, KEPT_FOR)
                self.renewed[run] = now

    def withdraw(self) -> None:
        """Remove all entries, when the cluster ends as it should; raises what the cache raises."""
        if self.renewed:
            caches[Conf.CACHE].delete_many([_key(task) for task, _ in self.renewed])


def _key(task: str) -> str:
    return f"running:{Conf.PREFIX}:{task}"
