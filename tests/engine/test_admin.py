"""Tasks in the admin: which have failed for good, which wait for another attempt, and which are queued again."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from core.models import User
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import Failure, Task
from django_q.signing import SignedPackage
from django_q.tasks import async_task
from worker import failures, models
from worker.enqueue import new_id
from worker.failures import Failed
from worker.packages import pickled
from worker.policy import exponential
from worker.resubmit import resubmit
from worker.tasks import default_task_backend

pytestmark = pytest.mark.django_db
PAGE = "/admin/django_q/failure/"
WAITING = "/admin/worker/waitingtask/"


def failure(name: str, **fields: object) -> Failure:
    """Return a task that has failed."""
    now = timezone.now()
    fields = {"func": "math.sqrt", "args": (-1,), "kwargs": {}, **fields}
    return Failure.objects.create(id=name, name=name, started=now, stopped=now, success=False, **fields)


def attempt(name: str, next_try: float | None = None, **options: object) -> None:
    """Keep an attempt of a task that has failed."""
    error: dict[str, Any] = {
        "exception_class_path": "builtins.ValueError",
        "traceback": "in <module>\nValueError: math domain error",
    }
    error |= {"worker": "host:7", "started": None, "stopped": "2026-01-01T10:42:07+00:00"}
    reason = "ValueError: math domain error"
    kept = pickled("result", options) if options else None
    failures.write([Failed(name, 1, 3, next_try, "builtins.ValueError", reason, json.dumps([error]), kept)], "default")


def again(client: Client, page: str = PAGE) -> str:
    """Queue all failed tasks again, and return the page that follows."""
    chosen = {"action": "resubmit_task", "_selected_action": list(Failure.objects.values_list("pk", flat=True))}
    return str(client.post(page, chosen, follow=True).content.decode())


def somebody(*permissions: str) -> Client:
    """Return the browser of somebody with permissions."""
    user = User.objects.create(username=permissions[0], is_staff=True)
    user.user_permissions.add(*Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Provide the tasks that are queued."""
    queued: list[dict[str, Any]] = []

    class Memory:
        list_key = "memory"

        def enqueue(self, payload: str) -> None:
            queued.append(SignedPackage.loads(payload))

    def queue(*args: object, q_options: dict[str, Any], **options: object) -> None:
        async_task(*args, q_options={**q_options, "broker": Memory()}, **options)

    monkeypatch.setattr("worker.resubmit.async_task", queue)
    return queued


def test_a_task_that_is_refused_is_named_and_holds_up_no_other(queued: list[dict[str, Any]]) -> None:
    failure("first", cluster="gone")
    failure("second", cluster=None)
    page = again(somebody("change_failure"))
    assert "The task first cannot be queued: Q_CLUSTER knows no cluster" in page
    assert [task["name"] for task in queued] == ["second"]
    assert [task.name for task in Task.objects.all()] == ["first"]


def test_a_task_that_should_have_been_tried_again_long_ago_can_be_queued_again(queued: list[dict[str, Any]]) -> None:
    failure("lost", cluster=None)
    failure("waits", cluster=None)
    attempt("lost", time.time() - 4000)
    attempt("waits", time.time() - 60)
    page = again(somebody("change_waitingtask"), WAITING)
    assert [task["name"] for task in queued] == ["lost"], page


@pytest.mark.parametrize(
    ("overdue", "payload", "status"), [(60, None, "READY"), (4000, "", "READY"), (4000, None, "FAILED")]
)
def test_a_task_that_the_queue_has_lost_has_failed(
    monkeypatch: pytest.MonkeyPatch, overdue: int, payload: str | None, status: str
) -> None:
    key = new_id()
    failure(key, func="core.tasks.count_words")
    attempt(key, time.time() - overdue)
    broker = SimpleNamespace(can_peek=True, peek={"1-0": payload}.get)
    monkeypatch.setattr("worker.results.get_broker", lambda cluster: broker)
    assert default_task_backend.get_result(f"{key}.1-0").status == status


def test_who_may_only_look_can_queue_nothing(queued: list[dict[str, Any]]) -> None:
    failure("first", cluster=None)
    again(somebody("view_failure"))
    assert (queued, Failure.objects.count()) == ([], 1)


def test_a_task_that_is_queued_again_keeps_all_but_its_id(queued: list[dict[str, Any]]) -> None:
    options = {"group": "g", "timeout": 3, "max_attempts": 5, "backoff": exponential(first=7), "hook": "core.tasks.h"}
    options |= {"chain": [("math.floor", (1,))], "cached": 60, "save": False, "ack_failure": False}
    failure("kept", args=(-1,), kwargs={"group": 1}, func="core.tasks.anything")
    attempt("kept", **options)
    again(somebody("change_failure"))
    (task,) = queued
    assert task["id"] != "kept"
    assert (task["name"], task["func"], task["args"]) == ("kept", "core.tasks.anything", (-1,))
    assert task["kwargs"] == {"group": 1}
    assert {name: task.get(name) for name in options} == options
    assert not Task.objects.exists()
    assert not models.Failure.objects.exists()


def test_a_task_of_which_no_options_are_kept_is_queued_by_its_row(queued: list[dict[str, Any]]) -> None:
    failure("old", group="g", hook="core.tasks.h")
    again(somebody("change_failure"))
    assert [(task["name"], task["group"], task["hook"]) for task in queued] == [("old", "g", "core.tasks.h")]


