"""The monitor: what is saved, what is given back for another attempt, and what an absent server holds up."""

import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import OperationalError
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Task as Row
from django_q.signals import post_execute
from django_q.signing import SignedPackage

from tests.memory_broker import MemoryBroker, a_task
from worker.delivery import Task
from worker.monitor import Monitor
from worker.pipes import CONTEXT, Board, Results

pytestmark = pytest.mark.django_db


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Provide the monitor's broker; no try waits for the next one."""
    broker = MemoryBroker()
    monkeypatch.setattr("worker.monitor.get_broker", lambda: broker)
    monkeypatch.setattr(time, "sleep", Mock(side_effect=[None] * 9))  # rather an error than a test without end
    return broker


@pytest.fixture
def monitor(broker: MemoryBroker) -> Iterator[Monitor]:
    """Provide a monitor, whose news nobody reads."""
    reader, news = CONTEXT.Pipe(duplex=False)
    yield Monitor(Results(), Board(1), news)
    reader.close()


def ended(broker: MemoryBroker, name: str, result: object = 1, *, success: bool = True, **options: Any) -> Task:
    """Return a task that was claimed, and has run."""
    broker.add(name)
    (delivery,) = broker.claim(1)
    ends = {"result": result, "success": success, "stopped": timezone.now()}
    return a_task(name, ack_id=delivery.receipt, ticket=int(delivery.receipt), **ends, **options)


def rows() -> dict[str, object]:
    """Return the results by the names of their tasks."""
    return dict(Row.objects.values_list("name", "result"))


def test_a_batch_is_saved_and_then_acknowledged(broker: MemoryBroker, monitor: Monitor) -> None:
    batch = [ended(broker, "one"), ended(broker, "two", 2)]
    monitor.settle(batch)
    assert rows() == {"one": 1, "two": 2}
    assert broker.taken == {}


def test_receipts_are_sent_until_the_broker_takes_them(
    broker: MemoryBroker, monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    task = ended(broker, "one")
    broker.errors = 2
    monitor.settle([task])
    assert broker.taken == {}
    assert caplog.text.count("Could not send receipts (ConnectionError: refused); next try in") == 2


def test_nothing_is_acknowledged_before_the_database_has_it(
    broker: MemoryBroker, monitor: Monitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task, save, errors = ended(broker, "one"), monitor.save, [OperationalError("gone"), OperationalError("gone")]

    def save_later(tasks: dict[str, Task]) -> list[Row]:
        assert broker.taken
        if errors:
            raise errors.pop()
        return save(tasks)

    monkeypatch.setattr(monitor, "save", save_later)
    monitor.settle([task])
    assert (rows(), broker.taken) == ({"one": 1}, {})
    assert caplog.text.count("Could not save results (OperationalError: gone); next try in") == 2


def test_a_result_that_the_database_refuses_becomes_a_failure_and_others_are_saved(
    broker: MemoryBroker, monitor: Monitor
) -> None:
    batch = [ended(broker, "one"), ended(broker, "two", args=[lambda: None]), ended(broker, "three", 3)]
    monitor.settle(batch)
    found = rows()
    assert str(found.pop("two")).startswith("The result cannot be saved: ")
    assert found == {"one": 1, "three": 3}
    assert broker.taken == {}


def test_a_failure_is_tried_again_after_a_lease_until_it_has_had_all_attempts(
    broker: MemoryBroker, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conf, "MAX_ATTEMPTS", 2)
    for cached in (False, 60):
        task = ended(broker, "one", "an error", success=False, cached=cached, id=f"cached-{cached}")
        monitor.settle([task])
        assert broker.delayed == {task["ack_id"]: Conf.RETRY}
        broker.claim(1)
        monitor.settle([task])
        assert (broker.taken, broker.waiting) == ({}, {})
        broker.delayed.clear()


def test_a_success_after_a_failure_takes_its_place(broker: MemoryBroker, monitor: Monitor) -> None:
    task = ended(broker, "one", "an error", success=False)
    monitor.settle([task])
    broker.claim(1)
    monitor.settle([task | {"success": True, "result": 1}])
    row = Row.objects.get()
    assert (row.success, row.result, row.attempt_count) == (True, 1, 2)


@pytest.mark.parametrize(("success", "queued"), [(True, 1), (False, 0)])
def test_the_next_of_a_chain_is_queued_when_a_task_needs_no_further_attempt(
    success: bool, queued: int, broker: MemoryBroker, monitor: Monitor
) -> None:
    options = {"chain": [("math.floor", (2.5,))], "group": "a chain", "cached": False, "sync": False}
    monitor.settle([ended(broker, "one", success=success, **options)])
    following = [delivery for delivery in broker.waiting.values() if delivery.receipt not in broker.delayed]
    assert [SignedPackage.loads(delivery.payload)["args"] for delivery in following] == [(2.5,)] * queued


@pytest.mark.parametrize(("per", "kept"), [(None, {"b2", "b3"}), ("group", {"a1", "b2", "b3"}), ("func", {"b2", "b3"})])
def test_old_successes_are_deleted(
    per: str | None, kept: set[str], broker: MemoryBroker, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conf, "SAVE_LIMIT", 2)
    monkeypatch.setattr(Conf, "SAVE_LIMIT_PER", per)
    monitor.settle([ended(broker, name, group=name[0]) for name in ("a1", "b1", "b2", "b3")])
    monitor.prune()
    assert rows().keys() == kept


def test_a_receiver_that_fails_holds_nothing_up(
    broker: MemoryBroker, monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def fail(task: Task, **kwargs: Any) -> None:
        heard.append(task["name"])
        raise RuntimeError("a receiver's own")

    post_execute.connect(fail)
    try:
        monitor.settle([ended(broker, "one"), ended(broker, "two")])
    finally:
        post_execute.disconnect(fail)
    assert heard == ["one", "two"]
    assert caplog.text.count("RuntimeError: a receiver's own") == 2
