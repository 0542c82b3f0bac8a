"""The start page, the page of a task, and the answers to probes."""

from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone
from django_q.models import Task
from pytest_django import DjangoCaptureOnCommitCallbacks

from tests.conftest import Queue
from worker.processes import workers

pytestmark = pytest.mark.django_db


def test_the_start_page_says_how_to_start_a_worker_that_has_not_reported(client: Client) -> None:
    page = client.get("/").content.decode()
    for worker in workers():
        assert f"<code>python manage.py prodserver {worker.name}</code>" in page


def test_the_start_page_has_no_inline_script_or_style(client: Client) -> None:
    page = client.get("/").content.decode()
    assert page.count("<script") == page.count("<script src=") == 1
    assert "style=" not in page


def test_a_task_is_queued_once_the_transaction_is_committed(
    client: Client, queue: list[dict[str, Any]], django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        response = client.post("/tasks/", {"text": "one two", "offer": "count"})
    assert not queue
    for callback in callbacks:
        callback()
    (task,) = queue
    assert task["func"](*task["args"]) == 2
    assert response["Location"] == f"/tasks/{task['name']}/"


@pytest.mark.parametrize("form", [{}, {"text": " ", "offer": "count"}, {"text": "x", "offer": "nothing"}])
def test_a_wrong_form_is_refused(client: Client, form: dict[str, str]) -> None:
    response = client.post("/tasks/", form)
    assert (response.status_code, response.content) == (400, b"Write a text of at most 500 characters.\n")


@pytest.mark.parametrize(
    ("success", "result", "text"),
    [(True, 3, "Result: 3"), (False, "no luck : Traceback (most recent call last): …", "Failed: no luck")],
)
def test_the_page_of_a_task_shows_how_it_ended(client: Client, success: bool, result: object, text: str) -> None:
    name, now = uuid4(), timezone.now()
    Task.objects.create(
        id=name.hex, name=str(name), func="count", started=now, stopped=now, success=success, result=result
    )
    assert text in client.get(f"/tasks/{name}/").content.decode()
    assert client.get(f"/tasks/{name}/", headers={"accept": "application/json"}).json() == {"done": True, "text": text}


def test_the_page_of_a_waiting_task_says_so(client: Client) -> None:
    assert "Waiting for a worker" in client.get(f"/tasks/{uuid4()}/").content.decode()


def test_the_admin_can_be_entered(admin_client: Client) -> None:
    assert admin_client.get("/admin/").status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_probe_is_answered_whatever_host_it_asks_for(client: Client, path: str) -> None:
    response = client.get(path, headers={"host": "172.19.4.2:8000"})
    assert (response.status_code, response.content) == (200, b"ok\n")


def test_a_probe_says_that_the_broker_does_not_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queue, "ping", Mock(side_effect=OSError("refused")))
    response = client.get("/readyz")
    assert (response.status_code, response.content) == (503, b"the broker does not answer\n")