def test_a_task_whose_options_cannot_be_read_stays(queued: list[dict[str, Any]]) -> None:
    failure("odd")
    attempt("odd")
    models.Failure.objects.update(options="nonsense")
    assert "The task odd cannot be queued: its options cannot be read" in again(somebody("change_failure"))
    assert (queued, Failure.objects.count()) == ([], 1)


def test_a_task_that_will_be_tried_again_gets_no_second_copy(queued: list[dict[str, Any]]) -> None:
    failure("waits")
    attempt("waits", time.time() + 60)
    page = again(somebody("change_waitingtask"), WAITING)
    assert "Waits will be tried again by itself at " in page
    assert "no second copy of it was queued." in page
    assert (queued, Failure.objects.count()) == ([], 1)


def test_lists_tell_failed_for_good_from_to_be_tried_again() -> None:
    failure("over")
    attempt("over")
    failure("waits")
    attempt("waits", time.time() + 60)
    client = somebody("view_failure", "view_waitingtask")
    over, waits = (client.get(page).content.decode() for page in (PAGE, WAITING))
    assert ("over" in over, f"{PAGE}waits/" in over) == (True, False)
    assert (f"{WAITING}over/" in waits, f"{WAITING}waits/" in waits) == (False, True)
    for text in ("math.sqrt", "ValueError: math domain error", "1 of 3"):
        assert text in waits
    assert time.strftime("%H:%M:", time.localtime(time.time() + 60)) in waits


def test_the_errors_of_each_attempt_are_on_the_page_of_the_task() -> None:
    failure("over")
    attempt("over")
    failure("waits")
    attempt("waits", time.time() + 60)
    client = somebody("view_failure", "view_waitingtask")
    for page in (f"{PAGE}over/change/", f"{WAITING}waits/change/"):
        text = client.get(page).content.decode()
        assert "<summary>builtins.ValueError, 2026-01-01T10:42:07+00:00, host:7</summary>" in text
        assert "<pre>in &lt;module&gt;\nValueError: math domain error</pre>" in text


def test_a_task_is_shown_whatever_its_arguments_and_its_result_are() -> None:
    failure("long", args=(10**5000,), kwargs={"number": 7}, result="no room")
    page = somebody("view_failure", "change_failure").get(f"{PAGE}long/change/").content.decode()
    assert "&lt;tuple&gt;" in page
    assert "{&#x27;number&#x27;: 7}" in page
    assert "no room" in page


@pytest.mark.parametrize(
    ("page", "shown"),
    [("/admin/django_q/success/", ""), (PAGE, "result"), (WAITING, "")],
    ids=["done", "failed", "again"],
)
def test_a_list_reads_nothing_large_that_it_does_not_show(page: str, shown: str) -> None:
    now = timezone.now()
    Task.objects.create(id=new_id(), name="done", func="a", started=now, stopped=now, success=True, result="x" * 1000)
    failure("failed", result="no luck")
    failure("again", result="no luck")
    attempt("again", next_try=time.time() + 60)
    viewer = somebody("view_success", "view_failure", "view_waitingtask")
    with CaptureQueriesContext(connection) as queries:
        assert viewer.get(page).content.decode().count("/change/") == 1
    read = {name for name in ("args", "kwargs", "result") for it in queries if f'q_task"."{name}"' in it["sql"]}
    assert read == {*filter(None, [shown])}


def test_the_groups_of_what_has_succeeded_are_found_and_not_listed() -> None:
    now = timezone.now()
    for name in ("one", "two"):
        facts = {"name": name, "group": f"group {name}", "func": "a", "started": now, "stopped": now, "success": True}
        Task.objects.create(id=new_id(), **facts)
    viewer = somebody("view_success")
    page = viewer.get("/admin/django_q/success/").content.decode()
    assert (page.count("/change/"), "?group" in page) == (2, False)
    assert viewer.get("/admin/django_q/success/?q=group+one").content.decode().count("/change/") == 1


def test_who_deletes_a_task_deletes_its_errors_but_none_that_will_be_tried_again() -> None:
    for name in ("one", "two"):
        failure(name)
        attempt(name)
    failure("waits")
    attempt("waits", time.time() + 60)
    client = somebody("view_failure", "delete_failure", "view_waitingtask", "delete_waitingtask")
    client.post(f"{PAGE}one/delete/", {"post": "yes"})
    client.post(PAGE, {"action": "delete_selected", "_selected_action": ["two"], "post": "yes"})
    assert client.post(f"{WAITING}waits/delete/", {"post": "yes"}).status_code == 403
    assert [row.pk for row in models.Failure.objects.all()] == ["waits"]
    assert [row.pk for row in Failure.objects.all()] == ["waits"]


@pytest.mark.django_db(transaction=True)
def test_a_double_click_queues_one_copy(queued: list[dict[str, Any]]) -> None:
    failure("once")
    attempt("once")
    clicks = Barrier(2)

    def click(_: int) -> str:
        task = Failure.objects.get(pk="once")
        clicks.wait()
        try:
            return str(resubmit(task))
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as threads:
        answers = sorted(threads.map(click, range(2)))
    assert answers == ["", "once is there no more: it was resubmitted or deleted."]
    assert len(queued) == 1
