"""A worker: what it says of what it was handed, and what it finds of the task before."""

import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone, translation
from django_q.signing import SignedPackage
from worker.cluster import child as module
from worker.cluster.channels import Channel, pair
from worker.cluster.child import Child
from worker.cluster.messages import LEAVE, RESULT, RUN, WAIT
from worker.cluster.scoreboard import Scoreboard

pytestmark = pytest.mark.django_db


class Asks:
    """Cannot be opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Open to an error."""
        return pickle.loads, (b"nothing",)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Child]]:
    """Provide the agent's end of a channel, and the worker that has the other one."""
    ours, theirs = pair()
    yield ours, Child(0, theirs, Scoreboard(1))
    ours.close()
    theirs.close()


@pytest.mark.parametrize(("silent", "answer"), [({"database": OSError()}, WAIT), ({}, RESULT)])
def test_what_cannot_be_opened_while_a_server_is_away_waits_for_it(
    silent: dict[str, Exception], answer: str, ends: tuple[Channel, Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "silent_servers", lambda: silent)
    agent, child = ends
    child.message = (RUN, 1, SignedPackage.dumps(Asks()), 1, False, "", ())
    assert child.take(*child.message) is None
    reply = agent.receive()
    assert reply
    assert reply[:2] == (answer, 1)


def test_a_process_in_which_threads_are_no_threads_any_more_is_left(
    ends: tuple[Channel, Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, child = ends
    monkeypatch.setattr("worker.cluster.child.is_in_transaction", lambda connection: False)
    assert child.left_behind() == ""
    monkeypatch.setattr(threading, "get_ident", lambda: -1)
    assert child.left_behind() == "other threads in the place of Python's"


def test_the_language_and_the_time_zone_of_a_task_are_its_own(ends: tuple[Channel, Child]) -> None:
    agent, child = ends
    before = translation.get_language(), timezone.get_current_timezone_name()
    translation.activate("ar")
    timezone.activate("Asia/Tokyo")
    agent.send((LEAVE,))
    assert child.get() == "STOP"
    assert (translation.get_language(), timezone.get_current_timezone_name()) == before
