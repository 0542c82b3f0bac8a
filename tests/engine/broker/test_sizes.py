"""What is claimed is bounded in bytes, too."""

import time

import pytest
from django_q.conf import Conf

from .conftest import Brokers
from .contract import broker_name, sizes, take, texts

FIVE = [f"{number}" + "é" * 500 for number in range(5)]  #: 1001 bytes each, and 501 characters
SIZE = 2500


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease run out by itself."""
    monkeypatch.setattr(Conf, "RETRY", 60)


def test_no_more_is_claimed_than_fits(brokers: Brokers) -> None:
    one, two = brokers(2)
    one.enqueue_all(FIVE)
    first = take(one, 1, SIZE) if broker_name() == "sqs" else one.claim(10, SIZE)
    if broker_name() != "sqs":  # which is asked for as many as fit at their largest
        assert texts(first) == FIVE[:2]
        assert sizes(two) == [3, 2]  # the one that was too many waits as before
    rest: list[str] = []
    while len(first) + len(rest) < 5:
        claimed = two.claim(10, SIZE)
        assert len(claimed) <= 2
        assert {delivery.count for delivery in claimed} <= {1}
        rest += texts(claimed)
    assert sorted(texts(first) + rest) == FIVE
    assert broker_name() == "sqs" or rest == FIVE[2:]


def test_the_first_passes_however_large(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue_all(["x" * 100_000, "small", "y" * 100_000])
    if broker_name() == "sqs":
        assert len(take(broker, 3, 10)) == 3
    else:
        assert [text[:5] for _ in range(3) for text in texts(broker.claim(10, 10))] == ["xxxxx", "small", "yyyyy"]


def test_what_exactly_fits_is_claimed(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue_all(["12345", "67890", "1"])
    if broker_name() != "sqs":
        assert texts(broker.claim(10, 10)) == ["12345", "67890"]
    assert take(broker, 1)


def test_what_comes_back_is_bounded_too(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 2)
    one, two = brokers(2)
    one.enqueue_all(FIVE)
    take(one, 5)
    time.sleep(2.1)
    taken: list[str] = []
    while len(taken) < 5:
        claimed = two.claim(10, SIZE)
        assert len(claimed) <= 2
        assert {delivery.count for delivery in claimed} <= {2}
        taken += texts(claimed)
    assert sorted(taken) == FIVE


def test_many_large_ones_do_not_come_at_once(brokers: Brokers) -> None:
    (broker,) = brokers()
    number, length = (3, 900_000) if broker_name() == "sqs" else (12, 3_000_000)
    for index in range(number):
        broker.enqueue(f"{index:02}" + "x" * length)
    seen: list[str] = []
    while len(seen) < number:
        claimed = texts(broker.claim(100, 10_000_000))
        assert sum(map(len, claimed)) <= 10_000_000
        broker.acknowledge_all([])
        seen += [text[:2] for text in claimed]
    assert sorted(seen) == [f"{index:02}" for index in range(number)]
