"""A payload that could not be read runs when the admin's "resubmit" queues it again."""

import math
from typing import Any

import pytest
from django_q.signing import SignedPackage

from tests.memory_broker import a_task
from worker.delivery import unreadable


def resubmit(payload: str | bytes) -> Any:
    """Run what stands for a payload, as a worker does."""
    task = unreadable(payload, "no reason")
    return task["func"](*task["args"], **task["kwargs"])


@pytest.mark.parametrize("func", ["math.floor", math.floor])
def test_it_runs_once_it_can_be_read(func: Any) -> None:
    payload = SignedPackage.dumps(a_task("a task", func=func))
    assert (resubmit(payload), resubmit(payload.encode())) == (1, 1)


def test_it_fails_again_without_its_function() -> None:
    with pytest.raises(ValueError, match=r"^Function core\.tasks\.gone is not defined$"):
        resubmit(SignedPackage.dumps(a_task("a task", func="core.tasks.gone")))
