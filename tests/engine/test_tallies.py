"""What is counted of attempts: all of them, once, whoever has run them."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from clusters import alike_elsewhere, clusters, own_queue
from django.db import OperationalError
from django.utils import timezone
from django_q.models import Task
from project import wait_for
from worker.cluster import tallies
from worker.cluster.messages import Held, Outcome, Result
from worker.cluster.tallies import Tallies
from worker.enqueue import enqueue_many
from worker.failures import CANCELLED, Failed
from worker.models import BUCKETS, Minute, Tally
from worker.packages import failed


def an_outcome(ran: float | None = 0.02, waited: float | None = 700.0, **fields: Any) -> Outcome:
    """Return what has become of an attempt."""
    row = failed("", "no", id="0" * 32, name="a task", func="f")._replace(success=not fields)
    failure = None if row.success else fields.get("failure", Failed("0" * 32, 1, 3, None, "a.B", "c", "[]", None))
    times = (waited, ran) if fields.get("counts", True) else None
    return Outcome(Held(1, "run"), Result(tuple(row), next_try=fields.get("next_try"), failure=failure, times=times))


@pytest.mark.django_db
def test_attempts_are_counted_by_how_they_ended_and_how_long_they_took() -> None:
    cancelled = Failed("0" * 32, 1, 3, None, CANCELLED, "c", "[]", None)
    counted = Tallies()
    counted.note(
        [
            an_outcome(),
            an_outcome(),
            an_outcome(None, None, next_try=5.0),
            an_outcome(failure=None),
            an_outcome(counts=True, next_try=None),
            an_outcome(failure=cancelled),
            an_outcome(counts=False),
        ]
    )
    counted.write()
    counted.note([an_outcome(4000.0)])
    counted.write()
    counted.write()
    rows = {row.outcome: row for row in Tally.objects.filter(func="f")}
    assert {name: row.count for name, row in rows.items()} == {
        "successful": 3,
        "retried": 1,
        "set_aside": 1,
        "failed": 1,
        "cancelled": 1,
    }
    row = rows["successful"]
    assert (round(row.ran, 2), row.waited) == (4000.04, 2100.0)
    assert {place: number for place, number in enumerate(row.ran_buckets) if number} == {1: 2, len(BUCKETS): 1}
    assert {BUCKETS[place]: number for place, number in enumerate(row.waited_buckets) if number} == {1800.0: 3}
    assert (sum(rows["retried"].ran_buckets), rows["retried"].ran) == (0, 0)
    assert sum(row.done for row in Minute.objects.all()) == 3
    assert sum(row.failed for row in Minute.objects.all()) == 2


@pytest.mark.django_db
def test_functions_without_number_are_counted_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "MOST_FUNCTIONS", 3)
    for names in ("ab", "dcef", "aegb", "cg"):
        counted = Tallies()
        for name in names:
            outcome = an_outcome()
            outcome.row = outcome.row._replace(func=name)
            counted.note([outcome])
        counted.write()
    rows = {row.func: row.count for row in Tally.objects.all()}
    assert rows == {"a": 2, "b": 2, "c": 2, tallies.OTHERS: 6}


@pytest.mark.django_db
def test_what_could_not_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Tallies()
    counted.note([an_outcome()])
    with monkeypatch.context() as patched:
        patched.setattr(tallies, "write_counts", Mock(side_effect=OperationalError("away")))
        with pytest.raises(OperationalError):
            counted.write()
    counted.note([an_outcome()])
    counted.write()
    assert Tally.objects.get().count == 2
    assert Minute.objects.get().done == 2


@pytest.mark.django_db
def test_minutes_of_an_hour_ago_go() -> None:
    old = timezone.now() - 2 * tallies.KEPT
    Minute.objects.create(cluster=tallies.Conf.CLUSTER_NAME, minute=old, done=1, failed=0)
    counted = Tallies()
    counted.note([an_outcome()])
    counted.write()
    assert Minute.objects.get().minute != old


@alike_elsewhere
@pytest.mark.django_db(transaction=True)
def test_two_clusters_count_each_of_2000_tasks_once(tmp_path: Path) -> None:
    with own_queue():
        with clusters(tmp_path, 2):
            ids = enqueue_many("math.floor", [(1.5,)] * 1990, cluster="own")
            ids += enqueue_many("math.floor", [("x",)] * 10, cluster="own", q_options={"max_attempts": 1})
            wait_for(lambda: Task.objects.filter(pk__in=ids[-10:]).count() == 10, "the last results")
            wait_for(lambda: Task.objects.filter(func="math.floor").count() == 2000, "all results")
        found = {row.outcome: row for row in Tally.objects.filter(cluster="own")}
        assert {name: row.count for name, row in found.items()} == {"successful": 1990, "failed": 10}
        assert {sum(row.waited_buckets) for row in found.values()} == {1990, 10}
        assert {sum(row.ran_buckets) for row in found.values()} == {1990, 10}
        minutes = Minute.objects.filter(cluster="own")
        assert (sum(row.done for row in minutes), sum(row.failed for row in minutes)) == (1990, 10)
