"""One question at a time for each server, and its answer for all."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from unittest.mock import Mock

import pytest
from django.db import OperationalError, ProgrammingError, connection, transaction
from django.http import HttpRequest
from worker import single_flight
from worker.health import why_away
from worker.single_flight import Readiness, SingleFlight
from worker.web.middleware import OutageMiddleware


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stand in for the only server."""
    ask = Mock(return_value=None)
    monkeypatch.setattr(single_flight, "SERVERS", {"broker": ask})
    return ask


def test_an_answer_is_shared_and_then_asked_for_anew(ask: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Readiness()
    assert [ready.silent() for _ in range(3)] == [[], [], []]
    ask.assert_called_once_with()
    ready.servers["broker"].shared = 0.0
    ask.side_effect = OSError("refused")
    assert ready.silent() == ["broker"]


def test_all_wait_for_one_question_and_not_for_long(ask: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_flight, "LIMIT", 3)
    monkeypatch.setattr(single_flight, "SHARED", 0)
    frozen = Event()
    ask.side_effect = frozen.wait
    ready = Readiness()
    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(lambda _: ready.silent(), range(40))) == [["broker"]] * 40
    begun = time.monotonic()
    assert ready.silent() == ["broker"]  # since it is still being asked
    assert time.monotonic() - begun < 2.5
    ask.assert_called_once_with()
    frozen.set()
    ready.servers["broker"].current().join()
    assert ready.silent() == []


def test_a_server_that_is_slow_is_heard_again_once_it_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_flight, "SOON", 0.02)
    ask = Mock(side_effect=[OSError("away"), "well", "well"])

    def ask_slowly() -> object:
        answer = ask()
        time.sleep(0.05)  # this is what is slow: longer than SOON
        return answer

    flight = SingleFlight(ask_slowly)
    assert flight.wait(3.0) is None
    assert flight.wait(3.0) is None, "nobody waits long for a server that is away"
    flight.current().join()
    assert flight.wait(3.0) == "well"


@pytest.mark.django_db
def test_what_is_wrong_with_a_statement_is_no_outage() -> None:
    statements = ["SELECT 1 FROM nowhere"]
    if connection.vendor == "postgresql":
        statements.append("SET LOCAL statement_timeout = 20; SELECT pg_sleep(5)")
    for statement in statements:
        with (
            pytest.raises((OperationalError, ProgrammingError)) as error,
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
        assert why_away(error.value) == ""
        assert OutageMiddleware(Mock()).process_exception(HttpRequest(), error.value) is None
