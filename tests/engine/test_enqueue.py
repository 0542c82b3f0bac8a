"""Many tasks at once: one request to the broker, and for the rest what async_task() does for each."""

import functools
import inspect
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jobs
import pytest
from django.core.cache import caches
from django.core.exceptions import ValidationError
from django_q.signals import pre_enqueue
from django_q.signing import SignedPackage
from django_q.tasks import AsyncTask, async_chain, async_iter, async_task, schedule
from project import manage
from pytest_django import Settings
from worker.broker import Broker
from worker.cluster.after import queue_next
from worker.enqueue import Collector, enqueue_many
from worker.packages import pack
from worker.testing import queued


class Counting:
    """Stands in for the broker, and keeps what comes with each request."""

    list_key = "memory"

    def __init__(self) -> None:
        """Begin with none."""
        self.cache = caches["default"]
        self.requests: list[list[str]] = []

    def enqueue_all(self, payloads: list[str], after: datetime | None = None) -> None:
        """Keep it."""
        self.requests.append(payloads)


@pytest.fixture
def broker() -> Counting:
    """Provide a broker."""
    return Counting()


def test_tasks_keep_their_order_options_and_signals(broker: Counting, caplog: pytest.LogCaptureFixture) -> None:
    announced = []

    def receiver(task: Any, **_: Any) -> None:
        announced.append(task["id"])

    pre_enqueue.connect(receiver)
    try:
        with caplog.at_level(logging.INFO, "django-q"):
            ids = enqueue_many(dict, (([(2, number)],) for number in range(3)), broker=broker, group="powers", more=1)
    finally:
        pre_enqueue.disconnect(receiver)
    (payloads,) = broker.requests
    tasks = [SignedPackage.loads(payload) for payload in payloads]
    assert [(task["id"], task["args"]) for task in tasks] == [(ids[number], ([(2, number)],)) for number in range(3)]
    assert all((task["group"], task["kwargs"]) == ("powers", {"more": 1}) for task in tasks)
    assert announced == ids
    assert [record.getMessage() for record in caplog.records] == ["Enqueued [memory] 3 tasks"]


def test_nothing_is_sent_if_one_task_cannot_be_pickled(broker: Counting) -> None:
    with pytest.raises(Exception, match="lambda"):
        enqueue_many("math.floor", [(1,), (lambda: 1,)], broker=broker)
    assert not broker.requests


@pytest.mark.parametrize(
    ("calls", "sentence"),
    [
        (["one", "two"], "enqueue_many() takes a tuple of arguments for each task, as in [(1,), (2,)]; it was"),
        ([{"text": 1}], "enqueue_many() takes a tuple of arguments for each task, as in [(1,), (2,)]; it was given {"),
        ([1, 2], "enqueue_many() takes a tuple of arguments for each task, as in [(1,), (2,)]; it was given 1."),
        ([("one",), ("one", 2)], "fail() cannot be called so: too many positional arguments."),
        ([("one",), ()], "fail() cannot be called so: missing a required argument: 'text'."),
    ],
)
def test_calls_that_no_function_takes_are_refused(broker: Counting, calls: list[Any], sentence: str) -> None:
    with pytest.raises(TypeError) as refusal:
        enqueue_many(jobs.fail, calls, broker=broker)
    assert str(refusal.value).startswith(sentence)
    assert not broker.requests


def test_no_task_is_no_request(broker: Counting) -> None:
    assert enqueue_many("math.floor", [], broker=broker) == []
    assert not broker.requests


@pytest.mark.django_db
def test_tasks_that_are_to_run_here_are_not_sent(broker: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_q.monitor.get_broker", lambda: broker)  # it saves the result, here too
    assert len(enqueue_many("math.floor", [(1.5,)], broker=broker, sync=True)) == 1
    assert not broker.requests


def takes(text: str, *, times: int = 1) -> None:
    """Stand for a task."""


def takes_all(**words: object) -> None:
    """Stand for a task that takes any word."""


def injected(*args: object, tenant: str = "", **words: object) -> None:
    """Stand for a task with a decorator that tells of another signature."""


injected.__signature__ = inspect.signature(takes)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("time_out", "'time_out' is no option of async_task(), and no argument of takes(). Did you mean 'timeout'?"),
        (
            "max_attempts",
            "'max_attempts' is no option of async_task(), and no argument of takes(). "
            "Write it in q_options: q_options={'max_attempts': …}.",
        ),
        ("countdown", "'countdown' is no option of async_task(), and no argument of takes(). Known are: ack_"),
    ],
)
def test_an_option_that_is_none_is_refused_where_it_is_given(broker: Counting, word: str, sentence: str) -> None:
    for function in (takes, f"{__name__}.takes"):
        with pytest.raises(TypeError) as refusal:
            async_task(function, "a", broker=broker, **{word: 3})
        assert str(refusal.value).startswith(sentence)
        with pytest.raises(TypeError, match=word):
            enqueue_many(function, [("a",)], broker=broker, **{word: 3})
    assert not broker.requests


