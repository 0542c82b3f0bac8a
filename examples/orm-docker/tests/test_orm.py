"""What is particular to a queue in the project's own database."""

import pytest
from django.db import connections
from django_q.brokers.orm import ORM
from django_q.conf import Conf

from tests.test_broker import ask
from worker import broker


def test_a_task_that_is_given_back_is_not_counted_as_one_whose_cluster_died(environment: dict[str, str]) -> None:
    code = """
from django_q.signing import SignedPackage
(broker,) = brokers("count", 1)
broker.enqueue(SignedPackage.dumps({"id": "a task"}))
counts = []
for delay in (0, 0.1, 0.1, 0):
    taken = take(broker, 1)
    counts.append(taken[0].count)
    broker.release(receipts(taken), delay=delay)
answer(counts)
"""
    assert ask(code, environment) == [[1, 1, 1, 1]]


@pytest.mark.django_db
def test_a_connection_is_looked_at_now_and_then_not_for_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str | None] = []
    monkeypatch.setattr(ORM, "get_connection", looks.append)
    monkeypatch.setattr(broker.looked, "at", 0.0, raising=False)
    for expected in (1, 1):
        broker.Broker.get_connection()
        assert len(looks) == expected
    broker.looked.at -= 2 * broker.LOOK_EVERY
    broker.Broker.get_connection()
    assert len(looks) == 2
    monkeypatch.setattr(connections[Conf.ORM], "errors_occurred", True)
    broker.Broker.get_connection()
    assert len(looks) == 3
