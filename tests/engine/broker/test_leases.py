"""Leases run out, are renewed, and are given back."""

import time

import pytest
from django_q.conf import Conf

from .conftest import Brokers
from .contract import LEASE, PLENTY, receipts, sizes, take, texts


def test_a_lease_that_runs_out_is_lost_to_the_next_claim(brokers: Brokers) -> None:
    one, two, three = brokers(3)
    one.enqueue("a task")
    first = take(one, 1)
    start = time.monotonic()
    second = take(two, 1)
    assert LEASE * 0.7 < time.monotonic() - start < LEASE + 8
    assert one.renew(receipts(first)) == set(receipts(first))
    assert two.renew(receipts(second)) == set()
    assert three.claim(1, PLENTY) == []


def test_a_lease_that_is_renewed_is_kept(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 2)
    one, two = brokers(2)
    one.enqueue("a task")
    taken = take(one, 1)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert one.renew(receipts(taken)) == set()
        assert two.claim(1, PLENTY) == []
        two.idle(0.1, [])
    assert one.renew([]) == set()
    one.acknowledge_all(receipts(taken))
    assert sizes(two) == [0, 0]


def test_a_lease_of_what_is_done_cannot_be_renewed(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 60)
    (broker,) = brokers()
    broker.enqueue_all(["done", "running"])
    taken = {delivery.payload: delivery.receipt for delivery in take(broker, 2)}
    broker.acknowledge_all([taken["done"]])
    assert broker.renew(taken.values()) == {taken["done"]}


def test_a_task_that_is_given_back_is_taken_at_once(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 60)
    one, two = brokers(2)
    one.enqueue("a task")
    one.release(dict.fromkeys(receipts(take(one, 1)), 0))
    one.release({})
    start = time.monotonic()
    again = take(two, 1)
    assert texts(again) == ["a task"]
    assert time.monotonic() - start < 25
    assert two.renew(receipts(again)) == set()


def test_a_task_is_given_back_with_a_delay(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 60)
    one, two = brokers(2)
    one.enqueue("a task")
    one.release(dict.fromkeys(receipts(take(one, 1)), 2))
    start = time.monotonic()
    again = take(two, 1)
    assert texts(again) == ["a task"]
    assert 1.5 < time.monotonic() - start < 10


def test_a_process_takes_again_what_it_has_given_back(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 60)
    (broker,) = brokers()
    broker.enqueue("a task")
    for _ in range(3):
        broker.release(dict.fromkeys(receipts(take(broker, 1)), 0))
    broker.acknowledge_all(receipts(take(broker, 1)))
    assert sizes(broker) == [0, 0]