@pytest.mark.parametrize(
    "function", [takes_all, injected, f"{__name__}.takes_all", "a_module.that_web_does_not_have", dict]
)
def test_a_word_that_may_be_the_functions_is_not_refused(broker: Counting, function: Any) -> None:
    enqueue_many(function, [()], broker=broker, time_out=3)
    enqueue_many(takes, [("a",)], broker=broker, times=3, timeout=9, task_name="a", group="b")
    assert len(broker.requests) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kwargs": 3}, r"^kwargs 3 is no dict\.$"),
        ({"chain": 3}, r"^chain 3 is no list\.$"),
        ({"hook": 3}, r"^hook 3 is no dotted path and no function\.$"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused(broker: Counting, options: dict[str, Any], sentence: str) -> None:
    for queue in async_task, enqueue_many:
        with pytest.raises(TypeError, match=sentence):
            queue(takes, [("a",)], broker=broker, q_options=options)
    assert not broker.requests


def test_the_first_cluster_may_be_called_as_its_queue_is(settings: Settings) -> None:
    name = settings.Q_CLUSTER["name"]
    with queued() as queue:
        async_task(takes, "a", cluster="default")
        async_task(takes, "b", q_options={"cluster": "default"})
        enqueue_many(takes, [("c",)], cluster="default")
        enqueue_many(takes, [("d",)], q_options={"cluster": "default"})
    assert [(task.cluster, task.queue_name) for task in queue] == [(name, "default")] * 4
    for wanted in {"cluster": "default"}, {"cluster": name}, {"queue_name": "default"}:
        queue.assert_queued(takes, "a", **wanted)
    with pytest.raises(AssertionError):
        queue.assert_queued(takes, "a", queue_name="slow")


def test_a_cluster_that_nobody_serves_is_refused_where_it_is_named(broker: Counting, settings: Settings) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {"fast": {}}}
    sentence = r"^Q_CLUSTER knows no cluster 'fats'\. Did you mean 'fast'\?$"
    with pytest.raises(ValueError, match=sentence):
        async_task(takes, "a", broker=broker, cluster="fats")
    with pytest.raises(ValueError, match=sentence):
        enqueue_many(takes, [("a",)], broker=broker, cluster="fats")
    with pytest.raises(ValueError, match=r"^Q_CLUSTER knows no cluster 3\. Known are: "):
        async_task(takes, "a", broker=broker, cluster=3)
    assert not broker.requests
    enqueue_many(takes, [("a",)], broker=broker, cluster="fast")
    enqueue_many(takes, [("a",)], broker=broker, cluster=settings.Q_CLUSTER["name"])
    assert len(broker.requests) == 2


def test_a_cluster_that_nobody_serves_is_refused_before_it_has_a_queue(
    broker: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Mock()
    monkeypatch.setattr("django_q.tasks.get_broker", asked)
    monkeypatch.setattr("worker.enqueue.get_broker", asked)
    for options in {"cluster": "fats"}, {"q_options": {"cluster": "fats"}}:
        for queue in async_task, enqueue_many:
            with pytest.raises(ValueError, match="knows no cluster 'fats'"):
                queue(takes, [("a",)], **options)
    assert not asked.called


@pytest.mark.django_db
def test_a_broker_for_a_cluster_that_nobody_serves_is_refused(settings: Settings) -> None:
    broker = Mock(cluster="fats")
    with pytest.raises(ValueError, match="knows no cluster 'fats'"):
        async_task(takes, "a", broker=broker)
    with pytest.raises(ValueError, match="knows no cluster 'fats'"):
        enqueue_many(takes, [("a",)], broker=broker)
    assert not broker.enqueue.called
    assert not broker.enqueue_all.called
    name = settings.Q_CLUSTER["name"]
    assert Broker(name).cluster == Broker().cluster == name


def test_many_tasks_go_to_the_cluster_that_their_options_name(
    broker: Counting, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {"fast": {}}}
    asked = Mock(return_value=broker)
    monkeypatch.setattr("worker.enqueue.get_broker", asked)
    enqueue_many(takes, [("a",)], q_options={"cluster": "fast"})
    asked.assert_called_once_with("fast")


def test_an_option_in_q_options_that_is_none_is_refused(broker: Counting) -> None:
    sentence = r"^'time_out' is no option of async_task\(\), in q_options\. Did you mean 'timeout'\?$"
    for queue in async_task, enqueue_many:
        with pytest.raises(TypeError, match=sentence):
            queue(takes, [("a",)], broker=broker, q_options={"group": "a", "time_out": 3})
        with pytest.raises(TypeError, match=r"^q_options are a dict, not \['timeout'\]\.$"):
            queue(takes, [("a",)], broker=broker, q_options=["timeout"])
    assert not broker.requests
    enqueue_many(takes, [("a",)], broker=broker, q_options={"timeout": 3, "task_name": "a"})
    assert len(broker.requests) == 1


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ((takes, ("a",), {"time_out": 3}), "'time_out' is no option of async_task(), and no argument of takes()."),
        ((takes, ("a",), {"q_options": {"time_out": 3}}), "'time_out' is no option of async_task(), in q_options."),
        ((takes, ("a",), {"cluster": "fats"}), "Q_CLUSTER knows no cluster 'fats'."),
    ],
)
def test_a_later_link_of_a_chain_is_refused_with_the_first(link: Any, sentence: str) -> None:
    broker = Mock(spec=["enqueue", "list_key"])
    with pytest.raises((TypeError, ValueError)) as refusal:
        async_chain([(takes, ("a",)), takes, link], broker=broker)
    assert str(refusal.value).startswith(sentence)
    assert not broker.enqueue.called


