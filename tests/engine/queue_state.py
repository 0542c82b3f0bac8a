"""What tests of the overview let there be: signs of clusters, a broker's depth, failures and schedules."""

import json
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_q.models import Schedule, Task
from worker import failures, models
from worker.delivery import Depth
from worker.enqueue import new_id
from worker.failures import Failed
from worker.processes import clusters, queue_of
from worker.queue import depths, signs
from worker.queue.state import ClusterState, Running
from worker.single_flight import Question


def empty() -> None:
    """Remove, for this test alone, what tests with real workers have left."""
    for model in (Task, Schedule, models.Failure, models.ScheduleState, models.Minute, models.Tally, models.Pause):
        model.objects.all().delete()


def wait_for_questions() -> None:
    """Return once nobody asks a server: what still waits would meet the next test's tables."""
    for thread in threading.enumerate():
        if isinstance(thread, Question):
            thread.join(10)


def sign(cluster: str | None = None, **fields: Any) -> ClusterState:
    """Return what a cluster has said."""
    now, name = timezone.now(), cluster or clusters()[0]
    given: dict[str, Any] = {"host": "here", "pid": 7, "since": now, "seen": now, "alive": True, "workers": 2}
    return ClusterState(name=name, queue=queue_of(name), **given | {"ahead": 0, "oldest": None} | fields)


def run(key: str, seconds: float = 2.0) -> Running:
    """Return an attempt that goes on."""
    since = timezone.now() - timedelta(seconds=seconds)
    where = {"queue": "default", "worker": "here:8", "host": "here"}
    return Running(key, f"name of {key}", "core.tasks.count_words", attempt=1, since=since, seconds=seconds, **where)


def give_signs(monkeypatch: pytest.MonkeyPatch, *found: ClusterState) -> None:
    """Let clusters have said this."""
    monkeypatch.setattr(signs, "look", lambda patience=3.0: list(found))


def set_depth(monkeypatch: pytest.MonkeyPatch, *depth: Any, error: Exception | None = None, peeks: bool = True) -> None:
    """Let each queue be as deep as this, or its broker not answer."""

    class Broker:
        can_peek = peeks

        def depth(self, most: int) -> Depth:
            if error:
                raise error
            return Depth(*depth)

    monkeypatch.setattr(depths, "get_broker", lambda cluster: Broker())


def failed(
    reason: str = "ValueError: no",
    *,
    func: str = "core.tasks.count_words",
    exception: str = "builtins.ValueError",
    next_try: datetime | None = None,
    ago: float = 0,
    **fields: Any,
) -> str:
    """Let a task have failed, for good unless it will be tried again; return its id."""
    now = timezone.now() - timedelta(seconds=ago)
    key: str = new_id()
    known = {"name": f"name of {key[:6]}", "started": now, "stopped": now, "result": reason, "attempt_count": 1}
    Task.objects.create(id=key, func=func, success=False, **{"args": ("one",), "kwargs": {}, **known, **fields})
    error = {"exception_class_path": exception, "traceback": reason, "worker": "here:8", "started": None}
    errors = json.dumps([{**error, "stopped": now.isoformat()}])
    following = next_try.timestamp() if next_try else None
    failures.write([Failed(key, 1, 3, following, exception, reason, errors, None)], "default")
    return key
