"""What people order: a queue that is paused begins nothing, and a task that is cancelled does not run, or not on."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import tried
from clusters import alike_elsewhere, clusters, own, own_queue
from django.db import connection, transaction
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.models import Schedule, Task
from django_q.tasks import async_iter, async_task
from project import wait_for
from worker import announcements, packages
from worker.cluster import orders
from worker.cluster.orders import Orders
from worker.cluster.scoreboard import IDLE, LISTED, NO_LIMIT, Scoreboard
from worker.models import Cancellation, Failure, Pause, Tally
from worker.queue import actions

COUNT = "core.tasks.count_words"
by_ada = {"by": "ada"}


@pytest.fixture(autouse=True)
def queue(transactional_db: None) -> Iterator[None]:
    """Provide a queue of the tests' own."""
    with own_queue():
        yield


def pause() -> None:
    """Pause the queue."""
    Pause.objects.create(cluster="own", since=timezone.now(), **by_ada)
    announcements.announce("default", announcements.ORDERS)


def resume() -> None:
    """Take that back."""
    Pause.objects.all().delete()
    announcements.announce("default", announcements.ORDERS)


def cancel(*tasks: str) -> None:
    """Cancel tasks."""
    Cancellation.objects.bulk_create([Cancellation(task=task, since=timezone.now(), **by_ada) for task in tasks])
    announcements.announce("default", announcements.ORDERS)


def queue_task(func: str, *args: Any, **options: Any) -> str:
    """Queue a task, and return its id."""
    identity: str = async_task(func, *args, q_options={"cluster": "own", **options})
    return identity


def lines(folder: Path, key: str) -> int:
    """Return how often a task has begun."""
    return len((folder / key).read_text().splitlines()) if (folder / key).exists() else 0


def test_a_paused_queue_begins_nothing_and_goes_on_within_two_seconds(tmp_path: Path) -> None:
    files = str(tmp_path)
    with clusters(tmp_path, Q_QUIET="2"):  # after which it looks for schedules where none is announced
        long = queue_task("jobs.nap", 3)
        wait_for(lambda: own()[0].running, "the first task")
        pause()
        wait_for(lambda: "ada has paused its queue" in (tmp_path / "clusters.log").read_text(), "pause")
        queue_task("tried.fail", files, "while idle")
        due = timezone.now() - timedelta(seconds=1)
        fields = {"args": "'one two'", "cluster": "own", "next_run": due}
        schedule = Schedule.objects.create(func=COUNT, schedule_type="H", **fields)
        wait_for(lambda: Task.objects.filter(pk=long, success=True), "what ran goes on")
        wait_for(lambda: Schedule.objects.get(pk=schedule.pk).task, "the schedule's task")
        assert not own()[0].ahead  # it keeps nothing back
    with clusters(tmp_path):  # also of those that start meanwhile
        queue_task("tried.fail", files, "later", run_after=timezone.now() + timedelta(seconds=0.5))
        wait_for(lambda: own()[0].alive, "sign")
        time.sleep(1.5)  # in which each of them would have begun
        assert not Task.objects.exclude(pk=long).exists()
        assert not [key for key in ("while idle", "later") if lines(tmp_path, key)]
        begun = time.monotonic()
        resume()
        wait_for(lambda: all(lines(tmp_path, key) for key in ("while idle", "later")), "what has waited")
        wait_for(lambda: Task.objects.filter(func=COUNT, success=True), "the schedule's task")
        assert time.monotonic() - begun < 15  # who has not been told looks after 30 s
    schedule.delete()


def outcomes() -> dict[str, int]:
    """Return how many ended how."""
    found: Counter[str] = Counter()
    for row in Tally.objects.filter(cluster="own"):
        found[row.outcome] += row.count
    return found