def test_a_function_that_no_worker_finds_is_refused(broker: Counting) -> None:
    def inside() -> None:
        pass

    with pytest.raises(ValueError, match=r"^async_task\(\) cannot queue <function .*inside.*, which no worker finds; "):
        async_task("math.floor", 1.5, hook=inside, broker=broker)
    for function in (lambda: 1, inside, functools.partial(inside)):
        sentence = r"^async_task\(\) cannot queue .+, which no worker finds; write a function at the top of a module\.$"
        with pytest.raises(ValueError, match=sentence):
            async_task(function, broker=broker)
        with pytest.raises(ValueError, match=sentence):
            enqueue_many(function, [()], broker=broker)
        for link in (function, (function,), (function, ())):
            with pytest.raises(ValueError, match=sentence):
                async_chain([(takes, ("a",)), link], broker=broker)
    assert not broker.requests


@pytest.mark.django_db
def test_a_schedule_for_a_cluster_that_nobody_serves_is_refused(settings: Settings) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {"fast": {}}}
    with pytest.raises(ValidationError, match=r"knows no cluster 'fats'\. Did you mean 'fast'\?"):
        schedule("core.tasks.count_words", "a", cluster="fats")
    schedule("core.tasks.count_words", "a", cluster="fast").delete()


class Remembering(Counting):
    """Keeps each task that is queued, and when it is to be taken."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.tasks: list[tuple[dict[str, Any], datetime | None]] = []

    def enqueue(self, payload: str, after: datetime | None = None) -> str:
        """Keep it."""
        self.tasks.append((SignedPackage.loads(payload), after))
        return "1"


@pytest.mark.django_db
def test_max_attempts_backoff_and_run_after_are_options_however_a_task_is_queued() -> None:
    broker = Remembering()
    later = datetime.now(UTC) + timedelta(hours=1)
    options = {"max_attempts": 7, "run_after": later, "save": True}
    async_task(takes, "a", broker=broker, q_options=options)
    AsyncTask(takes, "a", broker=broker, q_options=options).run()
    async_chain([(takes, ("a",), {"q_options": options})], broker=broker)
    async_iter(takes, ["a"], q_options=options | {"broker": broker})
    for task, after in broker.tasks:
        assert (task["max_attempts"], task["run_after"], task["args"], after) == (7, later, ("a",), later)
        assert task["kwargs"] == {}
    assert len(broker.tasks) == 4
    assert options == {"max_attempts": 7, "run_after": later, "save": True}
    async_task(takes, "a", broker=broker)
    assert "max_attempts" not in broker.tasks[-1][0]
    assert broker.tasks[-1][1] is None


def test_each_link_of_a_chain_waits_for_its_own_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Remembering()
    monkeypatch.setattr("worker.cluster.after.get_broker", lambda name=None: broker)
    later = datetime.now(UTC) + timedelta(hours=1)
    waits = {"q_options": {"run_after": later}}
    links: list[Any] | None = [(jobs.add.using(run_after=later), ()), (takes, ("a",), waits), (takes, ())]
    while links:
        task: dict[str, Any] = {
            "id": "0" * 32,
            "name": "a task",
            "func": "math.floor",
            "args": (),
            "kwargs": {},
            "chain": links,
        }
        task |= {"started": later, "stopped": later, "success": True, "result": 1}
        queue_next(task, pack(task, ""))
        links = broker.tasks[-1][0].get("chain")
    assert [after for _, after in broker.tasks] == [later, later, None]


OTHERS = """
from config.settings import *

INSTALLED_APPS.append("early")
"""

ASK = """
import json
from django.contrib import admin
from django_q import admin as pages, scheduler, tasks
import early.models
from worker import enqueue

admin.autodiscover()
modules = (early.models, pages, scheduler, tasks)
others = [module.__name__ for module in modules if module.async_task is not enqueue.async_task]
print(json.dumps(others))
"""


def test_it_takes_the_place_of_django_q2s_own_before_any_app_imports_that(tmp_path: Path) -> None:
    (tmp_path / "others.py").write_text(OTHERS)
    app = tmp_path / "early"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "models.py").write_text("from django_q.tasks import async_task\n")
    env = {"DJANGO_SETTINGS_MODULE": "others", "PYTHONPATH": str(tmp_path), "DEBUG": "true"}
    done = manage("shell", "--no-imports", "-c", ASK, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_a_keyword_of_a_task_may_have_any_name() -> None:
    collector = Collector("here")
    async_task("jobs.any", known=1, broker=collector)
    (payload,) = collector.payloads
    assert SignedPackage.loads(payload)["kwargs"] == {"known": 1}
