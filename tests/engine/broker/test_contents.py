"""Whoever looks after a queue sees how much is in it, and takes out what nobody holds."""

import random
import time
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest
from django.conf import settings
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.signing import SignedPackage
from worker.delivery import Delivery, Depth

from .conftest import Brokers
from .contract import PLENTY, broker_name, in_threads, many, receipts, sizes, take, texts, until

FAR = 3600
unlike_sqs = pytest.mark.skipif(broker_name() == "sqs", reason="it deletes only what it has handed out")


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease run out by itself."""
    monkeypatch.setattr(Conf, "RETRY", 60)


def within(seconds: float) -> datetime:
    """Return the time in so many seconds."""
    return datetime.fromtimestamp(time.time() + seconds, UTC if settings.USE_TZ else None)


def fill(broker: Any) -> tuple[list[str], list[Delivery]]:
    """Add tasks of each kind; return the receipts of those that are free, waiting ones first, and what is held."""
    first = [str(broker.enqueue("held")), str(broker.enqueue("a retry")), str(broker.enqueue("given back"))]
    taken = {delivery.payload: delivery for delivery in take(broker, 3)}
    broker.release({taken["a retry"].receipt: FAR, taken["given back"].receipt: 0})
    waiting = [first[2], str(broker.enqueue("waiting")), str(broker.enqueue("waiting, too"))]
    return [*waiting, first[1], str(broker.enqueue("delayed", within(FAR)))], [taken["held"]]


def rest(broker: Any) -> list[str]:
    """Return the payloads that can be claimed."""
    found: list[str] = []
    while claimed := broker.claim(100, PLENTY):
        found += texts(claimed)
    return found


def test_a_queue_that_is_empty_has_no_depth(brokers: Brokers) -> None:
    (broker,) = brokers()
    assert broker.depth() == Depth(0, 0, 0, None)
    assert broker.purge() == 0


def test_the_depth_tells_what_waits_what_is_due_later_and_what_is_held(brokers: Brokers) -> None:
    one, two = brokers(2)
    fill(one)
    expected = [3, 1, 2] if broker_name() == "sqs" else [3, 2, 1]  # which hides a retry as it hides what is held
    until(lambda: list(two.depth()[:3]) == expected, f"{expected}")
    assert list(two.depth(100)[:3]) == expected
    assert sizes(two) == [3, 3]


def test_a_count_may_end_but_never_below_its_limit(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue_all(["a task"] * 30)
    broker.enqueue_all(["delayed"] * 12, within(FAR))
    until(lambda: sum(broker.depth()[:2]) == 42, "all of them")
    waiting, due, taken, _ = broker.depth(10)
    assert 10 <= waiting <= 30
    assert 10 <= due <= 12
    assert taken == 0


@unlike_sqs
def test_the_oldest_waits_since_it_was_queued(brokers: Brokers) -> None:
    (broker,) = brokers()
    begin = time.time()
    broker.enqueue(SignedPackage.dumps({"id": 1}))
    time.sleep(1.5)
    broker.enqueue(SignedPackage.dumps({"id": 2}))
    assert broker.depth().oldest == pytest.approx(begin, abs=1.2)
    (first,) = take(broker, 1)
    assert broker.depth().oldest == pytest.approx(begin + 1.5, abs=1.2)
    broker.acknowledge_all([first.receipt])
    take(broker, 1)
    assert broker.depth() == Depth(0, 0, 1, None)


@unlike_sqs
@pytest.mark.parametrize("retry", [False, True], ids=["delayed", "retry"])
def test_what_was_delayed_waits_since_it_was_due(retry: bool, brokers: Brokers) -> None:
    (broker,) = brokers()
    if retry:
        broker.enqueue(SignedPackage.dumps({}))
        taken = receipts(take(broker, 1))
        due = time.time() + 0.5
        broker.release(dict.fromkeys(taken, 0.5))
    else:
        due = time.time() - 1000
        broker.enqueue(SignedPackage.dumps({}), within(-1000))
    depth: Depth = until(lambda: (found := broker.depth()).waiting and found, "one that waits")
    assert depth.oldest == pytest.approx(due, abs=0.2)


def test_a_lease_that_has_run_out_waits_since_then(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 1)
    one, two = brokers(2)
    one.enqueue("a task")
    take(one, 1)
    end = time.time() + 1
    depth: Depth = until(lambda: (found := two.depth()).waiting and found, "one that waits")
    assert depth[:3] == (1, 0, 0)
    if broker_name() != "sqs":
        assert depth.oldest == pytest.approx(end, abs=0.3)


@unlike_sqs
def test_what_nobody_holds_is_taken_out_once(brokers: Brokers) -> None:
    one, two = brokers(2)
    free, held = fill(one)
    assert [two.remove(receipt) for receipt in free] == [True] * 5
    assert [two.remove(receipt) for receipt in free] == [False] * 5
    assert two.depth() == Depth(0, 0, 1, None)
    assert one.renew(receipts(held)) == set()
    assert not rest(two)


@unlike_sqs
def test_what_is_held_is_not_taken_out_and_its_holder_goes_on(brokers: Brokers) -> None:
    one, two = brokers(2)
    _, (held,) = fill(one)
    assert not two.remove(two.receipt_of(held.receipt))
    assert not one.remove(one.receipt_of(held.receipt))
    assert one.renew([held.receipt]) == set()
    one.release({held.receipt: 0})
    assert two.remove(two.receipt_of(held.receipt))
    one.acknowledge_all([held.receipt])  # it is gone, and this comes late
    assert two.depth()[:3] == (3, 2, 0)


@unlike_sqs
def test_others_come_in_their_order_past_what_was_taken_out(brokers: Brokers) -> None:
    one, two = brokers(2)
    queued = [str(one.enqueue(f"task {number}")) for number in range(6)]
    take(one, 1)
    assert all(two.remove(queued[number]) for number in (1, 3, 5))
    assert two.depth()[:3] == (2, 0, 1)
    one.enqueue("task 6")
    assert rest(two) == ["task 2", "task 4", "task 6"]


@unlike_sqs
def test_a_lease_that_has_run_out_is_taken_out_and_lost(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 1)
    one, two = brokers(2)
    queued = str(one.enqueue("a task"))
    former = receipts(take(one, 1))
    assert not two.remove(queued)
    until(lambda: two.depth().waiting, "the end of its lease")
    assert two.remove(queued)
    assert one.renew(former) == set(former)
    one.release(dict.fromkeys(former, 0))
    assert two.depth() == Depth(0, 0, 0, None)


@pytest.mark.parametrize("receipt", ["", "x", "0", "7" * 18, "1-1", "1-1+", "a" * 24, "'; --", "²"])
def test_what_is_no_receipt_takes_out_nothing(receipt: str, brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("a task")
    assert not broker.remove(receipt)
    assert texts(take(broker, 1)) == ["a task"]


@unlike_sqs
def test_what_is_in_another_queue_stays(brokers: Brokers) -> None:
    (broker,) = brokers()
    other = get_broker(f"{broker.cluster}-other")
    broker.enqueue("a task")
    queued = [str(other.enqueue("its task")), str(other.enqueue("its delayed task", within(FAR)))]
    broker.purge()
    assert not any(broker.remove(receipt) for receipt in queued)
    assert list(broker.payloads(10)) == []
    assert other.depth()[:3] == (1, 1, 0)
    other.delete_queue()


@unlike_sqs
def test_a_task_is_either_taken_out_or_run(brokers: Brokers) -> None:
    clusters = brokers(20)
    number = many(600)
    queued = {str(clusters[0].enqueue(str(index))): str(index) for index in range(number)}
    removed: list[str] = []
    claimed: list[Delivery] = []

    def remove(broker: Any) -> None:
        for receipt in random.sample(sorted(queued), number // 4):
            if broker.remove(receipt):
                removed.append(queued[receipt])

    def claim(broker: Any) -> None:
        while broker.depth().waiting:
            found = broker.claim(5, PLENTY)
            kept = [delivery for delivery in found if delivery.again or int(delivery.payload) % 10]
            claimed.extend(kept)
            broker.release(dict.fromkeys(set(receipts(found)) - set(receipts(kept)), 0))
            assert not broker.renew(receipts(kept))

    in_threads(
        *(lambda b=broker: remove(b) for broker in clusters[:10]),
        *(lambda b=broker: claim(b) for broker in clusters[10:]),
    )
    assert sorted([*removed, *texts(claimed)], key=int) == sorted(queued.values(), key=int)
    assert removed
    assert claimed
    assert clusters[0].depth() == Depth(0, 0, len(claimed), None)


def test_all_is_taken_out_that_nobody_holds(brokers: Brokers) -> None:
    one, two = brokers(2)
    _, held = fill(one)
    until(lambda: two.depth().waiting == 3, "those that wait")
    assert two.purge() == (4 if broker_name() == "sqs" else 5)
    if broker_name() == "sqs":  # PurgeQueue spares nothing
        until(lambda: two.depth()[:3] == (0, 0, 0), "an empty queue")
    else:
        assert two.depth() == Depth(0, 0, 1, None)
        assert one.renew(receipts(held)) == set()
        assert two.purge() == 0
        one.acknowledge_all(receipts(held))
        assert two.depth() == Depth(0, 0, 0, None)
    one.enqueue("another")
    assert rest(two) == ["another"]


@unlike_sqs
def test_a_queue_can_be_emptied_while_clusters_claim(brokers: Brokers) -> None:
    clusters = brokers(8)
    number = many(2000)
    clusters[0].enqueue_all([str(index) for index in range(number)])
    clusters[0].enqueue_all(["delayed"] * 10, within(FAR))
    claimed: list[Delivery] = []

    def claim(broker: Any) -> None:
        while broker.depth().waiting:
            found = broker.claim(3, PLENTY)
            claimed.extend(found)
            assert not broker.renew(receipts(found))

    purged = sum(
        filter(
            None,
            in_threads(
                *(broker.purge for broker in clusters[:2]), *(lambda b=broker: claim(b) for broker in clusters[2:])
            ),
        )
    )
    assert len(set(texts(claimed))) == len(claimed) == number + 10 - purged
    assert clusters[0].depth() == Depth(0, 0, len(claimed), None)


def test_tasks_can_be_looked_at_in_their_order_whoever_holds_them(brokers: Brokers) -> None:
    one, two = brokers(2)
    free, held = fill(one)
    found = list(two.payloads(100))
    if broker_name() == "sqs":
        assert found == []
        return
    assert [payload for _, payload in found] == ["held", "a retry", "given back", "waiting", "waiting, too", "delayed"]
    assert {receipt for receipt, _ in found} == {*free, two.receipt_of(held[0].receipt)}
    assert {receipt: two.peek(receipt) for receipt, _ in found} == dict(found)
    assert list(two.payloads(4)) == found[:4]
    assert list(two.payloads(0)) == []


@unlike_sqs
def test_tasks_that_are_large_are_looked_at_a_few_at_a_time(brokers: Brokers) -> None:
    (broker,) = brokers()
    large = [f"{number}" + "x" * 3_000_000 for number in range(5)]
    small = [f"small {number}" for number in range(25)]
    for payload in large:
        broker.enqueue(payload)
    broker.enqueue_all(small)
    assert broker.depth().waiting == 30
    assert [payload for _, payload in broker.payloads(100)] == large + small
    queued = [receipt for receipt, _ in islice(broker.payloads(100), 2)]
    assert all(map(broker.remove, queued))
    assert broker.purge() == 28


@unlike_sqs
def test_many_can_be_looked_at(brokers: Brokers) -> None:
    (broker,) = brokers()
    number = many(2500)
    broker.enqueue_all([str(index) for index in range(number)])
    assert [payload for _, payload in broker.payloads(number - 10)] == [str(index) for index in range(number - 10)]
    assert broker.purge() == number
