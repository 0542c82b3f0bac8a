"""Policies: how long a task waits for its next attempt, and what is refused where one is declared or queued."""

import functools
import pickle
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.cache import caches
from django_q.signing import SignedPackage
from django_q.tasks import async_task
from worker import policy
from worker.policy import Exponential, WorkerDied, exponential

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def result(attempts: int = 1) -> policy.Result:
    """Return an attempt that has failed."""
    return policy.Result("0" * 32, "core.tasks.f", "a task", (), {}, attempts, 0, [], [], NOW, NOW)


def steady(exception: BaseException, result: Any) -> int:
    """Stand for a backoff."""
    return 7


async def asynchronous(exception: BaseException, result: Any) -> int:
    """Stand for what cannot be one."""
    return 7


def takes_one(exception: BaseException) -> int:
    """Stand for what cannot be one."""
    return 7


class Broker:
    """Stands in for the broker, and keeps what comes."""

    list_key = "memory"

    def __init__(self) -> None:
        """Begin with none."""
        self.cache = caches["default"]
        self.tasks: list[dict[str, Any]] = []

    def enqueue(self, payload: str, after: datetime | None = None) -> str:
        """Keep it."""
        self.tasks.append(SignedPackage.loads(payload))
        return "receipt"


def test_delays_grow_up_to_the_most() -> None:
    backoff = exponential(first=10, factor=4, most=100, jitter=0)
    assert [backoff(ValueError(), result(number)) for number in range(1, 5)] == [10, 40, 100, 100]
    assert backoff(ValueError(), result(10**6)) == 100


def test_jitter_changes_each_delay_by_its_share_and_never_passes_the_most() -> None:
    delays = [exponential(first=10, most=11, jitter=0.2)(ValueError(), result()) for _ in range(500)]
    assert all(delay is not None and 8 <= delay <= 11 for delay in delays)
    assert len(set(delays)) > 100


def test_by_default_the_second_attempt_comes_after_ten_seconds_and_the_third_after_forty_more() -> None:
    for attempts, seconds in ((1, 10), (2, 40)):
        delay = policy.DEFAULT(ValueError(), result(attempts))
        assert delay is not None
        assert 0.8 * seconds <= delay <= 1.2 * seconds


@pytest.mark.parametrize(
    ("options", "exception", "again"),
    [
        ({}, ValueError(), True),
        ({}, WorkerDied(), True),
        ({"retry_on": ConnectionError}, ConnectionResetError(), True),
        ({"retry_on": (ConnectionError, KeyError)}, ValueError(), False),
        ({"retry_on": ["ConnectionError"]}, ConnectionResetError(), True),
        ({"retry_on": ("worker.policy.WorkerDied",)}, WorkerDied(), True),
        ({"retry_on": ("json.JSONDecodeError",)}, ValueError(), False),
        ({"discard_on": "django.core.exceptions.ValidationError"}, ValueError(), True),
        ({"discard_on": (ValueError,)}, UnicodeError(), False),
        ({"retry_on": (OSError,), "discard_on": (FileNotFoundError,)}, FileNotFoundError(), False),
        ({"retry_on": (OSError,), "discard_on": (FileNotFoundError,)}, PermissionError(), True),
    ],
)
def test_exceptions_decide(options: dict[str, Any], exception: BaseException, again: bool) -> None:
    backoff = pickle.loads(pickle.dumps(exponential(**options)))  # noqa: S301 (as it travels to a worker)
    assert (backoff(exception, result()) is not None) is again


def test_a_path_that_leads_to_no_exception_is_named_when_it_is_looked_up() -> None:
    with pytest.raises(LookupError, match=r"^'core\.tasks\.Gone' leads to no exception class$"):
        exponential(retry_on="core.tasks.Gone")(ValueError(), result())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"first": -1}, "exponential(): first -1 is not between 0 and 315,360,000."),
        ({"first": True}, "exponential(): first True is no number, such as 30."),
        ({"most": "3"}, "exponential(): most '3' is no number, such as 30."),
        ({"most": float("inf")}, "exponential(): most inf is not between 0 and 315,360,000."),
        ({"factor": 0.5}, "exponential(): factor 0.5 is not between 1 and 1,000."),
        ({"jitter": 2}, "exponential(): jitter 2 is not between 0 and 1."),
        ({"retry_on": 5}, "exponential(): retry_on 5 is no exception class, dotted path of one, or tuple of these."),
        ({"discard_on": (str,)}, "exponential(): discard_on (<class 'str'>,) is no exception class, dotted path of"),
        ({"retry_on": ("not a path",)}, "exponential(): retry_on ('not a path',) is no exception class"),
    ],
)
def test_an_exponential_that_can_be_none_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refusal:
        exponential(**options)
    assert re.match(rf"test_policy, line \d+: {re.escape(sentence)}", str(refusal.value))


