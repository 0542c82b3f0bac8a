"""Hand-outs are counted beside the payload, which is never opened."""

import time

import pytest
from django_q.conf import Conf

from .conftest import Brokers
from .contract import broker_name, receipts, sizes, take, texts


@pytest.mark.parametrize("payload", ["no task at all", "bm90IGEgdGFzaw:1uCkPq:x" * 100], ids=["text", "like a task"])
def test_each_lease_that_has_run_out_counts_and_the_payload_stays_as_it_was(payload: str, brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue(payload)
    taken = [delivery for _ in range(3) for delivery in take(broker, 1)]
    assert [delivery.count for delivery in taken] == [1, 2, 3]
    assert set(texts(taken)) == {payload}


@pytest.mark.skipif(broker_name() == "sqs", reason="it counts every hand-out")
@pytest.mark.parametrize("delay", [0, 0.1])
def test_what_was_given_back_does_not_count(delay: float, brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 60)
    (broker,) = brokers()
    broker.enqueue("a task")
    counts = []
    for _ in range(3):
        (taken,) = take(broker, 1)
        counts.append(taken.count)
        broker.release({taken.receipt: delay})
    assert counts == [1, 1, 1]


@pytest.mark.skipif(broker_name() == "sqs", reason="it counts every hand-out")
@pytest.mark.parametrize("delay", [0, 0.1])
def test_what_was_counted_stays_so_when_it_is_given_back(delay: float, brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("a task")
    take(broker, 1)
    counts = []
    for _ in range(3):
        (taken,) = take(broker, 1)
        counts.append(taken.count)
        broker.release({taken.receipt: delay})
    take(broker, 1)
    assert [*counts, take(broker, 1)[0].count] == [2, 2, 2, 3]


def test_each_task_has_its_own_count(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("old")
    take(broker, 1)
    time.sleep(1.1)
    broker.enqueue("new")
    taken = take(broker, 2)
    assert {delivery.payload: delivery.count for delivery in taken} == {"old": 2, "new": 1}
    broker.acknowledge_all(receipts(taken))
    assert sizes(broker) == [0, 0]