def test_a_task_that_is_cancelled_ends_whatever_it_does_and_waits_for_and_no_other(tmp_path: Path) -> None:
    files = str(tmp_path)
    with clusters(tmp_path, Q_WORKERS="2"):
        deaf, sleeper = (queue_task(f"tried.{name}", files, name) for name in ("be_deaf", "sleep"))
        wait_for(lambda: lines(tmp_path, "be_deaf") and lines(tmp_path, "sleep"), "both")
        fetched = queue_task("tried.fail", files, "fetched")
        others = [queue_task("tried.fail", files, f"other {number}") for number in range(4)]
        soon = timezone.now() + timedelta(seconds=2)
        delayed = queue_task("tried.fail", files, "delayed", run_after=soon)
        begun = time.monotonic()
        cancel(deaf, fetched, delayed, "0" * 32)
        wait_for(lambda: Failure.objects.filter(pk=deaf), "the end of one that hears nothing")
        assert time.monotonic() - begun < 15
        failing = queue_task("tried.fail", files, "tried", "ValueError", max_attempts=3, backoff=tried.soon)
        wait_for(lambda: Failure.objects.filter(pk=failing), "a first attempt")
        cancel(failing)
        wait_for(
            lambda: Failure.objects.filter(pk__in=[delayed, fetched, failing], next_try=None).count() == 3, "the end"
        )
        wait_for(lambda: Task.objects.filter(pk__in=others, success=True).count() == 4, "the others")
        cancel(sleeper)
        wait_for(lambda: Failure.objects.filter(pk=sleeper), "the end of one that sleeps")
    for key in (deaf, sleeper, fetched, delayed, failing):
        kept = Failure.objects.get(pk=key)
        assert (kept.reason, kept.exception) == ("Cancelled by ada", "worker.policy.Cancelled")
        assert kept.next_try is None
    assert [lines(tmp_path, key) for key in ("be_deaf", "sleep", "fetched", "delayed", "tried")] == [1, 1, 0, 0, 1]
    assert [lines(tmp_path, f"other {number}") for number in range(4)] == [1] * 4
    assert [each.task for each in Cancellation.objects.all()] == ["0" * 32]
    assert outcomes() == {"successful": 4, "cancelled": 5, "retried": 1}


def test_a_cancelled_task_tells_its_hook_and_ends_its_chain_whether_it_waits_or_runs(tmp_path: Path) -> None:
    files, broker = str(tmp_path), get_broker("own")
    options: dict[str, Any] = {"hook": "tried.note_end", "group": "g", "chain": [("tried.fail", (files, "link"))]}
    with clusters(tmp_path, Q_WORKERS="1"):
        runs = queue_task("tried.sleep", files, "runs", **options)
        wait_for(lambda: lines(tmp_path, "runs"), "a task that runs")
        waits = queue_task("tried.fail", files, "waits", **options)
        parts = async_iter("tried.linger", [(files, "one"), (files, "two")], broker=broker, cluster="own")
        part = [package["id"] for package in waiting(broker) if package["args"] == (files, "two")]
        for key in (waits, *part, runs):
            actions.cancel(key, "ada", patience=0)
        for name in ("runs", "waits"):
            wait_for(lambda name=name: lines(tmp_path, f"hook of {name}"), f"the hook of {name}")  # type: ignore[misc]
        wait_for(lambda: Task.objects.filter(pk=parts).exists(), "an iterable")
        goes_on = queue_task("tried.fail", files, "fails", "KeyError", max_attempts=1, **options)
        wait_for(lambda: lines(tmp_path, "link"), "the link after one that has failed by itself")
    for key, ran in ((runs, 1), (waits, 0)):
        row, kept = Task.objects.get(pk=key), Failure.objects.get(pk=key)
        assert (row.result, row.success, row.group, row.hook) == ("Cancelled by ada", False, "g", "tried.note_end")
        assert (kept.exception, kept.next_try) == ("worker.policy.Cancelled", None)
        assert lines(tmp_path, row.args[1]) == ran
        assert " ".join((tmp_path / f"hook of {row.args[1]}").read_text().split()[:-1]) == "False Cancelled by ada"
    assert (lines(tmp_path, "link"), lines(tmp_path, "two")) == (1, 0 if part else 1)
    assert not Task.objects.get(pk=goes_on).success
    assert ("Cancelled by ada" in Task.objects.get(pk=parts).result) is bool(part)


def waiting(broker: Any) -> Iterator[dict[str, Any]]:
    """Yield the packages that nobody holds, where a broker shows them."""
    for _, payload in broker.payloads(100) if broker.can_peek else ():
        yield packages.opened(payload)


@alike_elsewhere
def test_a_cancelled_task_that_ends_meanwhile_costs_no_other_an_attempt(tmp_path: Path) -> None:
    files = str(tmp_path)
    with clusters(tmp_path, Q_WORKERS="2"):
        ids = [queue_task("tried.linger", files, f"{number}", max_attempts=1) for number in range(60)]
        for identity in ids[::6]:
            wait_for(lambda key=identity: lines(tmp_path, f"{ids.index(key)}"), "begin")  # type: ignore[misc]
            cancel(identity)
        wait_for(lambda: Task.objects.filter(pk__in=ids).count() == 60, "all of them")
    failed = [ids.index(row.pk) for row in Task.objects.filter(pk__in=ids, success=False)]
    assert all(number % 6 == 0 for number in failed)
    assert max(lines(tmp_path, f"{number}") for number in range(60)) <= 2


