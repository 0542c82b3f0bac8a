"""For tests: what was queued, running it in the test's own process, and a real worker beside the test.

    with queued() as queue:                     # in a TestCase, too
        self.client.post("/orders/", {...})     # which queues a task, at once or on commit
    queue.assert_queued(send_receipt, 7)
    assert queue.run() == ["sent"]

As pytest fixtures: `queue` keeps what the test queues, and `real_worker` lets a process of its own run it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test.runner import DiscoverRunner

from worker.testing.memory import Broker, Queue, Queued, kept, queued
from worker.testing.process import working

__all__ = ["Broker", "Queue", "Queued", "Runner", "queue", "queued", "real_worker", "working"]


class Runner(DiscoverRunner):
    """Runs `manage.py test`, in which nothing that is queued goes to the broker either."""

    def run_tests(self, *args: Any, **kwargs: Any) -> Any:
        with kept(Queue()):  # migrations may queue, too
            return super().run_tests(*args, **kwargs)


@pytest.fixture(scope="session", autouse=True)
def _queue_of_all() -> Iterator[None]:
    """Keep from the broker what is queued before a test itself, as by setUpTestData()."""
    with kept(Queue()):
        yield


@pytest.fixture(autouse=True)
def queue() -> Iterator[Queue]:
    """Provide what the test queues: nobody runs it but the test itself, and no test needs a server."""
    with kept(Queue()) as queue:
        yield queue


@pytest.fixture
def real_worker(queue: Queue, transactional_db: None, tmp_path: Path) -> Iterator[None]:
    """Let a real worker run what the test queues."""
    with working(tmp_path):
        yield
