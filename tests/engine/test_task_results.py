"""Django's tasks as workers run them, and what is known of them meanwhile and afterwards."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import jobs
import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.models import Task as Row
from django_q.tasks import async_iter, async_task, fetch
from project import Site, wait_for
from worker.django_tasks import base
from worker.enqueue import enqueue_many
from worker.queue.signs import running
from worker.results import ResultNoLongerKept
from worker.tasks import TaskResultDoesNotExist, default_task_backend, in_words

Status = base.TaskResultStatus

#: What is queued at once, since each would wait for its turn otherwise: name, task, arguments.
QUEUED: dict[str, tuple[Any, ...]] = {
    "add": (jobs.add, 1, 2),
    "add_later": (jobs.add_later, 1, 2),
    "tell": (jobs.tell, 4),
    "third_time": (jobs.third_time,),
    "fail": (jobs.fail, "why"),
    "fail_for_long": (jobs.fail_for_long,),
    "fail_silently": (jobs.fail_silently,),
    "leave": (jobs.leave,),
    "interrupt": (jobs.interrupt,),
    "die": (jobs.die,),
    "return_lock": (jobs.return_lock,),
    "return_iterator": (jobs.return_iterator,),
    "nest": (jobs.nest,),
    "pair": (jobs.pair,),
    "overrun": (jobs.overrun,),
    "overrun_later": (jobs.overrun_later,),
    "call_others": (jobs.call_others, 1),
    "look_up": (jobs.look_up,),
    "return_itself": (jobs.return_itself,),
    "return_half": (jobs.return_half,),
    "a receiver that fails": (jobs.add, 7),
    "a receiver that leaves": (jobs.add, 8),
}


@pytest.fixture(autouse=True)
def database(environment: dict[str, str], django_db_blocker: Any) -> Iterator[None]:
    """Use the database of the workers, and leave in it what they need."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture(scope="module")
def ended(site: Site, django_db_blocker: Any) -> dict[str, Any]:
    """Provide the results of all of them, once they have ended."""
    with django_db_blocker.unblock():
        queued = {name: task.enqueue(*arguments) for name, (task, *arguments) in QUEUED.items()}
        for name, result in queued.items():
            wait_for(partial(is_over, result), f"result of {name}")
    return queued


def is_over(result: Any) -> bool:
    """Say whether a task has ended, or has failed and waits for long."""
    result.refresh()
    return bool(
        result.is_finished
        or (result.next_attempt_at and result.next_attempt_at > timezone.now() + timedelta(minutes=1))
    )


VALUES = {
    "add": 3,
    "add_later": 3,
    "pair": [1, {"a": [2, 3]}],
    "third_time": [3, ["jobs.OddError", "jobs.OddError"]],
    "call_others": 2,
    "a receiver that fails": 7,
    "a receiver that leaves": 8,
}


@pytest.mark.parametrize("name", VALUES)
def test_a_task_succeeds(ended: dict[str, Any], name: str) -> None:
    result = ended[name]
    assert (result.status, result.return_value) == (Status.SUCCESSFUL, VALUES[name])
    assert result.enqueued_at <= result.started_at <= result.last_attempted_at <= result.finished_at
    assert result.attempts == len(result.worker_ids) == 1 + len(result.errors)
    assert result.task.get_result(result.id) == result
    assert in_words(result) == f"Result: {VALUES[name]}"


def test_a_task_is_told_its_context(ended: dict[str, Any]) -> None:
    result = ended["tell"]
    assert result.return_value == [result.id, 1, "RUNNING", [4], 1, 4]


