"""Packages and rows: what a user may have put into them, and what the table takes."""

import functools
import os
import threading
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, NoReturn

import pytest
from django.core.signing import BadSignature
from django_q.models import Task as Model
from django_q.signing import SignedPackage
from worker.cluster.functions import runnable
from worker.delivery import run_payload
from worker.packages import function_label, instance, most_of, opened, pack, set_aside, unpickled

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SURROGATE = "import-caf\udce9.pdf"


class Odd:
    """Cannot be printed."""

    def __repr__(self) -> str:
        """Raise."""
        raise RuntimeError("no text")

    def method(self) -> None:
        """Do nothing."""


class Once:
    """Can be pickled, and what comes out of it cannot."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave a lock."""
        return threading.Lock, ()


class Trap:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave instructions that end the process."""
        return os.abort, ("no number",)


class Leaving:
    """Ends whoever pickles it."""

    def __reduce__(self) -> NoReturn:
        """Leave."""
        raise SystemExit(3)


def a_task(**fields: Any) -> dict[str, Any]:
    """Return a task as a worker hands it on."""
    task = {"id": "0" * 32, "name": "a task", "func": "math.floor", "args": (1.5,), "kwargs": {}, "started": NOW}
    return {**task, "stopped": NOW, "success": True, "result": 1, **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"name": SURROGATE},
        {"name": "a\0b"},
        {"name": "x" * 10_000},
        {"name": 7},
        {"name": Odd()},
        {"group": SURROGATE * 100, "hook": Odd().method},
        {"func": None},
        {"func": ""},
        {"func": Odd().method},
        {"func": functools.partial(Odd().method)},
        {"func": "x." * 500},
        {"success": False, "result": SURROGATE + "\0"},
        {"id": "x" * 100},
    ],
)
@pytest.mark.django_db
def test_whatever_labels_are_the_table_takes_the_row(fields: dict[str, Any]) -> None:
    row = pack(a_task(**fields), "payload")
    Model.objects.bulk_create([instance(row, 1)])
    assert Model.objects.get().pk == row.id


class Later:
    """Something whose methods are asynchronous."""

    async def make(self) -> None:
        """Make nothing."""

    @staticmethod
    async def of_class() -> None:
        """Make nothing."""


@pytest.mark.parametrize("function", [Later().make, Later.of_class, functools.partial(Later().make)])
def test_an_asynchronous_function_has_the_same_label_where_it_runs(function: Any) -> None:
    assert function_label(runnable(function)) == function_label(function)


@pytest.mark.parametrize("value", [None, True, "text\0" + SURROGATE, b"bytes", [1, {"two": (3,)}], NOW, str, len])
def test_results_come_back_as_they_were(value: object) -> None:
    row = pack(a_task(result=value), "payload")
    assert (row.success, unpickled(row.result)) == (True, value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (threading.Lock(), "The result cannot be pickled: TypeError"),
        (lambda: None, "The result cannot be pickled: "),
        ((each for each in "abc"), "The result cannot be pickled: TypeError"),
        (Leaving(), "The result cannot be pickled: SystemExit"),
        (Trap(), "The result cannot be unpickled: TypeError"),
        ([Trap()], "The result cannot be unpickled: TypeError"),
    ],
)
def test_a_result_that_cannot_be_kept_is_a_failure(value: object, reason: str) -> None:
    row = pack(a_task(result=value), "payload")
    assert not row.success
    assert unpickled(row.result).startswith(reason)


def test_arguments_that_cannot_be_kept_are_left_out_or_stay_in_their_payload() -> None:
    row = pack(a_task(args=(threading.Lock(),)), "payload")
    assert (row.success, row.func, row.args) == (True, "math.floor", None)
    row = pack(a_task(args=(threading.Lock(),), success=False, result="no luck"), "payload")
    assert (row.func, unpickled(row.args)) == ("worker.delivery.run_payload", ("payload",))


def test_a_package_is_opened() -> None:
    task = a_task(args=(Once(),))
    payload = SignedPackage.dumps(task)
    assert opened(payload)["name"] == "a task"
    assert opened(SignedPackage.dumps(task, compressed=True))["id"] == task["id"]


@pytest.mark.parametrize("payload", ["", "garbage", "a:b:c", SignedPackage.dumps({"id": 1})[:-1] + "_"])
def test_what_nobody_has_signed_is_refused(payload: str) -> None:
    with pytest.raises(BadSignature):
        opened(payload)


@pytest.mark.parametrize("content", [None, [], {"id": 1}, "text"])
def test_what_is_no_task_is_not_opened(content: object) -> None:
    with pytest.raises(ValueError, match=r"^it is no package of django-q2$"):
        opened(SignedPackage.dumps(content))


def test_what_is_set_aside_runs_when_it_is_submitted_again() -> None:
    row = set_aside(SignedPackage.dumps(a_task()), "no reason")
    assert (row.func, row.success, unpickled(row.result)) == ("worker.delivery.run_payload", False, "no reason")
    assert run_payload(*unpickled(row.args)) == 1


def test_a_number_of_attempts_is_plain_whatever_kind_of_number_it_was() -> None:
    class Attempts(IntEnum):
        FEW = 2

    assert type(most_of({"max_attempts": Attempts.FEW})) is int
