"""Django's tasks as they are declared and queued, and what is known of them before a worker has taken them."""

import dataclasses
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import jobs
import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.safestring import mark_safe
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import Schedule
from django_q.models import Task as Row
from django_q.signing import SignedPackage
from django_q.tasks import async_task, fetch, schedule
from pytest_django import Settings
from worker import packages, results, schedules, tasks, trigger
from worker.checks import check_task_backends
from worker.django_tasks import InvalidTask, base, exceptions, signals
from worker.enqueue import enqueue_many, new_id
from worker.models import Failure
from worker.policy import Cancelled
from worker.queue.actions import cancel
from worker.queue.cancel import end
from worker.queue.state import Running
from worker.resubmit import resubmit
from worker.tasks import (
    Backend,
    ResultNoLongerKept,
    Task,
    TaskResultDoesNotExist,
    default_task_backend,
    exponential,
    in_words,
    task,
)

BACKEND = {"BACKEND": "worker.tasks.Backend"}
LATER = timezone.now() + timedelta(hours=1)
READY = base.TaskResultStatus.READY
HOLDS_ITSELF: dict[str, Any] = {}
HOLDS_ITSELF["a"] = [HOLDS_ITSELF]
DEEP: list[Any] = []
for _ in range(50_000):
    DEEP = [DEEP]


def plain(*numbers: int) -> int:
    return sum(numbers)


async def plain_later() -> int:
    return 1


def numbers() -> Iterator[int]:
    yield 1


async def numbers_later() -> Any:
    yield 1


def in_context(context: Any) -> None:
    pass


def refuses(exception: Any, result: Any) -> float:
    return 1.0


nameless = lambda: 1  # noqa: E731 (it is to be one)


class Few(IntEnum):
    """What a column holds, say."""

    ONE = 1


class Some:
    """Has a function."""

    def function(self) -> None:
        """Do nothing."""


