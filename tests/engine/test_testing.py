"""What worker.testing promises to tests: what was queued, running it, and messages that help."""

import os
import re
import sqlite3
import subprocess
import sys
from asyncio import CancelledError
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from core.tasks import count_words
from django.conf import settings
from django.contrib.auth.models import Group
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction
from django.test import TestCase
from django.utils import timezone
from django_q.models import Task
from django_q.tasks import async_chain, async_iter, async_task, result
from project import PROJECT, wait_for
from worker import testing
from worker.enqueue import enqueue_many
from worker.queue.actions import purge
from worker.queue.overview import overview
from worker.testing import Queue, queued, working

queue = testing.queue  # the fixture, which a project gets by pytest_plugins
calls: list[object] = []


def call(one: object) -> object:
    """Note a call, and return its argument."""
    calls.append(one)
    return one


def fail_once(number: int) -> int:
    """Fail at the first call."""
    calls.append(number)
    if calls == [number]:
        raise ValueError("not yet")
    return number


def hook(task: Task) -> None:
    """Note the result of a task, and queue another."""
    calls.append(f"hook of {task.result}")
    async_task(call, "queued by a hook")


def in_an_hour() -> datetime:
    """Return a time to which no test waits."""
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture(autouse=True)
def _forget() -> None:
    calls.clear()


class QueuedTest(TestCase):  # type: ignore[misc] # its types are not here
    """As somebody writes who knows no pytest."""

    def test_what_is_queued_in_a_block_is_there_also_on_commit(self) -> None:  # noqa: D102
        with queued() as queue:
            async_task("time.sleep", 1, hook="core.tasks.count_words", task_name="nap")
            transaction.on_commit(partial(async_task, call, one=1, group="some"))
            enqueue_many(call, [(1,), (2,)])
            assert len(queue) == 3
        assert [(it.function, it.args, it.kwargs) for it in queue] == [
            ("time.sleep", (1,), {}),
            (f"{__name__}.call", (1,), {}),
            (f"{__name__}.call", (2,), {}),
            (f"{__name__}.call", (), {"one": 1}),
        ]
        assert (queue[0].name, queue[0].hook, queue[0].group) == ("nap", "core.tasks.count_words", None)
        assert queue.assert_queued(call, one=1, group="some") is queue[3]
        assert queue[3].cluster == settings.Q_CLUSTER["name"]

    def test_what_waits_runs_in_its_order_and_with_its_hooks_within_the_transaction(self) -> None:  # noqa: D102
        with queued() as queue:
            async_task(call, 1, hook=hook)
            async_task(call, "delayed", q_options={"run_after": in_an_hour()})
            async_task(call, 2)
        assert queue.run() == [1, 2, "queued by a hook", "delayed"]
        assert calls == [1, "hook of 1", 2, "queued by a hook", "delayed"]
        assert Task.objects.filter(success=True).count() == 4
        assert not queue

    def test_what_a_task_does_on_commit_comes_before_the_next_task(self) -> None:  # noqa: D102
        with queued() as queue:
            async_task(count_down, 3)
            assert queue.run() == [3, 2, 1, 0]
        assert not queue, "the end of the block calls nothing again"
        assert failure(queue, call).endswith("call() was not queued. Queued was: nothing")

    def test_a_callback_is_called_once_whatever_blocks_are_around_it(self) -> None:  # noqa: D102
        with queued() as outer:
            with queued() as inner:
                transaction.on_commit(partial(async_task, call, 1))
            with self.captureOnCommitCallbacks(execute=True):
                transaction.on_commit(partial(async_task, call, 2))
        assert [len(inner), len(outer)] == [1, 1]
        with queued() as inside, self.captureOnCommitCallbacks(execute=True):
            transaction.on_commit(partial(async_task, call, 3))
        with self.captureOnCommitCallbacks(execute=True), queued() as outside:
            transaction.on_commit(partial(async_task, call, 4), robust=True)
        assert [len(inside), len(outside)] == [1, 1]


def count_down(number: int) -> int:
    """Queue itself with one less, on commit."""
    if number:
        transaction.on_commit(partial(async_task, count_down, number - 1))
    return number


@pytest.mark.django_db
def test_chains_and_iterables_go_on(queue: Queue) -> None:
    async_chain([(call, (1,)), (call, (2,))])
    identity = async_iter(call, [3, 4])
    queue.run()
    assert set(calls) == {1, 2, 3, 4}
    assert result(identity) == [3, 4]


