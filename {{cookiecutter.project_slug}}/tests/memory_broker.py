"""A broker in memory, for what cannot be made to happen on a server: an outage, a lease that is lost."""

from collections.abc import Iterable
from typing import Any

import pytest
from django.core.cache import caches
from django.utils import timezone
from django_q.signing import SignedPackage

from worker.delivery import Delivery, Leasing, Task


def a_task(name: str, **options: Any) -> Task:
    """Return a task as django-q2 queues it."""
    task = {"id": name, "name": name, "func": "math.floor", "args": (1.5,), "kwargs": {}, "started": timezone.now()}
    return task | options


class MemoryBroker(Leasing):
    """Keeps tasks by their receipts, and notes what it is asked."""

    list_key = "memory"
    ordered = forgets_returned = True

    def __init__(self) -> None:
        """Begin empty."""
        self.cache = caches["default"]
        self.waiting: dict[str, Delivery] = {}
        self.taken: dict[str, Delivery] = {}
        self.delayed: dict[str, float] = {}  #: seconds, by receipt
        self.calls: list[str] = []
        self.errors = 0  #: as many calls fail
        self.number = 0

    def answer(self, call: str) -> None:
        """Note a call, and fail if the server is away."""
        self.calls.append(call)
        if len(self.calls) > 100:
            pytest.fail("The broker is asked without end")
        if self.errors:
            self.errors -= 1
            raise ConnectionError("refused")

    def add(self, *names: str) -> None:
        """Queue tasks of these names."""
        for name in names:
            self.enqueue(SignedPackage.dumps(a_task(name)))

    def enqueue(self, payload: str, count: int = 1) -> str:
        """Add a task, which was handed out before if the count is higher than 1."""
        self.answer("enqueue")
        self.number += 1
        receipt = str(self.number)
        self.waiting[receipt] = Delivery(receipt, payload, count)
        return receipt

    def enqueue_all(self, payloads: list[str]) -> None:
        """Add tasks."""
        for payload in payloads:
            self.enqueue(payload)

    def queue_size(self) -> int:
        """Return the number of tasks that wait."""
        self.answer("queue_size")
        return len(self.waiting)

    def claim(self, limit: int) -> list[Delivery]:
        """Hand out tasks."""
        self.answer("claim")
        receipts = list(self.waiting)[:limit]
        deliveries = [self.waiting.pop(receipt) for receipt in receipts]
        self.taken |= dict(zip(receipts, deliveries, strict=True))
        return deliveries

    def idle(self, timeout: float, others: list[Any]) -> None:
        """Return at once."""

    def renew(self, receipts: Iterable[str]) -> set[str]:
        """Return which are not held any more."""
        self.answer("renew")
        return set(receipts) - set(self.taken)

    def release(self, receipts: Iterable[str], delay: float = 0.0) -> None:
        """Take tasks back."""
        self.answer("release")
        for receipt in receipts:
            self.waiting[receipt] = self.taken.pop(receipt)
            self.delayed[receipt] = delay

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        """Remove tasks."""
        self.answer("acknowledge_all")
        for receipt in receipts:
            del self.taken[receipt]
