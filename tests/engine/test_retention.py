"""How long results are kept."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_q.models import Task
from pytest_django import DjangoAssertNumQueries, Settings
from worker import retention
from worker.models import Cancellation, Cluster, Failure
from worker.retention import Ceiling, estimate, prune

postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL only")


@pytest.fixture(autouse=True)
def empty(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Provide an empty table, and small batches."""
    monkeypatch.setattr(retention, "BATCH", 10)
    Task.objects.all().delete()
    yield
    Task.objects.all().delete()
    Failure.objects.all().delete()
    Cancellation.objects.all().delete()


def add(days: float, *names: str, success: bool = True, group: str | None = None) -> None:
    """Add results that are so old."""
    at = timezone.now() - timedelta(days=days)
    facts = {"func": "core.tasks.count_words", "started": at, "stopped": at, "success": success, "group": group}
    Task.objects.bulk_create([Task(id=name, name=name, **facts) for name in names])


def kept() -> set[str]:
    """Return the ids of the results that are there."""
    return set(Task.objects.values_list("pk", flat=True))


def many(prefix: str, number: int) -> list[str]:
    """Return names."""
    return [f"{prefix}{index}" for index in range(number)]


def fails(task: str, *, again: bool) -> None:
    """Let a task have failed, and be tried again or not."""
    facts = {"attempts": 1, "max_attempts": 3, "exception": "E", "reason": "", "errors": []}
    Failure.objects.create(task=task, next_try=timezone.now() if again else None, **facts)


def test_orders_and_clusters_of_long_ago_go() -> None:
    old, young = (timezone.now() - timedelta(days=days) for days in (7.1, 6.9))
    for task, since in (("old", old), ("young", young)):
        Cancellation.objects.create(task=task, since=since, by="ada")
    Cluster.objects.create(pk=uuid4(), name="gone", host="there", pid=1, since=young, seen=young, state={})
    prune()
    assert [each.task for each in Cancellation.objects.all()] == ["young"]
    assert not Cluster.objects.filter(name="gone").exists()


def test_results_are_kept_by_their_age_and_failures_for_longer(settings: Settings) -> None:
    add(8, *many("old", 35))
    add(6, "young")
    add(8, *many("failed", 25), success=False)
    add(31, "long-ago", "waits", success=False)
    for task in ("long-ago", "failed0"):
        fails(task, again=False)
    fails("waits", again=True)
    assert prune() == 36
    assert kept() == {"young", "waits", *many("failed", 25)}
    assert set(Failure.objects.values_list("pk", flat=True)) == {"waits", "failed0"}
    settings.Q_KEEP_RESULTS, settings.Q_KEEP_FAILURES = 5, 7
    assert prune() == 26
    assert kept() == {"waits"}


@postgresql
def test_nobody_waits_for_anybody() -> None:
    add(8, *many("old", 35))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Task.objects.filter(pk="old3").update(name="changed")
            held.set()
            done.wait(30)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        assert prune() == 34
    finally:
        done.set()
        thread.join()
    assert kept() == {"old3"}


def turns(ceiling: Ceiling) -> int:
    """Let a ceiling do all that is to be done, and return how often it was asked."""
    number = 1
    while ceiling.turn():
        number += 1
    return number


def test_a_busy_queue_is_cut_and_that_is_said(
    settings: Settings, caplog: pytest.LogCaptureFixture, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    settings.Q_MOST_RESULTS = 40
    add(5, *many("group", 20), group="somebody waits for")
    add(4, *many("failed", 10), success=False)
    add(3, "oldest", *many("old", 30))
    add(2, *many("new", 5))
    ceiling = Ceiling()
    assert turns(ceiling) == 3
    assert len(kept()) == 36  # a batch at a time, and some more, or it would be too many again at once
    assert kept() >= {*many("group", 20), *many("new", 5), *many("failed", 10)}
    assert "there are more results than Q_MOST_RESULTS = 40, and Q_KEEP_RESULTS is not over: deleted 30" in caplog.text
    with django_assert_num_queries(0):
        ceiling.saved = 1
        assert not ceiling.turn()
    Task.objects.filter(success=True, group=None).delete()
    add(1, *many("later", 20), success=False)
    ceiling.saved = 2
    turns(ceiling)
    assert len(kept()) == 30
    assert kept() > set(many("group", 20))  # though they are older
    settings.Q_KEEP_RESULTS = 3
    add(2, *many("again", 15), group="another")
    ceiling.saved = 2
    turns(ceiling)
    assert len(kept()) == 35
    assert kept() > set(many("again", 15))


@postgresql
def test_rows_are_estimated_and_not_counted(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    add(1, *many("row", 2000))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_q_task")
    add(1, *many("later", 2000))
    with django_assert_num_queries(1):
        assert 3000 < estimate("default") < 5000


def test_two_clusters_do_not_delete_the_surplus_twice(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    settings.Q_MOST_RESULTS = 40
    for number, name in enumerate(many("old", 80)):
        add(5 - number / 1000, name)
    one, other = Ceiling(), Ceiling()
    assert one.look()
    assert other.look()
    while one.turn() | other.turn():
        pass
    assert len(kept()) == 38
    assert "up to those of None" not in caplog.text


def test_a_task_that_was_to_be_tried_again_long_ago_is_not_kept_for_ever(settings: Settings) -> None:
    settings.Q_KEEP_FAILURES = 30
    add(40, "lost", "waits", success=False)
    for name, days in {"lost": -40, "waits": 1}.items():
        fails(name, again=True)
        Failure.objects.filter(pk=name).update(next_try=timezone.now() + timedelta(days=days))
    assert prune() == 1
    assert kept() == {"waits"}
