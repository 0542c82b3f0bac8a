"""Whoever has lost a lease does nothing to what is another's by now."""

import time
from typing import Any

import pytest
from django_q.conf import Conf
from worker.delivery import Delivery

from .conftest import Brokers
from .contract import PLENTY, broker_name, receipts, sizes, take, texts


def lost(one: Any, two: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Let one's lease run out, and two take the task, for a minute; return the receipts of both."""
    one.enqueue("a task")
    former, later = receipts(take(one, 1)), receipts(take(two, 1))
    monkeypatch.setattr(Conf, "RETRY", 60)
    assert two.renew(later) == set()
    return former, later


def test_a_lost_task_is_not_removed(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = brokers(2)
    former, later = lost(one, two, monkeypatch)
    one.acknowledge_all(former)
    assert two.renew(later) == set()
    assert sizes(two) == [0, 1]
    two.acknowledge_all(later)
    assert sizes(two) == [0, 0]


@pytest.mark.parametrize("delay", [0, 1])
def test_a_lost_task_is_not_given_back(delay: int, brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = brokers(3)
    former, later = lost(one, two, monkeypatch)
    one.release(dict.fromkeys(former, delay))
    end = time.monotonic() + delay + 1
    while time.monotonic() < end:
        assert three.claim(1, PLENTY) == []
        three.idle(0.1, [])
    assert two.renew(later) == set()


def test_a_lost_lease_is_not_renewed_for_another(brokers: Brokers) -> None:
    one, two, three = brokers(3)
    one.enqueue("a task")
    former = receipts(take(one, 1))
    take(two, 1)
    again: list[Delivery] = []
    end = time.monotonic() + 10
    while not again and time.monotonic() < end:  # which would go on for ever if it renewed that of two
        assert one.renew(former) == set(former)
        again = three.claim(1, PLENTY)
        three.idle(0.1, [])
    assert texts(again) == ["a task"]


def test_what_is_lost_does_not_keep_what_is_held_from_its_end(
    brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = brokers(2)
    former, later = lost(one, two, monkeypatch)
    one.enqueue("another")
    held = receipts(take(one, 1))
    assert one.renew(former + held) == set(former)
    one.acknowledge_all(former + held)
    assert two.renew(later) == set()
    assert sizes(two) == [0, 1]


@pytest.mark.skipif(broker_name() == "mongodb", reason="the receipt itself names the claim, and so its owner")
def test_who_has_claimed_nothing_can_do_nothing(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 60)
    one, stranger = brokers(2)
    one.enqueue("a task")
    taken = receipts(take(one, 1))
    stranger.acknowledge_all(taken)
    stranger.release(dict.fromkeys(taken, 0))
    assert stranger.renew(taken) == set(taken)
    assert one.renew(taken) == set()
    assert sizes(one) == [0, 1]
