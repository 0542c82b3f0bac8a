"""Promise 10: schedules run once for each of their times, whatever happens, and one that is wrong holds up no other."""

import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.faults.cells import SAME, each_broker
from tests.faults.lab import Cluster, Lab
from tests.faults.test_inputs import check_goes_on

ZONE = ZoneInfo("Europe/Berlin")
MINUTE = 60.0
SOON = {"Q_QUIET": "1"}  #: lets a worker look each second


def start(lab: Lab, variables: Mapping[str, str] = {}, **cluster: Any) -> Cluster:
    """Start a cluster that looks at schedules each second."""
    return lab.start(variables={**SOON, **variables}, **cluster)


def next_run(lab: Lab, name: str) -> datetime:
    """Return when a schedule is due next."""
    return datetime.fromisoformat(lab.call("schedules")[name]["next_run"])


@each_broker(10, upstream={"*": SAME})  # with `catch_up` off, as our settings have it
def test_a_schedule_that_missed_many_times_runs_once(lab: Lab) -> None:
    lab.schedule("late", 30 * MINUTE)
    cluster = start(lab)
    lab.wait_done({"late"}, cluster)
    time.sleep(3)  # in which it is looked at again
    assert lab.starts() == {"late": 1}, lab.report()


@pytest.mark.parametrize("month", [1, 7])
@each_broker(10, own_server=False)
def test_a_daily_schedule_keeps_its_hour_when_the_clocks_change(lab: Lab, month: int) -> None:
    before = datetime(datetime.now(ZONE).year - 1, month, 15, 8, 0, tzinfo=ZONE)
    lab.call("schedule", name="daily", func="lab_tasks.work", seconds_ago=0, schedule_type="D", args="'daily',")
    lab.call("move_schedule", name="daily", to=before.isoformat())
    cluster = start(lab, {"LAB_TIME_ZONE": "Europe/Berlin"})
    lab.wait_done({"daily"}, cluster)
    following = next_run(lab, "daily").astimezone(ZONE)
    assert (following.hour, following.minute) == (8, 0), following
    assert 0 < (following - datetime.now(ZONE)).total_seconds() < 25 * 60 * MINUTE, following


@pytest.mark.full
@each_broker(10, own_server=False)
def test_a_monthly_schedule_of_the_31st_keeps_to_the_last_day(lab: Lab) -> None:
    year = datetime.now(UTC).year - 1
    begin = datetime(year, 1, 31, 12, 0, tzinfo=UTC)
    fields = {"args": "'monthly',", "intended_date_kwarg": "due", "schedule_type": "M"}
    lab.call("schedule", name="monthly", func="lab_tasks.work_when_due", seconds_ago=0, **fields)
    lab.call("move_schedule", name="monthly", to=begin.isoformat())
    cluster = start(lab, catch_up=True)  # a run for each month that was missed
    lab.wait(lambda: lab.starts()["monthly"] >= 12, "a year's runs", cluster)
    days = [datetime.fromisoformat(event.partition("@")[2]) for event in lab.events("due")][:12]
    last = [
        (datetime(year, month, 1) + timedelta(days=31)).replace(day=1) - timedelta(days=1) for month in range(1, 13)
    ]
    assert [(day.month, day.day) for day in days] == [(day.month, day.day) for day in last], lab.report()


#: Schedules that are wrong, and which one of them a failed task must then name.
WRONG: dict[str, dict[str, Any]] = {
    "arguments-that-cannot-be-read": {"args": "2024-01-01x"},
    "arguments-that-end-early": {"args": "('a', "},
    "keywords-that-cannot-be-read": {"args": "'keywords',", "kwargs": "{seconds: 1"},
    "keywords-that-are-no-dictionary": {"args": "'list',", "kwargs": "[1, 2]"},
    "a-function-that-is-not-there": {"func": "lab_tasks.gone", "args": "'gone',"},
    "no-function": {"func": "", "args": "'none',"},
}


@pytest.mark.full
@each_broker(10)
def test_a_schedule_that_is_wrong_becomes_a_failed_task_that_names_it_and_holds_up_no_other(lab: Lab) -> None:
    lab.deadline = 90
    for place, (name, fields) in enumerate(WRONG.items()):  # before and behind those that are right
        lab.schedule(f"right{place}", 10.5 * MINUTE - place)
        wrong = {"func": "lab_tasks.work", "schedule_type": "I", **fields}
        lab.call("schedule", name=name, seconds_ago=20.5 * MINUTE - place, **wrong)
    lab.schedule("right-last", 1.0)
    right = {*(f"right{place}" for place in range(len(WRONG))), "right-last"}
    cluster = start(lab, max_attempts=1)
    lab.wait(lambda: right <= lab.succeeded().keys(), "the results of those that are right", cluster)

    def named(name: str) -> bool:
        return any(name in (row["name"], row["group"]) or name in row["result"] for row in lab.failed())

    lab.wait(lambda: all(map(named, WRONG)), lambda: f"a failed task for each: {lab.failed()}", cluster)
    time.sleep(3)  # in which all are looked at again
    assert len(lab.failed()) == len(WRONG), lab.failed()
    assert lab.starts() == dict.fromkeys(right, 1), lab.report()
    now = datetime.now(UTC)
    assert all(now < next_run(lab, name) < now + timedelta(minutes=1) for name in (*WRONG, *right)), lab.call(
        "schedules"
    )
    lab.wait(lambda: lab.starts()["right-last"] == 2, "the next time of one", cluster)
    check_goes_on(lab, cluster)