@pytest.mark.parametrize("answer", [0, 7, 2.5, timedelta(minutes=1), None])
def test_what_a_backoff_may_answer(answer: Any) -> None:
    expected = answer.total_seconds() if isinstance(answer, timedelta) else answer
    assert policy.seconds(lambda *_: answer, ValueError(), result()) == expected


@pytest.mark.parametrize(
    "answer", ["7", -1, float("nan"), float("inf"), 10**12, True, timedelta(-1), timedelta(days=10_000), NOW, [7]]
)
def test_what_is_no_answer_of_a_backoff(answer: object) -> None:
    with pytest.raises(ValueError, match=r"^it returned .+, which is no number of seconds, no timedelta and not None$"):
        policy.seconds(lambda *_: answer, ValueError(), result())


WRONG = [
    ("max_attempts", -1, "max_attempts -1 is negative; write 1 or more, or 0 for no limit."),
    ("max_attempts", True, "max_attempts True is no whole number, such as 3."),
    ("max_attempts", "3", "max_attempts '3' is no whole number, such as 3."),
    ("max_attempts", 2.0, "max_attempts 2.0 is no whole number, such as 3."),
    ("timeout", -5, "timeout -5 is not between 0 and 315,360,000."),
    ("timeout", 0, "timeout 0 leaves no time; write a number of seconds, or None for the cluster's own."),
    ("timeout", False, "timeout False is no number, such as 30."),
    ("timeout", "3", "timeout '3' is no number, such as 30."),
    ("timeout", float("nan"), "timeout nan is not between 0 and"),
    ("timeout", float("inf"), "timeout inf is not between 0 and"),
    ("backoff", 5, "backoff 5 cannot be called; write one such as exponential(first=5)."),
    ("backoff", Exponential, "backoff <class 'worker.policy.Exponential'> cannot be called; write one such as"),
    ("backoff", asynchronous, "backoff <function asynchronous at"),
    ("backoff", takes_one, "backoff <function takes_one at"),
    ("run_after", 5, "run_after 5 is no datetime, such as timezone.now() + timedelta(minutes=5)."),
    (
        "run_after",
        datetime(9999, 12, 31, tzinfo=UTC),
        "run_after 9999-12-31 00:00:00+00:00 is more than ten years away; ",
    ),
    ("run_after", datetime(2026, 1, 1), "run_after 2026-01-01 00:00:00 has no time zone; write one such as"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), WRONG)
def test_what_is_wrong_is_refused_where_it_is_declared_and_where_it_is_queued(
    name: str, value: object, sentence: str
) -> None:
    def queue() -> None:
        async_task("math.floor", 1, q_options={name: value, "broker": Broker()})

    calls: list[Callable[[], object]] = [lambda: policy.check({name: value}), queue]
    if name == "timeout":
        calls.append(lambda: async_task("math.floor", 1, timeout=value, broker=Broker()))
    for call in calls:
        with pytest.raises((TypeError, ValueError)) as refusal:
            call()
        assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize("backoff", [lambda *_: 5, functools.partial(lambda *_: 5)])
def test_a_backoff_that_no_worker_would_get_is_refused_where_it_is_queued(backoff: Any) -> None:
    policy.check({"backoff": backoff})  # of a declared task, whose module a worker imports
    with pytest.raises(ValueError, match=r"cannot be pickled, so no worker would get it; write a function at the top"):
        async_task("math.floor", 1, q_options={"backoff": backoff, "broker": Broker()})


def test_what_is_right_travels_with_the_task_and_none_is_the_default() -> None:
    broker = Broker()
    options = {"max_attempts": 0, "backoff": steady, "timeout": 2.5, "broker": broker}
    async_task("math.floor", 1, q_options=options)
    async_task(
        "math.floor", 1, q_options={**dict.fromkeys(("max_attempts", "backoff", "timeout", "run_after"))}, broker=broker
    )
    async_task("math.floor", 1, timeout=None, broker=broker)
    first, *others = broker.tasks
    assert {name: first[name] for name in ("max_attempts", "backoff", "timeout")} == {
        "max_attempts": 0,
        "backoff": steady,
        "timeout": 2.5,
    }
    assert not any({"max_attempts", "backoff", "timeout", "run_after"} & other.keys() for other in others)
