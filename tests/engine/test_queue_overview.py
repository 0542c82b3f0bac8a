"""The overview of the queues: what it tells, from how many queries, and as what text."""

import json
import math
from dataclasses import asdict
from datetime import timedelta

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import Schedule, Task
from queue_state import empty, failed, give_signs, run, set_depth, sign
from worker.cluster.due import record
from worker.enqueue import new_id
from worker.models import Minute, Pause, ScheduleState
from worker.processes import clusters
from worker.queue import overview as overviews
from worker.queue.depths import MOST
from worker.queue.overview import excesses, overview
from worker.queue.text import text

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quiet(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without clusters, and with empty queues."""
    empty()
    give_signs(monkeypatch)
    set_depth(monkeypatch, 0, 0, 0, None)


def test_a_queue_is_what_its_broker_and_its_clusters_say(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now().timestamp()
    set_depth(monkeypatch, 10, 3, 6, now - 20)
    one = sign(ahead=4, oldest=now - 50, running=[run("a", 9)])
    give_signs(monkeypatch, one, sign(pid=8, workers=1), sign(pid=9, alive=False, ahead=100))
    queue = overview().queues[0]
    assert (queue.waiting, queue.due, queue.ahead, queue.running) == (14, 3, 4, 2)  # two of six are in the workers
    assert queue.oldest is not None
    assert 50 <= queue.oldest < 60
    assert [cluster.pid for cluster in queue.clusters] == [7, 8, 9]
    assert (queue.start_with, queue.problem, queue.more) == ("", "", False)


def test_what_dead_clusters_hold_comes_when_their_leases_have_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    set_depth(monkeypatch, 1, 2, 5, None)
    give_signs(monkeypatch, sign(alive=False, ahead=4, running=[run("a")]))
    found = overview()
    queue = found.queues[0]
    assert (queue.waiting, queue.due, queue.running, found.running) == (1, 7, 0, [])
    assert queue.start_with == "python manage.py prodserver worker"


def test_what_sqs_hides_until_a_further_attempt_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    set_depth(monkeypatch, 0, 1, 6, None, peeks=False)
    give_signs(monkeypatch, sign(workers=8, ahead=1))
    for cluster, minutes in ((clusters()[0], 1), (clusters()[0], 2), (clusters()[0], -1), ("other", 1)):
        failed(next_try=now + timedelta(minutes=minutes), cluster=cluster)
    queue = overview().queues[0]
    assert (queue.due, queue.running) == (3, 3)  # of six that are taken, two are put off, and one is fetched ahead


def test_counting_ends_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    set_depth(monkeypatch, MOST, 0, 0, None)
    assert overview().queues[0].more
    assert f" {MOST}+ " in text(overview())


def test_a_broker_that_is_away_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    set_depth(monkeypatch, error=OSError("redis://user:secret@nowhere refused"))
    give_signs(monkeypatch, sign(running=[run("a")]))
    failed()
    found = overview()
    queue = found.queues[0]
    assert (queue.waiting, queue.due, queue.running) == (None, None, 1)
    assert queue.problem == "The broker does not answer (OSError: redis://…@nowhere refused)."
    assert found.failed_total == len(found.running) == 1
    assert "secret" not in text(found)


def test_what_has_ended_lately_is_counted_by_queue() -> None:
    now = timezone.now().replace(second=0, microsecond=0)
    for cluster in clusters():
        for age, done in ((0, 3), (2, 4), (9, 100)):
            Minute.objects.create(cluster=cluster, minute=now - timedelta(minutes=age), done=done, failed=1)
    assert [(queue.done, queue.failed) for queue in overview().queues] == [(7, 2)] * len(clusters())


def test_a_pause_is_shown() -> None:
    assert overview().queues[0].paused_since is None
    Pause.objects.create(cluster=clusters()[0], by="ada", since=timezone.now())
    queue = overview().queues[0]
    assert queue.paused_by == "ada"
    assert queue.paused_since
    assert "default: paused by ada since " in text(overview())


def test_failures_for_good_are_grouped_by_function_and_exception() -> None:
    later = timezone.now() + timedelta(minutes=5)
    keys = [failed(f"ValueError: no user {age}", ago=age) for age in range(5)]
    failed("KeyError: 1", exception="builtins.KeyError", ago=9)
    failed("ValueError: no", func="core.tasks.reverse", ago=20)
    failed("ValueError: no", next_try=later)
    found = overview()
    assert found.failed_total == 7
    assert [(group.func, group.exception, group.reason, group.count) for group in found.failed] == [
        ("core.tasks.count_words", "builtins.ValueError", "ValueError: no user 0", 5),
        ("core.tasks.count_words", "builtins.KeyError", "KeyError: 1", 1),
        ("core.tasks.reverse", "builtins.ValueError", "ValueError: no", 1),
    ]
    assert found.failed[0].ids == keys[:3]
    assert timezone.now() - found.failed[0].last < timedelta(minutes=1)


def test_what_the_newest_failures_leave_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "NEWEST", 5)
    for age in range(7):
        failed(f"ValueError: {age}", ago=age)
    for age in (20, 30):
        failed("KeyError: 1", exception="builtins.KeyError", ago=age)
    found = overview()
    assert [(group.count, group.more) for group in found.failed] == [(5, True)]
    assert (found.failed_total, found.failed_older) == (9, 4)
    lines = text(found).splitlines()
    assert lines[(place := lines.index("Failed for good: 9")) + 1].split()[:2] == ["5+", "core.tasks.count_words"]
    assert lines[place + 3] == "Not counted in these lines: 4 that failed earlier"
    monkeypatch.setattr(overviews, "NEWEST", 2_000)
    assert [(group.count, group.more) for group in overview().failed] == [(7, False), (2, False)]
    assert (overview().failed_older, "Not counted" in text(overview())) == (0, False)


def test_more_groups_than_are_shown_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "SHOWN", 2)
    for age in range(5):
        failed(func=f"core.tasks.f{age}", ago=age)
    found = overview()
    assert [(group.func, group.more) for group in found.failed] == [("core.tasks.f0", False), ("core.tasks.f1", False)]
    assert found.failed_older == 3


def test_a_storm_of_further_attempts_does_not_hide_that_others_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("NEWEST", "MOST"):
        monkeypatch.setattr(overviews, limit, 2)
    later = timezone.now() + timedelta(minutes=5)
    for age in range(4):
        failed(next_try=later, ago=age)
    failed(ago=9)
    found = overview()
    assert (found.failed, found.failed_total > 0, found.failed_older > 0) == ([], True, True)
    assert "that failed earlier" in text(found)


def test_a_failure_of_which_no_reason_is_kept_is_shown_too() -> None:
    now = timezone.now()
    Task.objects.create(id=new_id(), name="old", func="core.tasks.reverse", started=now, stopped=now, success=False)
    assert [(group.func, group.reason) for group in overview().failed] == [("core.tasks.reverse", "")]
    assert "no reason is kept" in text(overview())


def test_what_was_set_aside_says_why() -> None:
    now, known = timezone.now(), {"func": "worker.delivery.run_payload", "success": False}
    for ago, why in enumerate(("The task cannot be read: BadSignature", "The task cannot be read: EOFError")):
        when = now - timedelta(seconds=ago)
        Task.objects.create(id=new_id(), name="set-aside", started=when, stopped=when, result=why, **known)
    assert [(group.reason, group.count) for group in overview().failed] == [
        ("The task cannot be read: BadSignature", 2)
    ]


def test_a_schedule_that_could_not_be_queued_says_why() -> None:
    schedule = Schedule.objects.create(name="nightly", func="core.tasks.gone", next_run=timezone.now())
    record(schedule, "there is no core.tasks.gone")
    (group,) = overview().failed
    why = "The schedule nightly cannot be queued: there is no core.tasks.gone"
    assert (group.func, group.exception, group.reason) == ("not queued: core.tasks.gone", "", why)
    assert why in text(overview(), 120)


def test_what_will_be_tried_again_comes_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    keys = [failed(f"no {place}", next_try=now + timedelta(minutes=30 - place)) for place in range(25)]
    runs_again = failed(next_try=now - timedelta(seconds=1))
    give_signs(monkeypatch, sign(running=[run(runs_again)]))
    again = overview().again
    assert again.total == 25
    assert [each.id for each in again.first] == keys[:4:-1]
    assert (again.first[0].reason, again.first[0].attempts, again.first[0].of) == ("no 24", 1, 3)


def test_schedules_say_when_they_were_and_are_due() -> None:
    now = timezone.now()
    late = Schedule.objects.create(name="late", func="core.tasks.tidy", next_run=now - timedelta(minutes=3))
    Schedule.objects.create(name="soon", func="core.tasks.tidy", next_run=now + timedelta(seconds=5), task=failed())
    trying = failed(next_try=now + timedelta(minutes=1))
    off = Schedule.objects.create(name="off", func="core.tasks.tidy", repeats=0, next_run=now, task=trying)
    ScheduleState.objects.create(schedule=off.pk, queued=now)
    found = {each.name: each for each in overview().schedules}
    assert [*found] == ["late", "soon", "off"]
    assert found["late"].id == late.pk
    assert 180 <= found["late"].overdue < 200
    assert found["late"].last is None
    assert (found["soon"].overdue, found["soon"].last_failed) == (0.0, True)
    assert found["soon"].last
    assert (found["off"].next, found["off"].last_failed) == (None, False)
    assert found["off"].last
    assert "overdue for 3 min" in text(overview())


@pytest.mark.parametrize("far", ["9999-12-31", "10000-01-01", "infinity", "-infinity", "0044-03-15 BC"])
def test_a_time_that_python_does_not_know_is_never_or_long_ago(far: str) -> None:
    if connection.vendor != "postgresql" and far != "9999-12-31":
        pytest.skip("it keeps no such times")
    now = timezone.now()
    for name in ("soon", "far"):
        Schedule.objects.create(name=name, func="core.tasks.tidy", next_run=now + timedelta(seconds=5))
    Schedule.objects.create(name="none", func="core.tasks.tidy", next_run=None)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_schedule SET next_run = %s WHERE name = 'far'", [far])
    found = {each.name: each for each in overview().schedules}
    late = far[0] in "-0"
    assert [*found] == (["far", "soon", "none"] if late else ["soon", "far", "none"])
    assert (found["far"].next is None, found["far"].overdue > 0, found["far"].off) == (not late, late, False)
    assert (found["none"].next, found["none"].off) == (None, False)
    lines = {line.split()[0]: line for line in text(overview()).splitlines() if line}
    assert [name for name, line in lines.items() if "never" in line] == (["none"] if late else ["far", "none"])


def test_the_number_of_queries_does_not_grow_with_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            overview()
        return len(queries)

    def fill(number: int) -> None:
        now = timezone.now()
        give_signs(monkeypatch, *(sign(pid=pid, running=[run(f"{pid}")]) for pid in range(number)))
        for place in range(number):
            failed(f"no {place}")
            failed(f"no {place}", next_try=now)
            task = failed(f"scheduled {place}")
            row = Schedule.objects.create(name=f"s{place}", func="core.tasks.tidy", next_run=now, task=task)
            ScheduleState.objects.create(schedule=row.pk)

    fill(21)
    few = count()
    fill(40)
    assert count() == few <= 15


def test_it_is_plain_enough_for_json(monkeypatch: pytest.MonkeyPatch) -> None:
    give_signs(monkeypatch, sign(running=[run("a")]))
    failed()
    failed(next_try=timezone.now())
    Schedule.objects.create(func="core.tasks.tidy", next_run=timezone.now())
    found = json.loads(json.dumps(asdict(overview()), cls=DjangoJSONEncoder))
    assert found["queues"][0]["clusters"][0]["running"][0]["id"] == "a"


@pytest.mark.parametrize("width", [80, 100])
def test_as_a_text_it_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    long = "core.tasks." + "a_function_with_a_very_long_name" * 3
    give_signs(monkeypatch, sign(running=[run(new_id(), 10_000)], host="host" * 30, late={"reading " * 9: 4.0}))
    failed("ValueError: " + "because " * 30, func=long)
    failed("ValueError: one\ntwo", func=long, next_try=timezone.now() + timedelta(days=3))
    Schedule.objects.create(name="name " * 19, func=long, next_run=timezone.now() - timedelta(days=30))
    shown = text(overview(), width)
    assert max(map(len, shown.splitlines())) == width
    assert {"Running: 1", "To be tried again: 1", "Failed for good: 1"} <= {*shown.splitlines()}


def test_limits_tell_what_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    set_depth(monkeypatch, 5, 0, 0, timezone.now().timestamp() - 700)
    give_signs(monkeypatch, *map(sign, clusters()))
    queue = overview().queues[0]
    assert list(excesses(queue, 800, 5)) == []
    assert list(excesses(queue, 600, 4)) == [
        "The oldest task of the queue default waits for 700 s, more than 600.",
        "In the queue default 5 tasks wait, more than 4.",
    ]
    give_signs(monkeypatch)
    assert list(excesses(overview().queues[0], math.inf)) == [
        "Nothing serves the queue default: start it with `python manage.py prodserver worker`."
    ]
