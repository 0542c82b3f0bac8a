"""The queue is looked at, and acted upon, while real workers run its tasks."""

import http.client
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from django_q.models import Schedule, Task
from django_q.tasks import async_task
from project import Site, running, wait_for
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pytest_django import DjangoDbBlocker
from worker import announcements
from worker.models import Cancellation, Failure
from worker.queue.overview import overview
from worker.queue.state import QueueState


@pytest.fixture(autouse=True)
def _beside(site: Site, django_db_blocker: DjangoDbBlocker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the database of the workers, without a transaction, and their folder of signs; leave no queue paused."""
    monkeypatch.setenv("TMPDIR", site.env["TMPDIR"])
    with django_db_blocker.unblock():
        if not alive():  # other tests have emptied the tables: it writes its row anew when it has something to show
            ended(async_task("time.sleep", 1.5))
            wait_for(lambda: alive() and not queue().running, "the worker's sign")
        yield
        if queue().paused_since:
            command("resume", "default")


def command(*arguments: str) -> None:
    """Run `manage.py queue`."""
    call_command("queue", *arguments)


def pause(site: Site) -> None:
    """Pause the first queue, and wait until its worker has heard of it: a moment, or where nobody can tell it a second.

    Where it looks by itself, it says nothing while it has nothing to do.
    """
    if not (announcements.client() or connection.vendor == "postgresql"):
        command("pause", "default")
        time.sleep(1.1)
        return

    def knows() -> bool:
        log = (site.logs / "worker.log").read_text()
        return log.rfind("begins no task") > log.rfind("begins tasks again")

    wait_for(lambda: not knows(), "a worker that knows of the end of the last pause")
    command("pause", "default")
    wait_for(knows, "a worker that knows of the pause")


def queue() -> QueueState:
    """Return the state of the first queue."""
    return overview().queues[0]


def ended(key: str) -> Any:
    """Return the result of a task, once there is one."""
    wait_for(lambda: Task.objects.filter(pk=key).exists(), "a result")
    return Task.objects.get(pk=key)


def test_a_paused_queue_begins_nothing_until_it_goes_on(site: Site, tmp_path: Path) -> None:
    pause(site)
    keys = [async_task("tried.note", str(tmp_path), f"{number}", "ran") for number in range(3)]
    wait_for(lambda: queue().waiting == 3, "three tasks that wait")
    state = queue()
    assert (state.running, state.ahead, state.start_with) == (0, 0, "")
    assert state.paused_by.partition("@")[0]
    assert not list(tmp_path.iterdir())
    command("resume", "default")
    assert all(ended(key).success for key in keys)
    wait_for(lambda: queue().done >= 3, "three that are counted, within seconds")


def test_what_waits_is_taken_out(site: Site, tmp_path: Path) -> None:
    pause(site)
    for number in range(3):
        async_task("tried.note", str(tmp_path), f"{number}", "ran")
    wait_for(lambda: queue().waiting == 3, "three tasks that wait")
    command("purge", "default", "--yes")
    wait_for(lambda: queue().waiting == 0, "an empty queue")
    command("resume", "default")
    assert ended(async_task("tried.note", str(tmp_path), "last", "ran")).success
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_what_has_failed_is_run_again(tmp_path: Path) -> None:
    options = {"max_attempts": 1}
    key = async_task("tried.fail", str(tmp_path), "a", "ValueError", task_name="a", q_options=options)
    assert not ended(key).success
    group = next(group for group in overview().failed if key in group.ids)
    assert (group.func, group.reason, group.count) == ("tried.fail", "ValueError: no 1", 1)
    command("retry", key)
    wait_for(lambda: Task.objects.filter(name="a", success=True).exists(), "another attempt")
    assert not Task.objects.filter(pk=key).exists()


def test_a_task_that_waits_is_cancelled_and_never_begins(site: Site, tmp_path: Path) -> None:
    pause(site)
    key = async_task("tried.note", str(tmp_path), "a", "ran")
    wait_for(lambda: queue().waiting == 1, "a task that waits")
    command("cancel", key, "--yes")
    command("resume", "default")
    row = ended(key)
    assert not row.success
    assert row.result.startswith("Cancelled by ")
    assert Failure.objects.get(pk=key).exception == "worker.policy.Cancelled"
    assert not list(tmp_path.iterdir())


def test_a_task_that_runs_is_ended_and_not_tried_again(site: Site, tmp_path: Path) -> None:
    key = async_task("tried.sleep", str(tmp_path), "a", task_name="a", q_options={"timeout": 500})
    wait_for(lambda: key in {each.id for each in overview().running}, "the task among those that run")
    shown = next(each for each in overview().running if each.id == key)
    assert (shown.func, shown.queue, shown.attempt) == ("tried.sleep", "default", 1)
    begun = time.monotonic()
    command("cancel", key, "--yes")
    row = ended(key)
    assert time.monotonic() - begun < 15
    assert row.result.startswith("Cancelled by ")
    assert Failure.objects.get(pk=key).next_try is None
    wait_for(lambda: not Cancellation.objects.filter(pk=key).exists(), "no order left")
    assert ended(async_task("tried.note", str(tmp_path), "b", "ran")).success
    wait_for(lambda: ("default", "tried.sleep", "cancelled") in told(site), "the outcome among the metrics")


def told(site: Site) -> set[tuple[str, ...]]:
    """Return how attempts have ended, by queue, function and outcome, as web tells Prometheus."""
    web = http.client.HTTPConnection("127.0.0.1", int(site.env["PORT"]), timeout=10)
    with closing(web):
        web.request("GET", "/metrics", headers={"Authorization": f"Bearer {site.env['METRICS_TOKEN']}"})
        families = text_string_to_metric_families(web.getresponse().read().decode())
        samples = [each for family in families for each in family.samples if each.name == "django_q_tasks_total"]
    return {tuple(each.labels[name] for name in ("queue", "function", "outcome")) for each in samples}


def test_a_schedule_is_run_now() -> None:
    later = timezone.now() + timedelta(days=1)
    row = Schedule.objects.create(name="at work", func="core.tasks.count_words", args="'one two'", next_run=later)
    try:
        command("run-schedule", "at work")
        row.refresh_from_db()
        assert ended(row.task).result == 2
        shown = next(each for each in overview().schedules if each.id == row.pk)
        assert (shown.next, shown.overdue, shown.last_failed, bool(shown.last)) == (later, 0, False, True)
    finally:
        row.delete()


def test_a_worker_that_was_killed_is_soon_known_to_be_dead(site: Site, tmp_path: Path) -> None:
    # Of SQS a queue of its own: what the dead one's poll is still given there comes to others after a lease.
    with running("worker", {**site.env, "SQS_QUEUE_NAME": "killed"}, tmp_path) as worker:
        wait_for(lambda: worker.pid in alive(), "the second worker")
        os.killpg(worker.pid, signal.SIGKILL)
        begun = time.monotonic()
        wait_for(lambda: worker.pid not in alive(), "its death")
        assert time.monotonic() - begun < 20  # by what it has written last it would be after 90
    assert worker.pid in {cluster.pid for cluster in queue().clusters}


def alive() -> set[int]:
    """Return the main processes that are alive."""
    return {cluster.pid for cluster in queue().clusters if cluster.alive}