#: By task: the class of the exception of each attempt, and how the last traceback ends.
FAILED = {
    "fail": (["jobs.OddError", "jobs.OddError"], "jobs.OddError: why"),
    "fail_silently": (["jobs.SilentError"], "jobs.SilentError: <exception str() failed>"),
    "leave": (["builtins.SystemExit"], "SystemExit: left"),
    "interrupt": (["builtins.KeyboardInterrupt"], "KeyboardInterrupt"),
    "die": (["worker.policy.WorkerDied"], "WorkerDied: The worker died (SIGKILL) while it ran this task"),
    "nest": (["builtins.ValueError"], "ValueError: deep"),
    "overrun": (["django_q.exceptions.TimeoutException"], "Task exceeded maximum timeout value (1 seconds)"),
    "overrun_later": (["django_q.exceptions.TimeoutException"], "Task exceeded maximum timeout value (1 seconds)"),
    "return_lock": (
        ["builtins.TypeError"],
        "TypeError: The result of return_lock() is no JSON: Unsupported type: <class '_thread.lock'>; take str(…) or "
        "list(…) of it, or the primary key of a row",
    ),
    "return_itself": (
        ["builtins.TypeError"],
        "TypeError: The result of return_itself() is no JSON: it holds itself, or is nested too deeply",
    ),
    "return_half": (["builtins.TypeError"], "it holds the half character '\\ud800', which has no UTF-8"),
    "return_iterator": (
        ["builtins.TypeError"],
        "TypeError: The result of return_iterator() is no JSON: Unsupported type: <class 'list_iterator'>; take "
        "str(…) or list(…) of it, or the primary key of a row",
    ),
}


@pytest.mark.parametrize("name", FAILED)
def test_a_task_fails(ended: dict[str, Any], name: str) -> None:
    result, (classes, end) = ended[name], FAILED[name]
    assert (result.status, result.is_finished) == (Status.FAILED, True)
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    assert [error.exception_class_path for error in result.errors] == classes
    assert all(issubclass(error.exception_class, BaseException) for error in result.errors)
    assert result.errors[-1].traceback.endswith((end, f"{end}\n"))
    assert result.attempts == len(result.worker_ids) == len(classes)
    assert result.enqueued_at <= result.finished_at
    assert result.enqueued_at <= result.started_at <= result.last_attempted_at <= result.finished_at
    assert in_words(result).startswith("Failed: ")
    assert end in in_words(result)


def test_a_task_that_looks_itself_up_is_running(ended: dict[str, Any]) -> None:
    assert ended["look_up"].return_value == [["RUNNING", 1]] * 3


def test_a_traceback_shows_all_of_the_exception(ended: dict[str, Any]) -> None:
    assert 'raise ValueError(ValueError("deep"))' in ended["nest"].errors[0].traceback


def test_a_task_that_will_be_tried_again_has_not_failed(ended: dict[str, Any]) -> None:
    result = ended["fail_for_long"]
    assert (result.status, result.is_finished, result.attempts, result.finished_at) == (Status.READY, False, 1, None)
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value
    assert (result.max_attempts, [error.exception_class for error in result.errors]) == (3, [jobs.OddError])
    assert timedelta(seconds=595) < result.next_attempt_at - result.last_attempted_at < timedelta(seconds=605)
    then = timezone.localtime(result.next_attempt_at).strftime("%H:%M:%S")
    assert in_words(result) == f"Attempt 1 of 3 has failed, next at {then}: jobs.OddError: not yet"


def test_the_page_and_its_script_are_told_so(ended: dict[str, Any], client: Client) -> None:
    from django.contrib.auth import get_user_model

    client.force_login(get_user_model().objects.get_or_create(username="grace", is_staff=True)[0])
    result = ended["fail_for_long"]
    state = client.get(f"/tasks/{result.id}/", headers={"accept": "application/json"}).json()
    assert state == {"done": False, "text": in_words(result)}
    assert "jobs.OddError: not yet" in client.get(f"/tasks/{result.id}/").content.decode()


# Signals, in the worker


