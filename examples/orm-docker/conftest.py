"""What the tests share: a queue in memory, in the place of the broker's server, and somebody on the staff."""

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django_q.conf import Conf
from django_q.signing import SignedPackage


class Queue:
    """Keeps what is queued."""

    tasks: list[dict[str, Any]] = []

    def __init__(self, list_key: str) -> None:
        """Take the place of the broker; the key is the name of the cluster."""
        self.list_key = list_key

    def enqueue(self, payload: str) -> None:
        """Keep a task."""
        self.tasks.append(SignedPackage.loads(payload))

    def enqueue_all(self, payloads: list[str]) -> None:
        """Keep tasks."""
        for payload in payloads:
            self.enqueue(payload)

    def ping(self) -> bool:
        """Answer a probe."""
        return True


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Provide the tasks that the test queues: nobody runs them but the test itself."""
    monkeypatch.setattr(Queue, "tasks", [])
    monkeypatch.setattr(Conf, "BROKER_CLASS", "conftest.Queue")
    return Queue.tasks


@pytest.fixture
def staff(client: Client, db: None) -> Client:
    """Provide the browser of somebody on the staff, who needs no password here: to hash one takes long."""
    client.force_login(get_user_model().objects.create(username="ada", is_staff=True))
    return client