@pytest.fixture
def idle(db: None, settings: Settings) -> Iterator[Any]:
    """Provide the broker of a queue that nobody serves, `idle`, which is empty again afterwards."""
    others = {**settings.Q_CLUSTER["ALT_CLUSTERS"], "idle": {}}
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": others}
    settings.TASKS = {"default": BACKEND}
    broker = get_broker("idle")
    yield broker
    if broker.can_peek:  # SQS purges a queue once a minute, at most
        broker.purge_queue()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Provide the packages of what is queued, which no broker gets."""
    packages: list[dict[str, Any]] = []

    def enqueue(payload: str, *after: datetime) -> str:
        packages.append(SignedPackage.loads(payload))
        return f"{len(packages)}"

    broker = SimpleNamespace(list_key="memory", enqueue=enqueue, can_peek=True)
    broker.enqueue_all = lambda payloads, after: list(map(enqueue, payloads))
    for module in ("worker.tasks", "worker.enqueue", "django_q.tasks"):
        monkeypatch.setattr(f"{module}.get_broker", lambda name=None: broker)
    return packages


@pytest.fixture
def enqueued() -> Iterator[list[tuple[Any, Any]]]:
    """Provide what receivers of task_enqueued are told."""
    told: list[tuple[Any, Any]] = []

    def receiver(sender: Any, task_result: Any, **_: Any) -> None:
        told.append((sender, task_result))

    signals.task_enqueued.connect(receiver)
    yield told
    signals.task_enqueued.disconnect(receiver)


# Declared


def test_a_task_is_the_backends_and_has_a_name_and_a_path() -> None:
    assert (default_task_backend.alias, default_task_backend.options) == ("default", {})
    for declared in (jobs.add, jobs.add_later, task(plain), task()(plain), task(queue_name="default")(plain)):
        assert isinstance(declared, Task)
        assert isinstance(declared.get_backend(), Backend)
    assert (jobs.add.name, jobs.add.module_path, str(jobs.add)) == ("add", "jobs.add", "jobs.add")
    assert import_string(jobs.add.module_path) is jobs.add


def test_a_task_can_be_called_as_its_function() -> None:
    assert jobs.add(1, 2) == jobs.add.call(1, 2) == async_to_sync(jobs.add.acall)(1, 2) == 3
    assert task(plain_later)() == task(plain_later).call() == async_to_sync(task(plain_later).acall)() == 1


def test_using_makes_another_task_and_leaves_the_first_as_it_is(idle: Any) -> None:
    assert jobs.add.using() == jobs.add
    assert jobs.add.using() is not jobs.add
    later = jobs.add.using(run_after=LATER).using(queue_name="idle", max_attempts=5, timeout=2.5, backoff=refuses)
    assert (later.run_after, later.queue_name, later.max_attempts, later.timeout) == (LATER, "idle", 5, 2.5)
    assert (jobs.add.run_after, jobs.add.queue_name, jobs.add.max_attempts, jobs.add.timeout) == (
        *(None, "default", None, None),
    )
    for name in ("unknown", "missing"):
        with pytest.raises(exceptions.TaskException if name == "none" else Exception, match=name):
            jobs.add.using(backend=name)


@pytest.mark.parametrize("declared", [jobs.add, jobs.third_time, jobs.add.using(run_after=LATER, max_attempts=7)])
def test_a_task_can_be_pickled(declared: Any) -> None:
    assert pickle.loads(pickle.dumps(declared)) == declared  # noqa: S301


GONE = r"^The result of this task is no longer kept, or it was queued again, under another id\.$"
METHOD = Backend.get_result
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a queue that nobody serves": (
        lambda: jobs.add.using(queue_name="defualt"),
        "Queue 'defualt' is not valid for backend. Did you mean 'default'?",
    ),
    "a queue in the decorator": (lambda: task(queue_name="slwo")(plain), "Queue 'slwo' is not valid for backend. "),
    "a priority": (lambda: jobs.add.using(priority=10), "Backend does not support setting priority of tasks."),
    "a priority that is none": (lambda: jobs.add.using(priority=101), "Backend does not support setting priority "),
    "a naive run_after": (
        lambda: jobs.add.using(run_after=datetime(2030, 1, 1)),
        "run_after 2030-01-01 00:00:00 has no time zone; ",
    ),
    "seconds as run_after": (lambda: jobs.add.using(run_after=5), "run_after 5 is no datetime, such as "),
    "a timedelta as run_after": (
        lambda: jobs.add.using(run_after=timedelta(1)),
        "run_after datetime.timedelta(days=1) is ",
    ),
    "a date as run_after": (lambda: jobs.add.using(run_after=LATER.date()), "run_after datetime.date("),
    "a run_after that no table holds": (
        lambda: jobs.add.using(run_after=datetime(9999, 12, 31, 23, tzinfo=ZoneInfo("America/New_York"))),
        "run_after 9999-12-31 23:00:00-05:00 is more than ten years away; ",
    ),
    "a lambda in a function": (lambda: task(lambda: 1), "Task function must be defined at a module level."),
    "a lambda": (lambda: task(nameless), "Task function must be defined at a module level."),
    "a function of a class": (lambda: task(Some.function), "Task function must be defined at a module level."),
    "a builtin": (lambda: task(any), "Task function must be defined at a module level."),
    "a method": (lambda: task(default_task_backend.get_result), "Task function must be defined at a module level."),
    "a class": (lambda: task(dict), "Task function must be defined at a module level."),
    "a task of a task": (lambda: task(jobs.add), "Task function must be defined at a module level."),
    "a generator": (
        lambda: task(numbers),
        "numbers() is a generator function, whose result is no JSON: return a list.",
    ),
    "an asynchronous generator": (
        lambda: task(numbers_later),
        "numbers_later() is a generator function, whose result is no JSON: return a list.",
    ),
    "a context that it does not take": (
        lambda: task(takes_context=True)(plain),
        "Task takes context but does not have a first argument of 'context'.",
    ),
    "a time in the decorator": (
        lambda: task(run_after=LATER)(plain),
        "@task has no option 'run_after'. It is using(run_after=…).",
    ),
    "an option that is none": (
        lambda: task(max_attemps=3)(plain),
        "The task test_tasks.plain cannot be used: @task has no option 'max_attemps'. Did you mean 'max_attempts'?",
    ),
    "an option of Celery's": (lambda: task(retry=3)(plain), "@task has no option 'retry'. Known are: backend, "),
    "a queue without its keyword": (lambda: task("slow"), "@task is given 'slow': it takes keywords, as in @task("),
    "a queue that is a list": (lambda: task(queue_name=[])(plain), "Queue '[]' is not valid for backend. "),
    "no backend": (lambda: task(backend=None)(plain), "backend None is no name of one in TASKS."),
    "a backend that there is not": (
        lambda: task(backend="nope")(plain),
        "The task test_tasks.plain cannot be used: The connection 'nope' doesn't exist.",
    ),
    "a base in the backoff": (lambda: exponential(base=3), "exponential() has no option 'base'. Known are: discard_on"),
    "attempts as a text": (lambda: task(max_attempts="3")(plain), "max_attempts '3' is no whole number, such as 3."),
    "an option of Celery's later on": (
        lambda: jobs.add.using(countdown=3),
        "using() has no option 'countdown'. Known are: backend, backoff, max_attempts, priority, queue_name, run_",
    ),
    "fewer attempts than none": (lambda: jobs.add.using(max_attempts=-1), "max_attempts -1 is negative; "),
    "no time": (lambda: task(timeout=0)(plain), "timeout 0 leaves no time; "),
    "a negative time": (lambda: task(timeout=-1)(plain), "timeout -1 is not between 0 and "),
    "a backoff that is a number": (lambda: task(backoff=3)(plain), "backoff 3 cannot be called; "),
    "a backoff of no arguments": (lambda: task(backoff=plain_later)(plain), "backoff <function plain_later "),
    "a backoff that is negative": (lambda: exponential(first=-1), "exponential(): first -1 is not between 0 and "),
}


@pytest.mark.parametrize("use", WRONG)
def test_a_wrong_use_is_refused_in_a_sentence(use: str) -> None:
    act, sentence = WRONG[use]
    with pytest.raises((InvalidTask, TypeError, ValueError)) as refusal:
        act()
    assert isinstance(refusal.value, ImproperlyConfigured)  # with which manage.py ends in a sentence
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({}, "an entry of TASKS has no 'BACKEND'."),
        (
            {**BACKEND, "QUEUES": None},
            "TASKS['default']: QUEUES is None: write a list of names, as in ['default'], or ",
        ),
        ({**BACKEND, "QUEUES": "default"}, "TASKS['default']: QUEUES is 'default': write a list of names, "),
        ({**BACKEND, "QUEUES": [1]}, "TASKS['default']: QUEUES is [1]: write a list of names, "),
    ],
)
def test_a_wrong_entry_of_tasks_is_refused_in_a_sentence(
    entry: dict[str, Any], sentence: str, settings: Settings
) -> None:
    settings.TASKS = {"default": entry}
    with pytest.raises(ImproperlyConfigured) as refusal:
        task(plain)
    assert str(refusal.value).startswith(f"The task {__name__}.plain cannot be used: {sentence}")


# Queued


@pytest.mark.parametrize("declared", [jobs.add, jobs.add_later])
@pytest.mark.parametrize("how", ["enqueue", "aenqueue"])
def test_a_task_is_queued(
    declared: Any, how: str, sent: list[Any], enqueued: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    enqueue = declared.enqueue if how == "enqueue" else async_to_sync(declared.aenqueue)
    with caplog.at_level(logging.DEBUG, signals.logger.name):
        result = enqueue(1, (2, 3), two={"a": (4,)})
    assert (result.status, result.is_finished, result.attempts, result.errors) == (READY, False, 0, [])
    assert (result.task, result.backend) == (declared, "default")
    assert (result.args, result.kwargs) == ([1, [2, 3]], {"two": {"a": [4]}})
    assert (result.started_at, result.last_attempted_at, result.finished_at) == (None, None, None)
    assert abs(timezone.now() - result.enqueued_at) < timedelta(seconds=5)
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value
    assert enqueued == [(Backend, result)]
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301
    (package,) = sent
    assert result.id == f"{package['id']}.1"
    assert (package["func"], package["args"], package["kwargs"]) == (
        *(declared.module_path, (1, [2, 3]), {"two": {"a": [4]}}),
    )
    (line,) = [record.getMessage() for record in caplog.records if record.name == signals.logger.name]
    assert "enqueued" in line
    assert result.id in line


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (LATER, "Unsupported type: <class 'datetime.datetime'>; take str(…) or list(…) of it, or the primary"),
        ({1, 2}, "Unsupported type: <class 'set'>"),
        (b"\xff", "Unsupported value: <class 'bytes'>"),
        ([object()], "Unsupported type: <class 'object'>"),
        ({"a": plain}, "Unsupported type: <class 'function'>"),
        ([HOLDS_ITSELF], "it holds itself, or is nested too deeply"),
        (DEEP, "it holds itself, or is nested too deeply"),
        ({"a": "half \ud800"}, "it holds the half character '\\ud800', which has no UTF-8"),
        (float("nan"), "Out of range float values are not JSON compliant"),
        ([float("inf")], "Out of range float values are not JSON compliant"),
        ({"half \ud800": 1}, "it holds the half character '\\ud800', which has no UTF-8"),
    ],
)
def test_an_argument_that_is_no_json_is_refused(argument: Any, sentence: str, sent: list[Any]) -> None:
    for enqueue in (jobs.same.enqueue, async_to_sync(jobs.same.aenqueue)):
        for args, kwargs in (((argument,), {}), ((), {"value": argument})):
            with pytest.raises(TypeError) as refusal:
                enqueue(*args, **kwargs)
            assert str(refusal.value).startswith(f"An argument of same() is no JSON: {sentence}")
    assert not sent


def test_arguments_are_of_no_class_of_the_project(sent: list[Any]) -> None:
    result = jobs.same.enqueue({1: [jobs.Kind.PAID, Few.ONE, mark_safe("<b>"), 1.5, True, None]})
    wanted = [{"1": ["paid", 1, "<b>", 1.5, True, None]}]
    assert (result.args, list(sent[0]["args"])) == (wanted, wanted)
    assert [*map(type, sent[0]["args"][0]["1"])] == [str, int, str, float, bool, type(None)]


def test_a_keyword_that_the_function_does_not_take_is_refused(sent: list[Any]) -> None:
    with pytest.raises(TypeError, match=r"^'valeu' is no argument of same\(\)\. Did you mean 'value'\?$"):
        jobs.same.enqueue(valeu=1)
    assert not sent


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), r"^same\(\) cannot be called so: missing a required argument: 'value'\.$"),
        ((1, 2), r"^same\(\) cannot be called so: too many positional arguments\.$"),
    ],
)
def test_arguments_that_the_function_does_not_take_are_refused(
    args: tuple[Any, ...], sentence: str, sent: list[Any]
) -> None:
    with pytest.raises(TypeError, match=sentence):
        jobs.same.enqueue(*args)
    with pytest.raises(TypeError, match=r"^tell\(\) cannot be called so: too many positional arguments\.$"):
        jobs.tell.enqueue(1, 2)  # beside its context
    jobs.tell.enqueue(1)
    assert len(sent) == 1


def test_arguments_may_be_named_as_options_of_async_task(sent: list[Any]) -> None:
    words = {"group": "g", "timeout": 3, "cluster": "c", "q_options": "q"}
    jobs.named_as_options.enqueue(**words)
    assert sent[0]["kwargs"] == words
    assert not sent[0].keys() & {"group", "timeout"}


def test_a_task_goes_to_the_cluster_of_its_queue_with_its_policy(
    idle: Any, sent: list[Any], settings: Settings
) -> None:
    jobs.add.enqueue()
    jobs.add.using(queue_name="idle", max_attempts=4, timeout=9, run_after=LATER, backoff=refuses).enqueue()
    async_task(jobs.add.using(queue_name="idle", timeout=9), timeout=3)
    enqueue_many(jobs.add.using(queue_name="idle"), [(1,)])
    assert [package["cluster"] for package in sent] == [settings.Q_CLUSTER["name"], *["idle"] * 3]
    policy = {"max_attempts": 4, "timeout": 9, "run_after": LATER, "backoff": refuses}
    assert {name: sent[1][name] for name in policy} == policy
    assert sent[2]["timeout"] == 3  # what is said where it is queued is what counts
    assert {package["func"] for package in sent} == {"jobs.add"}


def test_a_backoff_that_a_worker_finds_by_itself_does_not_travel(sent: list[Any]) -> None:
    jobs.fail_for_long.enqueue()  # whose is a lambda
    assert "backoff" not in sent[0]
    with pytest.raises(ValueError, match=r"backoff .* cannot be pickled, so no worker would get it; "):
        jobs.add.using(backoff=lambda exception, result: 1.0).enqueue()


def test_a_receiver_that_raises_harms_nothing(sent: list[Any]) -> None:
    def receiver(**_: Any) -> None:
        raise ValueError("broken")

    signals.task_enqueued.connect(receiver)
    try:
        assert jobs.add.enqueue().status == READY
    finally:
        signals.task_enqueued.disconnect(receiver)
    assert len(sent) == 1


def test_what_was_valid_once_is_validated_again(idle: Any, settings: Settings) -> None:
    declared = jobs.add.using(queue_name="idle")
    settings.TASKS = {"default": {**BACKEND, "QUEUES": ["default"]}}
    for enqueue in (declared.enqueue, async_to_sync(declared.aenqueue)):
        with pytest.raises(InvalidTask, match=r"Queue 'idle' is not valid for backend\."):
            enqueue()
    settings.TASKS = {"default": {**BACKEND, "QUEUES": []}}  # any that a cluster serves
    declared.enqueue()
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {}}
    with pytest.raises(InvalidTask, match=r"Queue 'idle' is not valid for backend\."):
        declared.enqueue()
    settings.TASKS = {}
    with pytest.raises(Exception, match="The connection 'default' doesn't exist"):
        declared.enqueue()


@pytest.mark.django_db
def test_queuing_asks_no_more_of_the_database_than_async_task(idle: Any) -> None:
    with CaptureQueriesContext(connection) as of_async_task:
        async_task(plain, 1, cluster="idle")
    with CaptureQueriesContext(connection) as of_enqueue:
        jobs.add.using(queue_name="idle").enqueue(1)
    assert len(of_async_task) == len(of_enqueue) <= 1


@pytest.mark.django_db
def test_a_task_is_part_of_the_transaction_where_the_queue_is_in_the_database(idle: Any) -> None:
    with transaction.atomic():
        result = jobs.add.using(queue_name="idle").enqueue()
        transaction.set_rollback(True)
    if idle.transactional:
        with pytest.raises(ResultNoLongerKept):
            result.refresh()
    else:
        result.refresh()
        assert result.status == READY


# Found


@pytest.mark.parametrize("declared", [jobs.add, jobs.add_later])
def test_what_waits_is_found(declared: Any, idle: Any, settings: Settings) -> None:
    queued = declared.using(queue_name="idle", run_after=LATER, max_attempts=9)
    result = queued.enqueue(1, a=[2])
    assert len(result.id) <= 64
    found = declared.get_result(result.id)
    assert found == async_to_sync(declared.aget_result)(result.id)
    assert in_words(found) == "Waiting for a worker …"
    if idle.can_peek:
        assert found == default_task_backend.get_result(result.id) == result
    else:
        assert (found.status, found.enqueued_at, found.task) == (READY, result.enqueued_at, declared)
    before = dataclasses.asdict(result)
    result.refresh()
    async_to_sync(result.arefresh)()
    assert dataclasses.asdict(result) == before


@pytest.mark.django_db
def test_a_result_of_another_task_is_refused(idle: Any) -> None:
    result = jobs.add.using(queue_name="idle").enqueue()
    with pytest.raises(exceptions.TaskResultMismatch, match="Task does not match"):
        jobs.pair.get_result(result.id)
    with pytest.raises(exceptions.TaskResultMismatch, match="Task does not match"):
        async_to_sync(jobs.pair.aget_result)(result.id)


HOSTILE = [
    "x",
    "123",
    "",
    "'; DROP TABLE",
    "a" * 1_000_000,
    "\0",
    "é" * 32,
    f"{'0' * 32}.1",
    f"{'f' * 32}.{'9' * 31}",
    None,
    3,
]


@pytest.mark.django_db
@pytest.mark.parametrize("key", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_an_id_that_is_none_is_not_found(key: Any) -> None:
    for get_result in (jobs.add.get_result, async_to_sync(jobs.add.aget_result), default_task_backend.get_result):
        with pytest.raises(
            TaskResultDoesNotExist, match=r"^(This is no id of a result|There is no task of this id)\.$"
        ):
            get_result(key)


@pytest.mark.django_db
def test_a_result_that_is_kept_no_longer_is_told_from_one_that_never_was(idle: Any) -> None:
    ages = [timedelta(minutes=1), timedelta(days=300)]
    for age in ages if idle.can_peek else ages[1:]:
        key = f"{int((time.time() - age.total_seconds()) * 1000):012x}{new_id()[12:]}"
        with pytest.raises(TaskResultDoesNotExist, match=r"^Nothing is known of this task yet, or any more\.$") as none:
            default_task_backend.get_result(key)  # as async_task() returns one
        assert none.type is TaskResultDoesNotExist
        for receipt in (".123", ".1-0", f".{'a' * 24}"):
            with pytest.raises(ResultNoLongerKept, match=GONE):
                default_task_backend.get_result(key + receipt)


class Renamed:
    """A class that is there no more when a result is looked at."""


@pytest.mark.django_db
def test_what_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"func": "jobs.same", "started": timezone.now(), "stopped": timezone.now(), "success": True}
    values = {"args": (Renamed(),), "kwargs": {"a": Renamed()}, "result": Renamed()}
    key = Row.objects.create(id=new_id(), name="n", **known, **values).pk
    assert jobs.same.get_result(key).args[0].startswith(f"<{__name__}.Renamed object")
    monkeypatch.delattr(f"{__name__}.Renamed")
    result = jobs.same.get_result(key)
    told = [*result.args, *result.kwargs.values(), result.return_value]
    assert len(told) == 3
    assert all(text.startswith("<cannot be read: AttributeError: Can't get attribute 'Renamed'") for text in told)


@pytest.mark.django_db
def test_a_task_that_was_cancelled_before_its_first_attempt_has_none(idle: Any) -> None:
    if not idle.can_peek:
        pytest.skip("nothing is taken out of its queue")
    result = jobs.add.using(queue_name="idle").enqueue()
    cancel(result.id, "ada")
    result.refresh()
    assert (result.status, result.attempts, result.worker_ids, result.started_at) == ("FAILED", 0, [], None)
    assert [(error.exception_class, error.traceback) for error in result.errors] == [(Cancelled, "Cancelled by ada")]
    assert in_words(result) == "Failed: Cancelled by ada"
    assert resubmit(Row.objects.get(pk=result.id[:32])) == ""
    with pytest.raises(ResultNoLongerKept, match=GONE):
        result.refresh()


@pytest.mark.django_db
def test_a_task_that_was_cancelled_between_two_attempts_says_so() -> None:
    now = timezone.now()
    known = {"func": "jobs.fail", "started": now, "stopped": now, "success": False, "attempt_count": 1}
    key = Row.objects.create(id=new_id(), name="n", result="odd", **known).pk
    error = {"exception_class_path": "jobs.OddError", "traceback": "odd", "worker": "host:1", "started": str(now)}
    more = {"attempts": 1, "max_attempts": 5, "exception": "jobs.OddError", "errors": [error]}
    Failure.objects.create(task=key, next_try=LATER, **more)
    assert (jobs.fail.get_result(key).status, len(jobs.fail.get_result(key).errors)) == (READY, 1)
    end(key, "ada")
    result = jobs.fail.get_result(key)
    assert (result.status, result.attempts, result.worker_ids) == ("FAILED", 1, ["host:1"])
    assert [error.exception_class for error in result.errors] == [jobs.OddError, Cancelled]
    assert in_words(result) == "Failed: Cancelled by ada"


@pytest.mark.django_db
def test_an_id_is_not_that_of_another_task_of_the_same_receipt(idle: Any) -> None:
    if not idle.can_peek:
        pytest.skip("nobody can be asked")
    result = jobs.add.using(queue_name="idle").enqueue()
    with pytest.raises(ResultNoLongerKept):
        default_task_backend.get_result(new_id() + result.id[32:])


def test_ids_begin_with_the_time_and_are_all_different() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len({*ids}) == 2000
    assert all(len(key) == 32 for key in ids)
    at = results.enqueued_at(ids[0])
    assert at
    assert abs(datetime.now(UTC) - at) < timedelta(seconds=5)


@pytest.mark.django_db
def test_a_task_that_runs_is_found_by_what_async_task_returns(idle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = async_task("jobs.add", 1, cluster="idle")
    run = Running(key, "a name", "jobs.add", "idle", 2, datetime.now(UTC), 0.0, "host:1", "host")
    monkeypatch.setattr(results, "running", {key: run}.get)
    result = default_task_backend.get_result(key)
    assert (result.status, result.attempts, result.worker_ids) == (base.TaskResultStatus.RUNNING, 2, ["", "host:1"])


# Run where they are queued


@pytest.mark.django_db
@pytest.mark.parametrize("everywhere", [True, False])
def test_sync_runs_a_task_with_its_context_and_its_json(everywhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "SYNC", everywhere)
    options = {} if everywhere else {"sync": True}
    seen: list[Any] = []

    def receiver(sender: Any, task_result: Any, **_: Any) -> None:
        seen.append((task_result.id, str(task_result.status), task_result.attempts))

    for signal in (signals.task_started, signals.task_finished):
        signal.connect(receiver)
    try:
        key = async_task(jobs.tell, 4, **options)
        with pytest.raises(jobs.OddError, match="attempt 1"):
            async_task(jobs.third_time, **options)
        with pytest.raises(TypeError, match=r"^The result of return_lock\(\) is no JSON: "):
            async_task("jobs.return_lock", q_options=options)
        paired = async_task(jobs.pair, **options)
        chosen = async_task(jobs.choose, **options)
    finally:
        for signal in (signals.task_started, signals.task_finished):
            signal.disconnect(receiver)
    told = fetch(key).result
    assert told[1:] == [1, "RUNNING", [4], 1, 4]
    assert told[0].startswith(key)
    assert fetch(paired).result == [1, {"a": [2, 3]}]
    kind, more = fetch(chosen).result
    assert (type(kind), type(more["1"]), kind, more) == (str, str, "paid", {"1": "<b>"})
    assert [status for _, status, _ in seen] == [
        *("RUNNING", "SUCCESSFUL", "RUNNING", "FAILED", "RUNNING", "FAILED", "RUNNING", "SUCCESSFUL"),
        *("RUNNING", "SUCCESSFUL"),
    ]


# Checked


def test_the_checks_pass(idle: Any) -> None:
    call_command("check")


def test_a_queue_that_no_cluster_serves_is_named(settings: Settings) -> None:
    settings.TASKS = {"default": {**BACKEND, "QUEUES": ["default", "slwo"]}}
    (problem,) = default_task_backend.check()
    assert (problem.id, problem.msg) == ("worker.E050", "TASKS['default']: no cluster serves the queue 'slwo'.")
    assert problem.hint


@pytest.mark.parametrize("name", ["immediate.ImmediateBackend", "dummy.DummyBackend"])
def test_a_backend_that_would_run_tasks_in_web_is_named(settings: Settings, name: str) -> None:
    path = f"{base.__name__.rpartition('.')[0]}.backends.{name}"
    settings.TASKS = {"default": BACKEND, "other": {"BACKEND": path}}
    (problem,) = check_task_backends()
    assert problem.id == "worker.W051"
    assert problem.msg.startswith("TASKS['other'] ")
    settings.TASKS = {"default": BACKEND}
    assert not list(check_task_backends())


@pytest.mark.django_db
def test_a_schedule_of_a_task_is_that_of_its_path(settings: Settings) -> None:
    settings.Q_SCHEDULE_MODULES = ["jobs"]
    made = schedule(jobs.add, 1, 2, name="of-a-task")
    assert made.func == "jobs.add"
    assert Schedule.objects.get(name="of-a-task").func == "jobs.add"
    made.delete()


@pytest.mark.parametrize("how", ["by hand", "in code"])
def test_a_schedule_queues_a_task_where_that_says(
    how: str, idle: Any, sent: list[Any], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.Q_SCHEDULE_MODULES = ["jobs"]
    monkeypatch.setattr(jobs, "add", jobs.add.using(queue_name="idle"))
    packages.found.cache_clear()
    if how == "by hand":
        made = schedule(jobs.add, 1)
    else:
        monkeypatch.setattr(schedules, "declared", {})
        schedules.schedule(daily_at="03:00", args=[1])(jobs.add)
        made = Schedule.objects.create(**schedules.declared["jobs.add"].fields, next_run=timezone.now())
    monkeypatch.setattr(trigger, "get_broker", Mock(side_effect=tasks.get_broker))
    assert trigger.trigger(made, timezone.now(), get_broker(), Mock()) == ""
    trigger.get_broker.assert_called_once_with("idle")
    assert [package["cluster"] for package in sent] == ["idle"]
    packages.found.cache_clear()


@pytest.mark.django_db
def test_a_schedule_of_a_task_that_using_has_changed_is_refused(idle: Any) -> None:
    keeps = "^A schedule keeps the path jobs.add, and not what using\\(\\) has changed: write "
    changed = jobs.add.using(queue_name="idle", max_attempts=7)
    with pytest.raises(
        ValueError, match=keeps + r"schedule\(add, …, cluster='idle', q_options={'max_attempts': 7}\)\.$"
    ):
        schedule(changed, 1)
    with pytest.raises(ValueError, match=keeps + r"schedule\(add, …, next_run=datetime.*\)\.$"):
        schedule(jobs.add.using(run_after=LATER), 1)
    with pytest.raises(ValueError, match=keeps + r"its backoff in @task\.$"):
        schedule(jobs.add.using(backoff=refuses), 1)
    assert not Schedule.objects.exists()


@pytest.mark.parametrize("path", ["jobs.add", "jobs.that_is_gone"])
def test_what_was_queued_stays_what_it_was_whatever_queues_there_are_now(path: str, settings: Settings) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {"slow": {}, "fast": {}}}
    settings.TASKS = {"default": {**BACKEND, "QUEUES": ["fast"]}}
    found = results.task_of(path, "default", "slow", run_after=LATER, max_attempts=7)
    assert (found.queue_name, found.run_after, found.backend, str(found.module_path)) == (
        "slow",
        LATER,
        "default",
        path,
    )
    if path == "jobs.add":
        assert (found.max_attempts, found.timeout, found.func) == (7, None, jobs.add.func)
