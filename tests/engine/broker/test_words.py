"""A broker is spoken to in django-q2's words, too."""

import pytest
from django_q.brokers import get_broker
from django_q.conf import Conf

from .conftest import Brokers
from .contract import broker_name, receipts, sizes, take, texts, until


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease run out by itself."""
    monkeypatch.setattr(Conf, "RETRY", 60)


def test_the_brokers_of_django_q2_are_spoken_to_in_the_same_words(brokers: Brokers) -> None:
    (broker,) = brokers()
    for number in range(3):
        broker.enqueue(f"task {number}")
    taken: dict[str, str] = {}
    until(lambda: taken.update(broker.dequeue() or []) or len(taken) == 3, "three tasks")
    assert sorted(taken.values()) == ["task 0", "task 1", "task 2"]
    for receipt, finish in zip(taken, (broker.acknowledge, broker.fail, broker.delete), strict=True):
        finish(receipt)
    assert sizes(broker) == [0, 0]
    assert broker.ping()
    assert broker.info()
    assert get_broker().list_key != broker.list_key


@pytest.mark.skipif(broker_name() == "sqs", reason="it deletes by what a claim has returned")
def test_a_task_is_deleted_by_what_queued_it_whoever_holds_it(brokers: Brokers) -> None:
    one, two = brokers(2)
    waiting = one.enqueue("waiting")
    two.delete(waiting)
    assert sizes(one) == [0, 0]
    held = one.enqueue("held")
    take(one, 1)
    two.delete(held)
    assert sizes(one) == [0, 0]


def test_a_queue_is_emptied(brokers: Brokers) -> None:
    one, two = brokers(2)
    for number in range(3):
        one.enqueue(f"task {number}")
    taken = take(one, 1)
    two.purge_queue()
    assert sizes(two) == [0, 0]
    one.acknowledge_all(receipts(taken))
    one.enqueue("another")
    assert texts(take(two, 1)) == ["another"]