# Parts


def held_by(listener: Any) -> Orders:
    """Return the orders of an agent that holds something."""
    return Orders(Mock(held={1: 1}, scoreboard=Scoreboard(1)), listener)


def test_a_database_that_is_away_holds_up_tasks_and_their_leases_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "PATIENCE", 0.9)
    listener = SimpleNamespace(hears=False, bell=threading.Event())
    given = held_by(listener)
    begun = time.monotonic()
    given.refresh()
    assert time.monotonic() - begun > 0.8
    assert listener.bell.is_set()
    begun = time.monotonic()
    monkeypatch.setattr(orders, "PATIENCE", 60)
    given.refresh()
    assert time.monotonic() - begun < 5
    monkeypatch.setattr(orders, "PATIENCE", 0.9)
    given.agent.held.clear()
    assert given.is_due()  # though it idles: what comes next is to be held if somebody has paused the queue
    given.look()
    given.looked = 0.0
    assert not given.is_due()
    given.refresh()
    assert time.monotonic() - begun > 0.8
    monkeypatch.setattr(orders, "PATIENCE", 60)
    monkeypatch.setattr(orders, "WITHIN", 5)
    given.look()
    begun = time.monotonic()
    given.refresh()  # it has just looked
    listener.hears, given.looked = True, 0.0
    given.refresh()  # it would have been told
    assert time.monotonic() - begun < 5


def test_orders_are_looked_at_each_second_only_where_none_are_announced_and_something_is_done() -> None:
    listener = SimpleNamespace(hears=False)
    given = held_by(listener)
    assert given.is_due()
    given.agent.held.clear()
    assert not given.is_due()
    given.paused = True
    assert given.is_due()
    listener.hears = True
    assert not given.is_due()


def test_workers_know_which_tasks_may_be_cancelled() -> None:
    scoreboard = Scoreboard(1)
    assert not scoreboard.may_be_cancelled("a")
    scoreboard.cancel(["a", "b" * 32])
    assert [scoreboard.may_be_cancelled(key) for key in ("a", "b" * 32, "b" * 31, "c")] == [True, True, False, False]
    scoreboard.cancel([str(number) for number in range(LISTED + 1)])
    assert scoreboard.may_be_cancelled("c")  # perhaps: the database is asked
    scoreboard.cancel([])
    assert not scoreboard.may_be_cancelled("a")


def test_an_attempt_that_has_ended_is_not_wanted_to_end() -> None:
    scoreboard = Scoreboard(1)
    worker = scoreboard.workers[0]
    assert not worker.is_ended
    worker.start("a", "f", 1)
    (running,) = scoreboard.attempts()
    worker.ended = running.since
    assert worker.is_ended
    worker.since = 0.0
    assert not worker.is_ended
    worker.start("b", "f", 1)
    assert not worker.is_ended


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no such locks")
def test_orders_that_cannot_be_read_hold_up_no_task(tmp_path: Path) -> None:
    with clusters(tmp_path), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE worker_pause")
        announcements.announce("default", announcements.ORDERS)
        other = threading.Thread(target=queue_and_close, args=(str(tmp_path),))
        other.start()
        wait_for(lambda: lines(tmp_path, "one"), "a task")
        other.join()


def queue_and_close(files: str) -> None:
    """Queue a task on a connection of this thread's own."""
    queue_task("tried.fail", files, "one")
    connection.close()


def test_who_has_cancelled_a_task_is_told() -> None:
    cancel("a")
    assert (orders.cancelled_by("a"), orders.cancelled_by("b")) == ("ada", None)


def test_a_hook_is_not_told_of_as_the_attempt_before_it() -> None:
    worker = Scoreboard(1).workers[0]
    worker.in_user_code = True
    worker.start("a" * 32, "core.tasks.tidy", 2)
    assert worker.keys == {"task_id": "a" * 32, "task": "core.tasks.tidy", "attempt": 2}
    worker.since = 0.0
    worker.begin(IDLE)
    worker.begin(NO_LIMIT)
    worker.in_user_code = True
    assert worker.keys == {}
