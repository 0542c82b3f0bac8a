"""Tasks are handed out once, in order, to many clusters, and are waited for without delay."""

import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any

import pytest
from django_q.conf import Conf

from .conftest import Brokers
from .contract import PLENTY, broker_name, in_threads, many, receipts, sizes, take, texts

MANY = many(800)


def test_tasks_are_handed_out_once_until_they_are_done(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 60)
    one, two = brokers(2)
    for number in range(3):
        one.enqueue(f"task {number}")
    assert sizes(two) == [3, 0]
    taken, others = take(one, 2), take(two, 1)
    assert sorted(texts(taken + others)) == ["task 0", "task 1", "task 2"]
    assert [delivery.count for delivery in taken + others] == [1, 1, 1]
    assert {type(receipt) for receipt in receipts(taken)} == {str}
    assert sizes(one) == [0, 3]
    assert two.claim(1, PLENTY) == []
    one.acknowledge_all(receipts(taken))
    one.acknowledge_all([])
    two.acknowledge_all(receipts(others))
    assert sizes(one) == [0, 0]


@pytest.mark.parametrize("at_once", [True, False])
def test_tasks_come_in_the_order_in_which_they_were_queued(at_once: bool, brokers: Brokers) -> None:
    (broker,) = brokers()
    payloads = [f"task {number:02}" for number in range(40)]
    if at_once:
        broker.enqueue_all(payloads)
    else:
        for payload in payloads:
            broker.enqueue(payload)
    taken: list[str] = []
    while len(taken) < 40:
        taken += texts(take(broker, min(7, 40 - len(taken))))
    assert (taken if broker_name() != "sqs" else sorted(taken)) == payloads


def test_no_more_tasks_are_taken_than_were_asked_for(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue_all([f"task {number}" for number in range(5)])
    assert len(broker.claim(2, PLENTY)) <= 2


def test_a_broker_says_what_it_keeps(brokers: Brokers) -> None:
    (broker,) = brokers()
    assert broker.transactional is (broker_name() == "orm")
    assert broker.forgets_returned is broker.can_peek is (broker_name() != "sqs")


def test_many_clusters_share_the_tasks(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 600)
    clusters = brokers(6)
    clusters[0].enqueue_all([str(number) for number in range(MANY)])
    done: list[str] = []
    end = time.monotonic() + 60

    def work(broker: Any) -> Callable[[], None]:
        def run() -> None:
            while len(done) < MANY and time.monotonic() < end:
                deliveries = broker.claim(10, PLENTY)
                broker.acknowledge_all(receipts(deliveries))
                done.extend(texts(deliveries))

        return run

    in_threads(*map(work, clusters))
    assert sorted(done, key=int) == [str(number) for number in range(MANY)]
    assert sizes(clusters[0]) == [0, 0]


def test_whoever_waits_hears_of_a_task(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 60)
    one, two = brokers(2)
    waits, heard = threading.Event(), []

    def wait() -> None:
        while not (deliveries := one.claim(1, PLENTY)):
            waits.set()
            one.idle(20, [])
        heard.extend(deliveries)

    def queue() -> float:
        waits.wait()
        two.enqueue("a task")
        return time.monotonic()

    start = time.monotonic()
    in_threads(wait, queue)
    assert texts(heard) == ["a task"]
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("news", [True, False])
def test_whoever_waits_hears_others(news: bool, brokers: Brokers) -> None:
    (broker,) = brokers()
    reader, writer = Pipe(duplex=False)
    broker.idle(0.1, [reader])  # some brokers find out at first what they can wait for
    if news:
        writer.send(None)
    start = time.monotonic()
    broker.idle(20 if news else 1, [reader])
    assert time.monotonic() - start < 15
    reader.close()
    writer.close()
