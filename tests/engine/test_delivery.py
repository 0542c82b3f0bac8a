"""What a payload tells without being opened; and one that could not be opened runs when "resubmit" queues it again."""

import math
import time
from typing import Any

import pytest
from django_q.signing import SignedPackage
from worker.delivery import brief, run_payload, signed_at


def payload(func: Any) -> str:
    """Return a task as django-q2 queues it."""
    signed: str = SignedPackage.dumps({"id": "1", "name": "a task", "func": func, "args": (1.5,), "kwargs": {}})
    return signed


@pytest.mark.parametrize("func", ["math.floor", math.floor])
def test_it_runs_once_it_can_be_opened(func: Any) -> None:
    assert (run_payload(payload(func)), run_payload(payload(func).encode())) == (1, 1)


def test_it_fails_again_without_its_function() -> None:
    with pytest.raises(ValueError, match=r"^Function core\.tasks\.gone is not defined$"):
        run_payload(payload("core.tasks.gone"))


def test_an_error_whose_text_cannot_be_read_is_told() -> None:
    class Silent(Exception):  # noqa: N818 (its name is what is told)
        def __str__(self) -> str:
            raise RuntimeError

    assert brief(Silent()) == "Silent: its text cannot be read"


@pytest.mark.parametrize("password", ["secret", "pa/ss-word", "p@ss:w#rd", "long" * 60])
def test_an_error_is_told_without_a_password(password: str) -> None:
    error = ConnectionError(f"cannot reach redis://me:{password}@db:6379/0")
    assert brief(error) == "ConnectionError: cannot reach redis://…@db:6379/0"


def test_a_payload_tells_when_it_was_queued_unopened() -> None:
    signed = SignedPackage.dumps({"id": 1})
    assert signed_at(signed) == pytest.approx(time.time(), abs=2)
    assert signed_at(signed[-100:]) == signed_at(signed)
    for other in ("", ":", "::", "no task at all", "a:b:c", "a:1234567:c", "a:12345é:c"):
        assert signed_at(other) is None