@pytest.mark.django_db
def test_a_failure_is_recorded_and_raised_and_the_next_run_is_the_next_attempt(queue: Queue) -> None:
    async_task(fail_once, 7)
    with pytest.raises(ValueError, match="not yet"):
        queue.run()
    (failed,) = Task.objects.all()
    assert (failed.success, failed.attempt_count) == (False, 1)
    assert queue.run() == [7]
    failed.refresh_from_db()
    assert (failed.success, failed.attempt_count) == (True, 2)


@pytest.mark.django_db
def test_failures_that_are_not_raised_are_tried_again_at_once_as_often_as_may_be(queue: Queue) -> None:
    async_task(fail_once, 7)
    async_task("core.nothing")
    results = queue.run(raises=False)
    assert [str(it).partition(" : ")[0] for it in results if it != 7].count("not yet") == 1
    assert results.count(7) == 1
    assert Task.objects.get(func="core.nothing").attempt_count == settings.Q_CLUSTER["max_attempts"]
    assert not queue


LEAVES: list[BaseException] = [SystemExit(3), CancelledError(), GeneratorExit()]


def leave(number: int) -> None:
    """Raise what is no Exception."""
    raise LEAVES[number]


@pytest.mark.django_db
@pytest.mark.parametrize("number", range(len(LEAVES)))
def test_what_ends_a_worker_is_a_failure_like_others(number: int, queue: Queue) -> None:
    key = async_task(leave, number)
    with pytest.raises(type(LEAVES[number])):
        queue.run()
    queue.run(raises=False)
    assert Task.objects.get(pk=key).attempt_count == 3


def collide(swallow: bool, raw: bool) -> None:
    """Let the database refuse something, by a model or behind Django's back."""
    Group.objects.create(name="twice")
    try:
        if raw:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM nowhere")
        else:
            Group.objects.create(name="twice")
    except DatabaseError:
        if not swallow:
            raise


def collide_in_a_hook(task: Task) -> None:
    """Let the database refuse something in a hook."""
    collide(swallow=False, raw=False)


@pytest.mark.django_db
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("swallow", [True, False])
def test_an_error_of_the_database_is_the_tasks_and_the_tests_transaction_goes_on(
    raw: bool, swallow: bool, queue: Queue
) -> None:
    Group.objects.create(name="before")
    key = async_task(collide, swallow, raw)
    if swallow:
        queue.run()
    else:
        with pytest.raises(DatabaseError, match="nowhere" if raw else r"(?i)unique"):
            queue.run()
        queue.run(raises=False)
    row = Task.objects.get(pk=key)
    assert (row.success, row.attempt_count) == ((True, 1) if swallow else (False, 3))
    assert Group.objects.filter(name="before").exists()


@pytest.mark.django_db
def test_an_error_of_the_database_in_a_hook_changes_nothing(queue: Queue) -> None:
    key = async_task(call, 1, hook=collide_in_a_hook)
    async_task(call, 2)
    assert queue.run() == [1, 2]
    assert Task.objects.get(pk=key).success


@pytest.mark.django_db(transaction=True)
def test_an_asynchronous_test_runs_what_waits_in_a_thread(queue: Queue) -> None:
    async def test() -> list[object]:
        async_task(call, 1)
        results: list[object] = await sync_to_async(queue.run)()
        return results

    assert async_to_sync(test)() == [1]


@pytest.mark.django_db
def test_what_never_ends_is_ended(queue: Queue) -> None:
    async_task(forever)
    with pytest.raises(AssertionError, match=r"1000 attempts were made, and still there wait:\s+\S+\.forever\(\)"):
        queue.run()


def forever() -> None:
    """Queue itself."""
    async_task(forever)


