"""Delays of any length end on time: of what is queued for later, and of what is given back."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings
from django_q.conf import Conf
from worker.delivery import Delivery

from .conftest import Brokers
from .contract import PLENTY, broker_name, in_threads, many, receipts, sizes, take, texts, until

MANY = many(1000)
LATE = 9.0  #: seconds: less than LOOK_EVERY here, or a long poll, after which whoever has missed a delay would see it
WEEKS = 3 * 7 * 24 * 3600


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease run out by itself."""
    monkeypatch.setattr(Conf, "RETRY", 60)


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look for what is due without a reason."""
    monkeypatch.setattr("worker.broker.broker.LOOK_EVERY", 20, raising=False)


def at(moment: float) -> datetime:
    """Return a time as it is given to the broker."""
    return datetime.fromtimestamp(moment, UTC if settings.USE_TZ else None)


def within(seconds: float) -> datetime:
    """Return the time in so many seconds."""
    return at(time.time() + seconds)


def wait_for(broker: Any, number: int) -> list[tuple[float, Delivery]]:
    """Claim so many tasks as the agent does, and return when each has come."""
    taken: list[tuple[float, Delivery]] = []

    def enough() -> bool:
        found = broker.claim(100, PLENTY)
        taken.extend((time.time(), delivery) for delivery in found)
        if not found:
            broker.idle(20, [])
        return len(taken) >= number

    until(enough, f"{number} tasks")
    return taken


def check(taken: list[tuple[float, Delivery]], due: dict[str, float]) -> None:
    """Look whether each has come at its time."""
    late = [moment - due[delivery.payload] for moment, delivery in taken]
    assert min(late) >= 0
    assert max(late) < LATE


@pytest.mark.usefixtures("seldom")
@pytest.mark.parametrize("backlog", [0, 2 * MANY])
def test_each_of_a_thousand_is_taken_at_its_time_whatever_waits(backlog: int, brokers: Brokers) -> None:
    one, two = brokers(2)
    if backlog:
        one.enqueue_all([f"waiting {number}" for number in range(backlog)])
    begin, step = time.time() + (15 if broker_name() == "sqs" else 5), max(1, MANY // 20)
    due: dict[str, float] = {}
    for start in range(0, MANY, step):
        payloads = [f"task {number}" for number in range(start, start + step)]
        due |= dict.fromkeys(payloads, begin + start / MANY)
        one.enqueue_all(payloads, at(begin + start / MANY))
    assert time.time() < begin, "queuing took too long for this test"
    claimed: list[tuple[float, Delivery]] = []
    if backlog:
        take(two, 10)
        time.sleep(begin - time.time())
    while len(claimed) < len(due):
        claimed += [(moment, each) for moment, each in wait_for(two, 1) if each.payload in due]
    assert {each.count for _, each in claimed} == {1}
    check(claimed, due)
    assert {each.payload for _, each in claimed} == due.keys()
    if broker_name() != "sqs":
        order = [due[each.payload] for _, each in claimed]
        assert order == sorted(order)


@pytest.mark.usefixtures("seldom")
def test_each_retry_is_taken_at_its_time_by_whichever_cluster(brokers: Brokers) -> None:
    one, two = brokers(2)
    number = MANY // 5
    one.enqueue_all([f"task {index}" for index in range(number)])
    taken = take(one, number)
    start, due = time.time(), {}
    delays = {}
    for index, delivery in enumerate(reversed(taken)):
        delays[delivery.receipt] = 1.5 + index / number
        due[delivery.payload] = start + delays[delivery.receipt]
    one.release(delays)
    again = wait_for(two, number)
    check(again, due)
    assert {each.again for _, each in again} == {True}
    if broker_name() in {"orm", "redis"}:  # the others' receipts name the claim
        assert sorted(each.receipt for _, each in again) == sorted(receipts(taken))
    if broker_name() != "sqs":
        order = [due[each.payload] for _, each in again]
        assert order == sorted(order)


@pytest.mark.usefixtures("seldom")
@pytest.mark.parametrize("delayed", [False, True], ids=["first", "retry"])
def test_whoever_waits_hears_of_a_delay_that_ends_before(delayed: bool, brokers: Brokers) -> None:
    one, two = brokers(2)
    held: list[str] = []
    if delayed:
        one.enqueue("a task")
        held = receipts(take(one, 1))
    assert two.claim(1, PLENTY) == []
    two.idle(0.01, [])  # some brokers find out at first what they can wait for
    due: dict[str, float] = {}

    def wait() -> list[tuple[float, Delivery]]:
        return wait_for(two, 1)

    def delay() -> None:
        time.sleep(0.5)
        due["a task"] = time.time() + 1.2
        one.release(dict.fromkeys(held, 1.2)) if delayed else one.enqueue("a task", at(due["a task"]))

    taken, _ = in_threads(wait, delay)
    check(taken, due)


def test_what_was_delayed_comes_first_and_only_what_was_taken_may_have_something_saved(brokers: Brokers) -> None:
    one, two = brokers(2)
    soon = within(1.5)
    one.enqueue_all(["first", "kept"], soon)
    one.enqueue("new")
    new = take(two, 1)
    assert [(each.payload, each.again, each.due) for each in new] == [("new", False, False)]
    time.sleep(max(0.0, soon.timestamp() - time.time()))
    taken = take(two, 2)
    assert sorted((each.payload, each.count, each.again, each.due) for each in taken) == [
        ("first", 1, False, True),
        ("kept", 1, False, True),
    ]
    one.enqueue("newer")
    two.release({taken[0].receipt: 0.0, taken[1].receipt: 0.5, new[0].receipt: 0.0})
    back = [*take(one, 3), *(each for _, each in wait_for(one, 1))]
    known = {each.payload: (each.again, each.due) for each in back}
    assert known == {"first": (True, True), "kept": (True, True), "new": (True, True), "newer": (False, False)}
    if broker_name() != "sqs":
        assert [each.payload for each in back[2:]] == ["newer", taken[1].payload], "what came back is not first"


@pytest.mark.usefixtures("seldom")
def test_a_delay_outlives_whoever_knows_of_it(brokers: Brokers) -> None:
    (one,) = brokers()
    due = {"first": time.time() + 2.5, "retry": time.time() + 2.5}
    one.enqueue("retry")
    held = receipts(take(one, 1))
    one.enqueue("first", at(due["first"]))
    one.release(dict.fromkeys(held, due["retry"] - time.time()))
    assert broker_name() == "sqs" or one.claim(1, PLENTY) == []
    (two,) = brokers()
    again = wait_for(two, 2)
    check(again, due)
    assert [each.again for _, each in again if each.payload == "retry"] == [True]


def test_what_was_due_long_ago_is_taken_at_once_before_what_waits(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("waiting")
    for number, seconds in enumerate([-WEEKS, -10, 0]):
        broker.enqueue(f"due {number}", within(seconds))
    until(lambda: broker.queue_size() == 4, "the last of them")
    taken = texts(take(broker, 4))
    assert (taken if broker_name() != "sqs" else sorted(taken)) == ["due 0", "due 1", "due 2", "waiting"]


def test_a_negative_delay_is_none(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("a task")
    broker.release(dict.fromkeys(receipts(take(broker, 1)), -5))
    assert texts(take(broker, 1)) == ["a task"]


def test_what_is_not_due_counts_as_what_is_held(brokers: Brokers) -> None:
    one, two = brokers(2)
    one.enqueue("a retry")
    one.release(dict.fromkeys(receipts(take(one, 1)), 40))
    one.enqueue("next month", within(WEEKS))
    one.enqueue_all(["tomorrow", "tomorrow, too"], within(24 * 3600))
    one.enqueue("waiting")
    until(lambda: sizes(two) == [1, 4], "one that waits, four that are held")
    assert texts(take(two, 1)) == ["waiting"]
    assert two.claim(1, PLENTY) == []
    assert sizes(one) == [0, 5]


def test_tasks_that_are_queued_together_are_due_together(brokers: Brokers) -> None:
    (broker,) = brokers()
    payloads = [f"task {number:02}" for number in range(25)]
    moment = time.time() + 2
    broker.enqueue_all(payloads, at(moment))
    taken = wait_for(broker, 25)
    check(taken, dict.fromkeys(payloads, moment))
    found = [each.payload for _, each in taken]
    assert (found if broker_name() != "sqs" else sorted(found)) == payloads


def test_a_retry_is_no_death(brokers: Brokers) -> None:
    (broker,) = brokers()
    if broker_name() == "sqs":
        pytest.skip("it counts every hand-out")
    broker.enqueue("first", within(0.1))
    broker.enqueue("second")
    for _ in range(10):
        taken = take(broker, 2)
        assert [delivery.count for delivery in taken] == [1, 1]
        broker.release(dict.fromkeys(receipts(taken), 0.05))
    assert [delivery.count for delivery in take(broker, 2)] == [1, 1]


@pytest.mark.parametrize("first", [True, False])
def test_a_task_whose_cluster_dies_once_it_was_due_is_taken_again(
    first: bool, brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conf, "RETRY", 1)
    one, two = brokers(2)
    one.enqueue("a task", within(0.5) if first else None)
    if not first:
        one.release(dict.fromkeys(receipts(take(one, 1)), 0.5))
    former = take(one, 1)
    later = take(two, 1)
    assert later[0].again
    assert later[0].count == former[0].count + 1
    assert broker_name() == "sqs" or former[0].count == 1
    monkeypatch.setattr(Conf, "RETRY", 60)
    assert two.renew(receipts(later)) == set()
    one.release(dict.fromkeys(receipts(former), 0))  # it is another's, and this comes late
    one.acknowledge_all(receipts(former))
    assert one.claim(1, PLENTY) == []
    assert two.renew(receipts(later)) == set()
    assert sizes(two) == [0, 1]
    two.acknowledge_all(receipts(later))
    assert sizes(two) == [0, 0]


def test_what_is_not_due_cannot_be_given_back_or_removed_by_who_held_it(brokers: Brokers) -> None:
    one, two = brokers(2)
    one.enqueue("a task")
    held = receipts(take(one, 1))
    start = time.time()
    one.release(dict.fromkeys(held, 1.5))
    actions: list[Callable[[Any], Any]] = [one.acknowledge_all, one.release]
    for action in actions:
        action(dict.fromkeys(held, 0))
    assert one.renew(held) == set(held)
    check(wait_for(two, 1), {"a task": start + 1.5})


@pytest.mark.skipif(broker_name() == "sqs", reason="it deletes by what a claim has returned")
def test_what_is_not_due_can_be_deleted(brokers: Brokers) -> None:
    one, two = brokers(2)
    waiting = one.enqueue("a task", within(0.5))
    assert two.peek(str(waiting))
    one.delete(str(waiting))
    assert not two.peek(str(waiting))
    one.enqueue("another")
    held = receipts(take(one, 1))
    one.release(dict.fromkeys(held, 0.5))
    two.delete(held[0])
    assert sizes(one) == [0, 0]
    one.enqueue("later", within(0.6))
    assert texts(take(one, 1)) == ["later"]
    assert sizes(one) == [0, 1]
