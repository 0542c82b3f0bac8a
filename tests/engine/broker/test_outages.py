"""What becomes of a task, and of the next one, when a connection breaks."""

import time
from contextlib import suppress

import pytest
from django_q.conf import Conf
from worker.health import may_pass, sentence_for, why_away

from .conftest import Brokers
from .contract import Relay, receipts, sizes, take, texts


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease run out by itself."""
    monkeypatch.setattr(Conf, "RETRY", 60)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_task_whose_answer_is_lost_is_not_queued_twice(at_once: bool, detour: Relay, brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("before")
    detour.drops.set()
    with suppress(Exception):
        if at_once:
            broker.enqueue_all(["one", "two"])
        else:
            broker.enqueue("one")
    assert detour.dropped == 1
    expected = ["before", "one", "two"] if at_once else ["before", "one"]
    number = sizes(brokers()[0])[0]
    assert number == len(set(texts(take(broker, number)))) <= len(expected)


def test_a_connection_that_was_cut_is_replaced(detour: Relay, brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("before")
    detour.cut()
    time.sleep(0.1)
    with suppress(Exception):  # where the client does not look before it sends
        broker.enqueue("a try")
    broker.enqueue("after")
    taken = take(broker, 2)
    detour.cut()
    time.sleep(0.1)
    with suppress(Exception):
        broker.renew(receipts(taken))
    assert broker.renew(receipts(taken)) == set()
    detour.cut()
    time.sleep(0.1)
    with suppress(Exception):
        broker.acknowledge_all(receipts(taken))
    broker.acknowledge_all(receipts(taken))
    assert broker.renew(receipts(taken)) == set(receipts(taken))


def test_a_server_that_is_away_is_an_error_soon(detour: Relay, brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("before")
    detour.end()
    start = time.monotonic()
    for action in (lambda: broker.enqueue("lost"), lambda: broker.claim(1, 1000), broker.ping):
        with pytest.raises(Exception) as raised:  # noqa: PT011 (each client has errors of its own)
            until_error(action)
        assert not isinstance(raised.value, AssertionError)
        assert why_away(raised.value)  # so a page that queues a task answers 503
    assert time.monotonic() - start < 40


def test_an_error_of_a_server_that_answers_again_by_now_passes(brokers: Brokers) -> None:
    (broker,) = brokers()
    for kind in broker.away:
        assert may_pass(kind.__new__(kind))
    assert not may_pass(ValueError())


def test_whatever_the_server_says_is_a_sentence(brokers: Brokers) -> None:
    (broker,) = brokers()
    errors = getattr(broker, "errors", ())
    assert bool(errors) == bool(broker.away)
    for kind in errors:
        assert sentence_for(kind.__new__(kind)).startswith("The broker refuses what it is asked (")
    assert sentence_for(ValueError()) == ""


def until_error(action: object) -> None:
    """Do something twice: a client may have noticed nothing yet."""
    for _ in range(2):
        action()  # type: ignore[operator]