@pytest.mark.parametrize(
    ("error", "code"), [(IntegrityError("refused by a trigger"), 0), (OperationalError("full"), sqlite3.SQLITE_FULL)]
)
@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.django_db
def test_a_result_that_the_database_does_not_take_is_no_secret(
    error: Exception, code: int, raises: bool, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    error.__cause__ = sqlite3.Error()
    error.__cause__.sqlite_errorcode = code
    monkeypatch.setattr("worker.cluster.saving.insert", Mock(side_effect=error))
    async_task(call, 1)
    with pytest.raises(type(error), match=str(error)):
        queue.run(raises=raises)
    assert calls == [1]


def test_an_assertion_that_fails_lists_what_was_queued(queue: Queue) -> None:
    with pytest.raises(AssertionError, match=r"call\(1, cluster='slow'\) was not queued. Queued was: nothing"):
        queue.assert_queued(call, 1, cluster="slow")
    async_task(call, 2)
    async_task("time.sleep", 3, q_options={"run_after": in_an_hour()})
    with pytest.raises(AssertionError) as error:
        queue.assert_queued(call, 1)
    assert re.search(
        r"Queued was: \n    \S+\.call\(2\)\n    time\.sleep\(3\) \(not before \S+ \S+\)$", str(error.value)
    )


def failure(queue: Queue, function: object, *args: object) -> str:
    """Return what an assertion says that fails."""
    with pytest.raises(AssertionError) as error:
        queue.assert_queued(function, *args)
    return str(error.value)


def test_what_is_long_is_cut_in_messages(queue: Queue) -> None:
    async_task(call, "x" * 1_000)
    said = failure(queue, call, "y" * 1_000)
    assert re.search(r"call\('y{76}\.\.\.\) was not queued. Queued was: \n +\S+\.call\('x{76}\.\.\.\)$", said), said[
        :999
    ]


def test_a_path_that_leads_to_nothing_is_told_from_what_was_not_queued(queue: Queue) -> None:
    wrong = (
        "core.tasks.cuont_words() was not queued. There is no 'core.tasks.cuont_words'. Did you mean 'core.tasks.count"
    )
    assert failure(queue, "core.tasks.cuont_words").startswith(wrong)
    assert (
        failure(queue, "nowhere.zzzz")
        == "nowhere.zzzz() was not queued. There is no 'nowhere.zzzz'. Queued was: nothing"
    )
    assert failure(queue, "core.tasks.count_words") == "core.tasks.count_words() was not queued. Queued was: nothing"
    async_task("cor.tasks.count_words", 1)
    assert "There is no 'cor.task.count_words'. Did you mean 'cor.tasks.count_" in failure(
        queue, "cor.task.count_words"
    )
    assert "There is no" not in failure(queue, "cor.tasks.count_words", 2)


@pytest.mark.django_db
def test_a_block_that_has_not_ended_is_told_where_something_waits_for_the_commit() -> None:
    with queued() as inside:
        assert failure(inside, call).endswith("call() was not queued. Queued was: nothing")
        transaction.on_commit(partial(async_task, call, 1))
        said = failure(inside, call)
        assert (
            "Callbacks of transaction.on_commit() come at the end of a block of queued(). Queued was: nothing" in said
        )
    inside.assert_queued(call, 1)
    assert "on_commit" not in failure(inside, call, 2)


@pytest.mark.django_db(transaction=True)
def test_a_real_worker_runs_a_task_of_django_whose_result_is_asked_for(tmp_path: Path) -> None:
    with working(tmp_path):
        result = count_words.enqueue("one two")
        result.refresh()

        def is_over() -> bool:
            result.refresh()
            return bool(result.is_finished)

        wait_for(is_over, "the result")
        assert (result.return_value, result.task.queue_name) == (2, "default")


def test_a_broker_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.Q_CLUSTER, "broker_class", f"{__name__}.Absent")
    with (
        pytest.raises(pytest.fail.Exception, match=r"The broker does not answer .OSError: gone.* README"),
        working(tmp_path),
    ):
        pass


@pytest.mark.django_db
def test_a_real_worker_is_refused_where_nothing_is_committed(tmp_path: Path) -> None:
    with (
        pytest.raises(pytest.fail.Exception, match=r"^A real worker sees only what is committed: write a Transaction"),
        working(tmp_path),
    ):
        pass


OUTSIDE = """
from core.tasks import count_words
from django.db.models.signals import post_migrate
from django.test import TestCase
from django_q.brokers import get_broker


def enqueue(text):
    assert type(get_broker()).__module__ == "worker.testing.memory"
    count_words.enqueue(text)


post_migrate.connect(lambda **facts: enqueue("of a migration"), weak=False)


def setUpModule():
    enqueue("of a module")


class OfClass(TestCase):
    @classmethod
    def setUpTestData(cls):
        enqueue("of a class")

    def test_it(self):
        enqueue("of a test")
"""


@pytest.mark.parametrize("command", [("-m", "pytest", "--ds", "config.settings"), ("manage.py", "test")])
def test_what_is_queued_beside_a_test_stays_in_memory_too(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "test_outside.py").write_text(OUTSIDE)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["worker.testing"]\n')
    done = subprocess.run(
        [sys.executable, *command, tmp_path],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.django_db
def test_the_overview_tells_of_what_a_test_has_queued() -> None:
    with queued() as queue:
        async_task(call, 1)
        async_task(call, 2, q_options={"run_after": timezone.now() + timedelta(hours=1)})
        (state,) = (it for it in overview(patience=0.0).queues if it.name == "default")
        assert (state.problem, state.waiting, state.due) == ("", 1, 1)
        assert state.oldest is not None
        purge("default", "ada")
        assert not queue


class Absent:
    """A broker whose server is away."""

    def __init__(self, list_key: str) -> None:
        """Serve a cluster."""

    def ping(self) -> None:
        """Fail."""
        raise OSError("gone")
