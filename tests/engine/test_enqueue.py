"""Many tasks at once: one request to the broker, and for the rest what async_task() does for each."""

import logging
from typing import Any

import pytest
from django.core.cache import caches
from django_q.signals import pre_enqueue
from django_q.signing import SignedPackage
from worker.enqueue import enqueue_many


class Counting:
    """Stands in for the broker, and keeps what comes with each request."""

    list_key = "memory"

    def __init__(self) -> None:
        """Begin with none."""
        self.cache = caches["default"]
        self.requests: list[list[str]] = []

    def enqueue_all(self, payloads: list[str]) -> None:
        """Keep it."""
        self.requests.append(payloads)


@pytest.fixture
def broker() -> Counting:
    """Provide a broker."""
    return Counting()


def test_tasks_keep_their_order_options_and_signals(broker: Counting, caplog: pytest.LogCaptureFixture) -> None:
    announced = []

    def receiver(task: Any, **_: Any) -> None:
        announced.append(task["id"])

    pre_enqueue.connect(receiver)
    try:
        with caplog.at_level(logging.INFO, "django-q"):
            ids = enqueue_many("math.pow", ((2, number) for number in range(3)), broker=broker, group="powers", more=1)
    finally:
        pre_enqueue.disconnect(receiver)
    (payloads,) = broker.requests
    tasks = [SignedPackage.loads(payload) for payload in payloads]
    assert [(task["id"], task["args"]) for task in tasks] == [(ids[number], (2, number)) for number in range(3)]
    assert all((task["group"], task["kwargs"]) == ("powers", {"more": 1}) for task in tasks)
    assert announced == ids
    assert [record.getMessage() for record in caplog.records] == ["Enqueued [memory] 3 tasks"]


def test_nothing_is_sent_if_one_task_cannot_be_pickled(broker: Counting) -> None:
    with pytest.raises(Exception, match="lambda"):
        enqueue_many("math.floor", [(1,), (lambda: 1,)], broker=broker)
    assert not broker.requests


def test_no_task_is_no_request(broker: Counting) -> None:
    assert enqueue_many("math.floor", [], broker=broker) == []
    assert not broker.requests


@pytest.mark.django_db
def test_tasks_that_are_to_run_here_are_not_sent(broker: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_q.monitor.get_broker", lambda: broker)  # it saves the result, here too
    assert len(enqueue_many("math.floor", [(1.5,)], broker=broker, sync=True)) == 1
    assert not broker.requests
