"""What was queued: a broker in memory, and a list to look at and to run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self, overload
from unittest.mock import patch

from django.core.cache import caches
from django.db import connection
from django.utils import timezone
from django_q.conf import Conf
from django_q.signing import SignedPackage

from worker.delivery import Depth, signed_at
from worker.packages import function_label, named
from worker.policy import shown
from worker.processes import cluster_named, nearest, queue_of
from worker.testing.commits import committed
from worker.testing.in_process import run


@dataclass(frozen=True)
class Queued:
    """A task that was queued."""

    function: str  #: its dotted path
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    cluster: str  #: whose queue it waits in
    run_after: datetime | None  #: before which no worker begins it
    options: dict[str, Any]  #: what else it was queued with: name, group, hook, timeout, max_attempts, …
    payload: str  #: as the broker gets it
    attempts: int = 0  #: that have failed

    @classmethod
    def of(cls, payload: str, cluster: str, after: datetime | None) -> Self:
        """Open a package."""
        task = SignedPackage.loads(payload)
        args, kwargs, function = task.pop("args"), task.pop("kwargs"), path(task.pop("func"))
        return cls(function, tuple(args), kwargs, cluster, after, task, payload)

    def __getattr__(self, name: str) -> Any:
        """Return an option: None if the task was queued without it."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self.options.get(name)

    @property
    def queue_name(self) -> str:
        """What Django's tasks call the queue."""
        return queue_of(self.cluster)

    def has(self, name: str, value: Any) -> bool:
        """Say whether an argument or an option has a value."""
        if name in self.kwargs:
            return bool(self.kwargs[name] == value)
        return bool(getattr(self, name) == (cluster_named(value) if name == "cluster" else value))

    def __str__(self) -> str:
        """Return the call, and what differs from the usual."""
        notes = [f"cluster {self.cluster}"] * (self.cluster != Conf.CLUSTER_NAME)
        notes += [f"not before {self.run_after}"] * bool(self.run_after)
        return in_words(self.function, self.args, self.kwargs) + f" ({', '.join(notes)})" * bool(notes)


def path(function: object) -> str:
    """Return the dotted path of a function, or of a task."""
    return str(getattr(function, "module_path", None) or function_label(function))


def in_words(function: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> str:
    """Return a call; what is long in it is cut."""
    given = [*map(shown, args), *(f"{name}={shown(value)}" for name, value in kwargs.items())]
    return f"{function}({', '.join(given)})"


def missing(wanted: str, queued: set[str]) -> str:
    """Return a sentence if a path leads to nothing, and what it may be meant to be."""
    if wanted in queued or named(wanted) is not None:
        return ""
    parent = wanted.rpartition(".")[0]
    near = {f"{parent}.{name}" for name in getattr(named(parent), "__dict__", ())}
    return f"There is no {shown(wanted)}. {nearest(wanted, near | queued)}".rstrip()


class Queue(Sequence[Queued]):
    """What was queued, in this order: a list to look at, and to run."""

    def __init__(self) -> None:
        self._tasks: list[Queued] = []
        self.callbacks = len(connection.run_on_commit)  #: of on_commit() that are not of its block

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Queued: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Queued]: ...
    def __getitem__(self, index: int | slice) -> Queued | Sequence[Queued]:
        return self._tasks[index]

    def __repr__(self) -> str:
        return "\n".join(["", *(f"    {task}" for task in self._tasks)]) if self._tasks else "nothing"

    def assert_queued(self, function: object, *args: Any, **kwargs: Any) -> Queued:
        """Return the first task of a function, with these arguments if there are any.

        A keyword is an argument of the function, or an option such as `cluster`, `run_after` or `max_attempts`.

        Raises:
            AssertionError: If there is none; it lists what was queued.
        """
        wanted = path(function)
        for task in self._tasks:
            found = task.function == wanted and args in {(), task.args}
            if found and all(task.has(name, value) for name, value in kwargs.items()):
                return task
        sentences = [f"{in_words(wanted, args, kwargs)} was not queued."]
        if isinstance(function, str) and (problem := missing(function, {task.function for task in self._tasks})):
            sentences.append(problem)
        if any(not getattr(it[1], "is_over", False) for it in connection.run_on_commit[self.callbacks :]):
            sentences.append("Callbacks of transaction.on_commit() come at the end of a block of queued().")
        raise AssertionError(" ".join([*sentences, f"Queued was: {self!r}"]))

    # Running

    def run(self, *, raises: bool = True) -> list[Any]:
        """Run what waits, and what that queues in turn, until nothing waits; return the result of each attempt.

        It runs in this process, in the order of queuing but for delayed tasks, which come last and in the order of
        their times: nothing is waited for. Results are saved, hooks called, chains and iterables go on as in a worker.
        What a task raises is recorded as its failure, and raised: the next run() makes its next attempt. With
        `raises=False` that follows at once, for as many attempts as the task may have.

        Raises:
            AssertionError: If there is no end to it.
            Exception: What a task raises.
        """
        with kept(self):
            return run(self, raises=raises)

    def keep(self, payload: str, cluster: str, after: datetime | None) -> None:
        self._tasks.append(Queued.of(payload, cluster, after))

    def drop(self, cluster: str) -> int:
        """Keep no task of a cluster, and return how many there were."""
        before = len(self)
        self._tasks[:] = [task for task in self if task.cluster != cluster]
        return before - len(self)

    def end(self, number: int, *, again: bool = False) -> None:
        """End an attempt of the task at a place; keep the task only for another one."""
        task = self._tasks.pop(number)
        if again:
            self._tasks.insert(number, replace(task, attempts=task.attempts + 1))


