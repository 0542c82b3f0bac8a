"""The start page, the page of a task, those that tell of errors, and the answers to probes."""

from datetime import UTC, datetime, timedelta
from unittest.mock import Mock

import pytest
from django.test import Client
from django.utils import timezone
from django_q.models import Task
from pytest_django import Settings

from core.tasks import count_words
from worker.models import Failure
from worker.processes import workers
from worker.testing import Broker, Queue

pytestmark = pytest.mark.django_db


def test_the_start_page_says_how_to_start_a_worker_that_has_not_reported(staff: Client) -> None:
    page = staff.get("/").content.decode()
    for worker in workers():
        assert f"<code>python manage.py prodserver {worker.name}</code>" in page


def test_the_start_page_has_no_inline_script_or_style(staff: Client) -> None:
    page = staff.get("/").content.decode()
    assert page.count("<script") == page.count("<script src=") == 1
    assert "style=" not in page


def test_a_form_queues_a_task_and_leads_to_its_page(staff: Client, queue: Queue) -> None:
    response = staff.post("/tasks/", {"text": "one two", "offer": "count"})
    queue.assert_queued(count_words, "one two")
    assert "Waiting for a worker" in staff.get(response["Location"]).content.decode()


@pytest.mark.parametrize("form", [{}, {"text": " ", "offer": "count"}, {"text": "x", "offer": "nothing"}])
def test_a_wrong_form_is_refused(staff: Client, form: dict[str, str]) -> None:
    response = staff.post("/tasks/", form)
    assert (response.status_code, response.content) == (400, b"Write a text of at most 500 characters.\n")


THEN = datetime(2030, 1, 1, 10, 42, 7, tzinfo=UTC)
WHY = "Traceback (most recent call last): …\nValueError: no luck"


@pytest.mark.parametrize(
    ("success", "next_try", "done", "text"),
    [
        (True, None, True, "Result: 3"),
        (False, None, True, "Failed: ValueError: no luck"),
        (False, THEN, False, "Attempt 1 of 3 has failed, next at 10:42:07: ValueError: no luck"),
    ],
)
def test_the_page_of_a_task_shows_what_became_of_it(
    staff: Client, success: bool, next_try: datetime | None, done: bool, text: str
) -> None:
    now = timezone.now()
    ended = Task.objects.create(
        id="0" * 32, func="core.tasks.count_words", started=now, stopped=now, success=success, result=3, attempt_count=1
    )
    if not success:
        errors = [{"exception_class_path": "builtins.ValueError", "traceback": WHY, "worker": "a:1", "started": None}]
        Failure.objects.create(task=ended.id, attempts=1, max_attempts=3, next_try=next_try, errors=errors)
    assert text in staff.get(f"/tasks/{ended.id}/").content.decode()
    state = staff.get(f"/tasks/{ended.id}/", headers={"accept": "application/json"}).json()
    assert (state["done"], state["text"][: len(text)]) == (done, text)


def test_the_page_of_a_task_whose_result_is_gone_says_so(staff: Client) -> None:
    year_ago = int((timezone.now() - timedelta(days=365)).timestamp() * 1000)
    page = staff.get(f"/tasks/{year_ago:012x}{'0' * 20}.1/").content.decode()
    assert "Its result is no longer kept, or it was queued again." in page
    assert staff.get("/tasks/none/").status_code == 404


def test_in_production_tasks_are_for_staff(client: Client, queue: Queue) -> None:
    assert "/admin/login/?next=/" in client.get("/").content.decode()
    assert client.get("/tasks/none/").status_code == 403
    assert client.post("/tasks/", {"text": "one", "offer": "count"}).status_code == 403
    assert not queue


def test_in_development_they_are_for_everybody(client: Client, settings: Settings) -> None:
    settings.DEBUG = True
    assert "<form" in client.get("/").content.decode()


def test_errors_look_like_the_rest_of_the_site(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "<h1>Not found</h1>" in client.get("/nowhere/").content.decode()
    strict = Client(enforce_csrf_checks=True)
    assert "<h1>Not allowed</h1>" in strict.post("/tasks/").content.decode()
    monkeypatch.setattr("core.views.render", Mock(side_effect=OSError))
    client.raise_request_exception = False
    assert "<h1>Something went wrong</h1>" in client.get("/").content.decode()


def test_the_admin_can_be_entered(staff: Client) -> None:
    assert staff.get("/admin/").status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_probe_is_answered_whatever_host_it_asks_for(client: Client, path: str) -> None:
    response = client.get(path, headers={"host": "172.19.4.2:8000"})
    assert (response.status_code, response.content) == (200, b"ok\n")


def test_a_probe_says_that_the_broker_does_not_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broker, "ping", Mock(side_effect=OSError("refused")))
    response = client.get("/readyz")
    assert (response.status_code, response.content) == (503, b"the broker does not answer\n")
