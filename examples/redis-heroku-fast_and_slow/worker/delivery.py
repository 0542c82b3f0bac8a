"""Deliveries: what a broker hands out, and what becomes of one that cannot be run."""

import pydoc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from django.utils import timezone
from django_q.humanhash import uuid
from django_q.signing import SignedPackage

Task = dict[str, Any]  #: django-q2's package of a task: id, name, func, args, kwargs, started, …
SUSPECT_AFTER = 5  #: hand-outs of which no attempt ended, after which a task is run alone
MAX_DELIVERIES = 50  #: hand-outs of a task of which no attempt ended, after which it is set aside


@dataclass(frozen=True)
class Delivery:
    """A task that the broker has handed out, under a lease."""

    receipt: str  #: what the broker knows it by
    payload: str | bytes
    count: int = 1  #: how often it was handed out, this time included


class Leasing(Protocol):
    """What a cluster needs of a broker, beyond what django-q2 does.

    A claimed task is under a lease of `retry` seconds. Whoever lets it run out loses the task to the next claim.
    """

    list_key: str
    cache: Any
    ordered: bool  #: whether tasks are handed out in the order they came
    forgets_returned: bool  #: whether a hand-out that ended with the task given back does not count as one

    def enqueue_all(self, payloads: list[str]) -> None:
        """Add tasks, in this order and as few requests as can be; all or none where the server knows how."""

    def queue_size(self) -> int:
        """Return the number of tasks that wait."""

    def claim(self, limit: int) -> list[Delivery]:
        """Take up to so many tasks, in the order they came where the server knows it; may wait a second for one."""

    def idle(self, timeout: float, others: list[Any]) -> None:
        """Wait until a task may have come, one of the others is ready to be read, or so many seconds are over."""

    def renew(self, receipts: Iterable[str]) -> set[str]:
        """Renew leases, and return the receipts of those that were lost."""

    def release(self, receipts: Iterable[str], delay: float = 0.0) -> None:
        """Give tasks back, to be handed out after so many seconds, `retry` at most."""

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        """Remove tasks that are done."""


def brief(error: BaseException) -> str:
    """Return an error in one line: some clients write a page."""
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line[:197] + '...' if len(line) > 200 else line}"


def failed(task: Task, reason: str) -> Task:
    """Return a task as one of whom an attempt has failed."""
    return task | {"success": False, "result": reason, "stopped": timezone.now()}


def unreadable(payload: str | bytes, reason: str) -> Task:
    """Return a failed task that stands for a payload, and runs it when the admin's "resubmit" queues it again."""
    name, identity = uuid()
    now = timezone.now()
    task = {"id": identity, "name": f"unreadable-{name}"[:100], "func": run_payload, "args": (payload,), "kwargs": {}}
    return failed(task | {"started": now, "set_aside": True}, reason)


def run_payload(payload: str | bytes) -> Any:
    """Run the task of a payload that could not be read when it came.

    Raises:
        Exception: What reading or running it raises.
    """
    task = SignedPackage.loads(payload.decode() if isinstance(payload, bytes) else payload)
    function: Any = task["func"] if callable(task["func"]) else pydoc.locate(task["func"])
    if function is None:
        raise ValueError(f"Function {task['func']} is not defined")
    return function(*task["args"], **task["kwargs"])
