"""What is asked of a broker, and what becomes of a payload that nobody can open."""

import pydoc
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from sys import maxsize
from typing import Any, NamedTuple, Protocol

from django.core.signing import b62_decode
from django_q.conf import Conf
from django_q.signing import SignedPackage

Task = dict[str, Any]  #: django-q2's package of a task: id, name, func, args, kwargs, started, …
SUSPECT_AFTER = 5  #: hand-outs of which no attempt ended, after which a task is run alone
MAX_DELIVERIES = 50  #: hand-outs of a task of which no attempt ended, after which it is set aside


@dataclass(frozen=True, slots=True)
class Delivery:
    """A task that the broker has handed out, under a lease."""

    receipt: str  #: what the broker knows it by
    payload: str
    count: int = 1  #: how often it was handed out, this time included
    again: bool = False  #: whether it may have been handed out before: something may be saved of it
    due: bool = False  #: whether that, or it was delayed: it comes before what waits


class Depth(NamedTuple):
    """How much is in a queue."""

    waiting: int  #: that may be taken now, those included whose lease has run out
    due: int  #: that may be taken later: delayed, or between two attempts
    taken: int  #: that clusters hold
    oldest: float | None  #: since when the oldest waiting one may be taken; None if none waits, or it cannot be told


class Leasing(Protocol):
    """What is asked of a broker, beyond what django-q2 does.

    A claimed task is under a lease of `retry` seconds. Whoever lets it run out loses the task to the next claim, and
    from then on can do nothing to it: renew(), release() and acknowledge_all() leave alone what is another's.

    Threads of one process call these methods at the same time.
    """

    cluster: str  #: whose queue it is
    list_key: str
    cache: Any
    away: tuple[type[Exception], ...]  #: errors of the client when the server does not answer
    errors: tuple[type[Exception], ...]  #: all of the client; may be left out, as those of the database are
    forgets_returned: bool  #: whether a hand-out that ended with the task given back does not count as one
    can_peek: bool  #: whether peek() and payloads() can be asked, and remove() finds anything
    publishes: bool  #: whether its client announces changes to all who listen; may be left out if not
    transactional: bool  #: whether enqueue() is part of the transaction of the database that holds the schedules

    def check_settings(self) -> Any:
        """Raise an ImproperlyConfigured for what can never work; asks no server, and needs no instance."""

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        """Return the client, which has asked no server yet."""

    def ping(self) -> Any:
        """Ask the server for an answer; raises what its client raises."""

    @staticmethod
    def will_pass(error: BaseException) -> bool:
        """Say whether an error is that of a server that answers, and takes nothing more for a while."""

    def enqueue(self, payload: str, after: datetime | None = None) -> Any:
        """Add a task, to be taken when the server's clock shows a time, and return its receipt as a text is made of it.

        It is not added twice if the connection breaks; then it raises, and may have been added.
        """

    def receipt_of(self, receipt: str) -> str:
        """Return what enqueue() has returned for what claim() gives this receipt."""

    def peek(self, receipt: str) -> str | None:
        """Return the payload of a task that is in the queue, whoever holds it, by what enqueue() has returned."""

    def enqueue_all(self, payloads: list[str], after: datetime | None = None) -> None:
        """Add tasks, in this order and as few requests as can be; all or none where the server knows how."""

    def payloads(self, most: int) -> Iterator[tuple[str, str]]:
        """Yield up to so many tasks of the queue, whoever holds them, the oldest first.

        Each is what enqueue() has returned as a text, and the payload; a few at a time are kept in memory.
        """

    def depth(self, most: int | None = None) -> Depth:
        """Return how much is in the queue; a count may end at `most`, where the server counts one by one."""

    def remove(self, receipt: str) -> bool:
        """Take out a task that nobody holds, by what enqueue() has returned; return whether it was there, and free."""

    def purge(self) -> int:
        """Take out all that nobody holds, waiting and delayed, and return how many."""

    def queue_size(self) -> int:
        """Return the number of tasks that may be taken now; lock_size() those that are taken, or not due yet."""

    def set_stat(self, key: str, value: str, timeout: int) -> Any:
        """Show a cluster's state to django-q2's commands for so many seconds."""

    def claim(self, limit: int, size: int) -> list[Delivery]:
        """Take up to so many tasks, first those that are due or whose lease has run out; may wait a second for one.

        They come in the order of these times, and the others in that in which they were queued, where it is known.

        Their payloads have no more than `size` bytes together, unless the first one alone has more.
        """

    def idle(self, timeout: float, others: list[Any]) -> None:
        """Wait until a task may have come or be due, one of the others is ready to be read, or the time is over."""

    def renew(self, receipts: Iterable[str]) -> set[str]:
        """Renew leases, and return the receipts of those that were lost."""

    def release(self, delays: Mapping[str, float]) -> None:
        """Give tasks back, each to be handed out after so many seconds."""

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        """Remove tasks that are done."""


class Adapter:
    """What django-q2 asks of a broker, in the words of Leasing: the same for all."""

    @staticmethod
    def will_pass(error: BaseException) -> bool:
        return False

    def dequeue(self: Leasing) -> list[tuple[str, str | bytes]]:
        return [(delivery.receipt, delivery.payload) for delivery in self.claim(Conf.BULK, maxsize)]

    def acknowledge(self: Leasing, task_id: str) -> None:
        self.acknowledge_all([task_id])

    fail = acknowledge

    def queue_size(self: Leasing) -> int:
        return self.depth().waiting

    def lock_size(self: Leasing) -> int:
        depth = self.depth()
        return depth.due + depth.taken


def brief(error: BaseException) -> str:
    """Return an error in one line, without what stands before the @ of a URL.

    Some clients write a page, and some errors cannot even be printed.
    """
    try:
        line = re.sub(r"://\S*@", "://…@", str(error).strip().partition("\n")[0])
    except Exception:  # whatever a class's own __str__ raises
        line = "its text cannot be read"
    return f"{type(error).__name__}: {line[:197] + '...' if len(line) > 200 else line}"


def signed_at(payload: str) -> float | None:
    """Return when a payload was signed, which is not opened for it; None if it does not say so."""
    time = payload.rpartition(":")[0].rpartition(":")[2]
    return float(b62_decode(time)) if re.fullmatch("[0-9A-Za-z]{6}", time) else None  # from 1999 to 3769


def run_payload(payload: str | bytes) -> Any:
    """Run the task of a payload that could not be opened when it came: what the admin's "resubmit" queues again."""
    task = SignedPackage.loads(payload.decode() if isinstance(payload, bytes) else payload)
    function: Any = task["func"] if callable(task["func"]) else pydoc.locate(task["func"])
    if function is None:
        raise ValueError(f"Function {task['func']} is not defined")
    return function(*task["args"], **task["kwargs"])