@pytest.mark.full
@each_broker(10, own_server=False)  # elsewhere the queue is no part of the transaction that saves the next time
def test_a_schedule_whose_worker_is_killed_while_it_queues_it_misses_no_time(lab: Lab) -> None:
    lab.schedule("unlucky", 1.0)
    lab.schedule("guilty", 1.0)
    cluster = start(lab, variables={"LAB_RECEIVERS": "pre_enqueue:be_killed"})
    lab.wait_done({"unlucky"}, cluster)
    lab.wait(lambda: lab.failed(), "a failed task for the one that kills each worker", cluster)
    assert [row["name"] for row in lab.failed()] == ["guilty"], lab.failed()
    assert "died (SIGKILL)" in lab.failed()[0]["result"], lab.failed()
    assert lab.starts() == {"unlucky": 1}, lab.report()


CRONS = {"six-words": "*/5 * * * * *", "out-of-range": "61 * * * *", "no-expression": "every day", "empty": ""}


@pytest.mark.full
@each_broker(10)
def test_a_cron_expression_that_is_wrong_is_named_once_and_holds_up_no_other(lab: Lab) -> None:
    for name, cron in CRONS.items():
        lab.call(
            "schedule",
            name=name,
            func="lab_tasks.work",
            seconds_ago=90,
            schedule_type="C",
            cron=cron,
            args=f"{name!r},",
        )
    lab.call(
        "schedule",
        name="yearly",
        func="lab_tasks.work",
        seconds_ago=5,
        schedule_type="C",
        cron="0 0 1 1 *",
        args="'yearly',",
    )
    lab.schedule("right", 1.0)
    cluster = start(lab, max_attempts=1)
    lab.wait(lambda: {"right", "yearly"} <= lab.succeeded().keys(), "the results of those that are right", cluster)
    wrong = {"out-of-range", "no-expression", "empty"}

    def named(name: str) -> int:
        return sum(name in (row["name"], row["group"]) or name in row["result"] for row in lab.failed())

    lab.wait(lambda: all(map(named, wrong)), lambda: f"a failed task for each: {lab.failed()}", cluster)
    lab.wait(lambda: named("six-words") or lab.starts()["six-words"], "a run of six words, or their refusal", cluster)
    time.sleep(5)  # in which all are looked at again
    assert all(named(name) == 1 for name in wrong), lab.failed()
    assert named("six-words") <= 1, lab.failed()
    assert lab.starts()["yearly"] == lab.starts()["right"] == 1, lab.report()
    following = next_run(lab, "yearly")
    assert (following.month, following.day, following.hour) == (1, 1, 0), following
    check_goes_on(lab, cluster)


@pytest.mark.full
@each_broker(10, names="minutes", values=[(10_000,), (10_000_000,)])
def test_a_schedule_that_was_missed_thousands_of_times_is_queued_once_and_quickly(lab: Lab, minutes: int) -> None:
    lab.schedule("late", minutes * MINUTE)
    lab.schedule("right", 1.0)
    lab.deadline = 10
    cluster = start(lab)
    lab.wait_done({"late", "right"}, cluster)
    time.sleep(3)  # in which both are looked at again
    assert lab.starts() == {"late": 1, "right": 1}, lab.report()
    now = datetime.now(UTC)
    assert now < next_run(lab, "late") < now + timedelta(minutes=1), lab.call("schedules")
    cluster.stop_in_time()


@pytest.mark.full
@pytest.mark.parametrize("variables", [{"LAB_NAIVE": "1", "LAB_TIME_ZONE": "Europe/Berlin"}])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@each_broker(10)
def test_tasks_and_schedules_run_where_times_have_no_zone(lab: Lab) -> None:
    lab.schedule("late", 30 * MINUTE)
    cluster = start(lab, max_attempts=2)
    keys = lab.enqueue_many("task", 10)
    lab.enqueue("be_killed", ("killed",))
    lab.enqueue("work", ("hooked",), task_name="hooked", hook="lab_tasks.hook")
    lab.wait_done(keys | {"late", "hooked"}, cluster)
    lab.wait(lambda: len(lab.failed()) == 1, "a failed task", cluster)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", cluster)
    assert lab.starts() == {**dict.fromkeys(keys | {"late", "hooked"}, 1), "killed": 2}, lab.report()
    assert "Traceback" not in cluster.whole_log(), lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(10)
def test_twenty_schedules_of_two_clusters_across_an_outage(lab: Lab) -> None:
    lab.deadline = 180
    lab.lease = 30  # no task is to run twice since its cluster was late
    clusters = [lab.start(), lab.start()]
    names = [f"schedule{index}" for index in range(20)]
    phases = {name: lab.schedule(name, 1.0 if index % 2 else 30 * MINUTE) for index, name in enumerate(names)}
    lab.wait(lambda: lab.starts().keys() >= set(names), "a first run of each", *clusters)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", *clusters)
    lab.cut_all()
    went = time.time()
    time.sleep(1.5 * MINUTE)
    lab.mend_all()
    came = time.time()
    lab.wait(lambda: min(lab.starts().values()) >= 4, "two more runs of each", *clusters)
    until = time.time() - 0.6 * MINUTE
    ran: Counter[tuple[str, int]] = Counter()
    for event in lab.events("due"):
        name, _, due_at = event.partition("@")
        ran[name, round((datetime.fromisoformat(due_at).timestamp() - phases[name]) / MINUTE)] += 1
    assert set(ran.values()) == {1}, f"some ran twice for the same time: {ran}\n{lab.report()}"
    for name, phase in phases.items():  # what they missed before the first run is not made up for: `catch_up` is off
        due = range(int((went - phase) // MINUTE) + 1, int((until - phase) // MINUTE))
        missed = [
            number
            for number in due
            if (name, number) not in ran and not went - MINUTE < phase + number * MINUTE < came + MINUTE
        ]
        assert not missed, f"{name} missed {missed}\n{lab.report()}"