class Broker:
    """Takes the broker's place, and keeps what is queued in the innermost block of queued()."""

    queues: list[Queue] = []
    away = ()
    forgets_returned, transactional, can_peek = True, False, False

    def __init__(self, list_key: str) -> None:
        self.cluster = self.list_key = list_key
        self.cache = caches[Conf.CACHE]

    def check_settings(self) -> None:
        """Find nothing wrong."""

    def ping(self) -> bool:
        return True

    @staticmethod
    def will_pass(error: BaseException) -> bool:
        return False

    def enqueue(self, payload: str, after: datetime | None = None) -> str:
        self.queues[-1].keep(payload, self.list_key, after)
        return str(len(self.queues[-1]))

    def enqueue_all(self, payloads: list[str], after: datetime | None = None) -> None:
        for payload in payloads:
            self.enqueue(payload, after)

    def depth(self, most: int | None = None) -> Depth:
        mine = [task for task in self.queues[-1] if task.cluster == self.list_key]
        later = [task for task in mine if task.run_after and task.run_after > timezone.now()]
        times = [time for task in mine if task not in later and (time := signed_at(task.payload)) is not None]
        return Depth(len(mine) - len(later), len(later), 0, min(times, default=None))

    def payloads(self, most: int) -> Iterator[tuple[str, str]]:
        """Yield nothing: nobody can peek."""
        return iter(())

    def remove(self, receipt: str) -> bool:
        """Take out nothing, likewise."""
        return False

    def purge(self) -> int:
        return self.queues[-1].drop(self.list_key)

    def queue_size(self) -> int:
        return len(self.queues[-1])

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Show nothing."""

    # What a run() tells it

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        """Keep no task that has had its last attempt; a receipt is where it stands."""
        for receipt in receipts:
            self.queues[-1].end(int(receipt))

    def renew(self, receipts: Iterable[str]) -> set[str]:
        return set()

    def release(self, delays: Mapping[str, float]) -> None:
        """Keep tasks for another attempt, which comes at the place of the first."""
        for receipt in delays:
            self.queues[-1].end(int(receipt), again=True)


@contextmanager
def queued() -> Iterator[Queue]:
    """Keep what is queued in a block, by transaction.on_commit() too, whose callbacks run at the end of the block."""
    with kept(Queue()) as queue, committed():
        yield queue


@contextmanager
def kept(queue: Queue) -> Iterator[Queue]:
    """Keep there what is queued in a block."""
    with patch.object(Conf, "BROKER_CLASS", f"{__name__}.{Broker.__name__}"):
        Broker.queues.append(queue)
        try:
            yield queue
        finally:
            Broker.queues.pop()
