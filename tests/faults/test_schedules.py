"""Promise 10: schedules run once for each of their times, whatever happens."""

import time
from collections import Counter
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tests.faults.cells import SAME, each_broker
from tests.faults.lab import Lab

ZONE = ZoneInfo("Europe/Berlin")
MINUTE = 60.0


@each_broker(10, upstream={"*": SAME})  # with `catch_up` off, as our settings have it
def test_a_schedule_that_missed_many_times_runs_once(lab: Lab) -> None:
    lab.schedule("late", 30 * MINUTE)
    lab.call("look_at_schedules")
    lab.call("look_at_schedules")
    lab.wait_done({"late"}, lab.start())
    assert lab.starts() == {"late": 1}, lab.report()


@pytest.mark.parametrize("month", [1, 7])
@each_broker(10, own_server=False)
def test_a_daily_schedule_keeps_its_hour_when_the_clocks_change(lab: Lab, month: int) -> None:
    before = datetime(datetime.now(ZONE).year - 1, month, 15, 8, 0, tzinfo=ZONE)
    lab.call("schedule", name="daily", func="lab_tasks.work", seconds_ago=0, schedule_type="D", args="'daily',")
    lab.call("move_schedule", name="daily", to=before.isoformat())
    lab.call("look_at_schedules", time_zone="Europe/Berlin")
    (found,) = lab.call("schedules")
    following = datetime.fromisoformat(found["next_run"]).astimezone(ZONE)
    assert (following.hour, following.minute) == (8, 0), following
    assert 0 < (following - datetime.now(ZONE)).total_seconds() < 25 * 60 * MINUTE, following


@pytest.mark.full
@each_broker(10)
def test_twenty_schedules_of_two_clusters_across_an_outage(lab: Lab) -> None:
    lab.deadline = 180
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