def test_receivers_are_told_of_each_attempt_and_of_the_end(ended: dict[str, Any]) -> None:
    told = {name: cache.get(f"told-{ended[name].id}") for name in ("add", "third_time", "fail", "die")}
    began = [("started", "Backend", "RUNNING", attempt, attempt - 1) for attempt in (1, 2, 3)]
    assert told["add"] == [*began[:1], ("finished", "Backend", "SUCCESSFUL", 1, 0)]
    assert told["third_time"] == [*began, ("finished", "Backend", "SUCCESSFUL", 3, 2)]
    assert told["fail"] == [*began[:2], ("finished", "Backend", "FAILED", 2, 2)]
    assert told["die"] == [*began[:1], ("finished", "Backend", "FAILED", 1, 1)]


def test_the_log_tells_of_each_attempt_once(ended: dict[str, Any], site: Site) -> None:
    log = (site.logs / "worker.log").read_text()
    for name in ("add", "fail"):
        path = ended[name].task.module_path
        assert f"{'Processed' if name == 'add' else 'Failed'} '{path}'" in log
    assert "Task id=" not in log, "Django's own lines say the same"


# What is queued otherwise


def test_tasks_are_queued_by_django_q2_too(site: Site) -> None:
    ids = [
        async_task(jobs.add, 1, 2),
        *enqueue_many(jobs.add, [(3,)]),
        async_task("jobs.add", 4),
        async_task(jobs.plain_later, 5),
    ]
    parts = async_iter(jobs.add, [6, 7])
    for number, key in enumerate([*ids, parts]):
        wait_for(partial(fetch, key), f"result {number}")
    assert [fetch(key).result for key in ids] == [3, 3, 4, 5]
    assert fetch(parts).result == [6, 7]
    assert default_task_backend.get_result(ids[0]).return_value == 3  # the broker's receipt is needed while it waits
    with pytest.raises(TaskResultDoesNotExist, match=r"^jobs\.plain_later is no task; "):
        default_task_backend.get_result(ids[3])


def test_a_task_that_is_not_there_any_more_fails(site: Site) -> None:
    key = async_task("jobs.gone", 1, q_options={"max_attempts": 1})
    wait_for(lambda: fetch(key), "result")
    result = default_task_backend.get_result(key)
    assert (result.status, result.task.module_path, result.args) == (Status.FAILED, "jobs.gone", [1])
    assert "Function jobs.gone is not defined" in result.errors[0].traceback
    with pytest.raises(LookupError, match="The function of this task is not known here"):
        result.task.call()


def test_arguments_that_async_task_takes_beside_json_are_shown(site: Site) -> None:
    key = async_task(jobs.same, {3}, q_options={"max_attempts": 1})
    wait_for(lambda: fetch(key), "result")
    result = default_task_backend.get_result(key)
    assert (result.status, result.args) == (Status.FAILED, ["{3}"])


def test_a_result_that_was_deleted_is_kept_no_longer(ended: dict[str, Any], site: Site) -> None:
    result = jobs.add.enqueue(1)
    wait_for(lambda: is_over(result), "result")
    Row.objects.filter(pk=result.id[:32]).delete()
    if get_broker().can_peek:
        with pytest.raises(ResultNoLongerKept):
            result.refresh()


# What is running


def test_a_task_that_goes_on_is_shown_as_running_within_two_seconds(site: Site) -> None:
    result = jobs.wait_for.enqueue("let-go")
    seen = []

    def is_running() -> bool:
        result.refresh()
        seen.append(result.status)
        return bool(result.status == Status.RUNNING)

    wait_for(is_running, "state")
    late = timezone.now() - result.started_at
    assert {*seen[:-1]} <= {Status.READY}
    assert late < timedelta(seconds=2.2)
    assert (result.attempts, result.errors, in_words(result)) == (1, [], "Running …")
    cache.set("let-go", 1)
    wait_for(lambda: is_over(result), "result")
    assert (result.status, result.return_value, result.attempts) == (Status.SUCCESSFUL, "let go", 1)
    wait_for(lambda: running(result.id[:32]) is None, "end of what is shown")
