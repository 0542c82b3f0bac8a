"""The next time of a schedule, and how its arguments are read."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django_q.conf import Conf
from django_q.models import Schedule
from worker.cluster.due import move_on
from worker.recurrence import arguments, following

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let schedules be of a place whose clocks change."""
    monkeypatch.setattr(Conf, "TIME_ZONE", "Europe/Berlin")
    monkeypatch.setattr(Conf, "CATCH_UP", False)


def shown(*moment: int) -> datetime:
    """Return the moment at which clocks in Berlin show this."""
    return datetime(*moment, tzinfo=BERLIN)  # type: ignore[misc, arg-type]


def runs(number: int, first: datetime, **fields: Any) -> list[datetime]:
    """Return what the clocks show at the times of a schedule, looked at as soon as each is over."""
    schedule = Schedule(next_run=first.astimezone(UTC), **fields)
    found = []
    for _ in range(number):
        schedule.next_run = following(schedule, schedule.next_run + timedelta(seconds=1))
        found.append(schedule.next_run.astimezone(BERLIN).replace(tzinfo=None))
    return found


def test_a_month_without_the_day_has_its_last_and_the_next_has_the_day_again() -> None:
    days = [(each.month, each.day) for each in runs(4, shown(2026, 1, 31, 9), schedule_type="M")]
    assert days == [(2, 28), (3, 31), (4, 30), (5, 31)]
    days = [(each.month, each.day) for each in runs(3, shown(2026, 1, 28, 9), schedule_type="M")]
    assert days == [(2, 28), (3, 28), (4, 28)]
    years = [(each.year, each.month, each.day) for each in runs(4, shown(2024, 2, 29, 9), schedule_type="Y")]
    assert years == [(2025, 2, 28), (2026, 2, 28), (2027, 2, 28), (2028, 2, 29)]


def test_a_day_that_somebody_has_moved_a_schedule_to_is_kept() -> None:
    schedule = Schedule(next_run=shown(2026, 2, 15, 9), schedule_type="M", minutes=31)
    assert following(schedule, shown(2026, 2, 15, 10)) == shown(2026, 3, 15, 9)


@pytest.mark.parametrize("kind", ["D", "W", "BW", "M", "Q"])
def test_an_hour_is_kept_when_clocks_change(kind: str) -> None:
    assert {each.hour for each in runs(60, shown(2026, 1, 1, 8, 30), schedule_type=kind)} == {8}


def test_an_hour_that_a_day_lacks_comes_back_the_day_after() -> None:
    hours = [each.hour for each in runs(3, shown(2026, 3, 28, 2, 30), schedule_type="D")]
    assert hours == [3, 2, 2]  # on the 29th of March clocks go from two to three


@pytest.mark.parametrize(
    ("fields", "step"),
    [
        ({"schedule_type": "I", "minutes": 7}, timedelta(minutes=7)),
        ({"schedule_type": "I"}, timedelta(minutes=1)),
        ({"schedule_type": "H", "minutes": 7}, timedelta(hours=1)),
    ],
)
def test_times_that_were_missed_cost_one_step(fields: dict[str, Any], step: timedelta) -> None:
    first = datetime(2001, 1, 1, tzinfo=UTC)
    now = datetime(2026, 5, 5, 5, 5, 5, tzinfo=UTC)
    found = following(Schedule(next_run=first, **fields), now)
    assert now < found <= now + step
    assert not (found - first) % step


@pytest.mark.parametrize("kind", ["D", "W", "M", "Y", "C"])
def test_missed_days_and_months_do_so_too(kind: str) -> None:
    now = datetime(2026, 5, 5, 5, 5, 5, tzinfo=UTC)
    found = following(Schedule(next_run=datetime(1970, 1, 1, tzinfo=UTC), schedule_type=kind, cron="0 4 * * *"), now)
    assert now < found < now + timedelta(days=366)


def test_each_time_that_was_missed_comes_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "CATCH_UP", True)
    first = shown(2020, 1, 1, 8)
    assert following(Schedule(next_run=first, schedule_type="D"), shown(2026, 1, 1, 8)) == shown(2020, 1, 2, 8)


@pytest.mark.parametrize("cron", ["0 4 * * * * * *", "nonsense", "", None, "61 * * * *"])
def test_a_cron_expression_that_is_none_is_tried_again_in_an_hour(cron: str | None) -> None:
    schedule = Schedule(next_run=shown(2020, 1, 1), schedule_type="C", cron=cron)
    assert move_on(schedule).startswith("its next time cannot be told (")
    assert timedelta(minutes=59) < schedule.next_run - datetime.now(UTC) < timedelta(minutes=61)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"args": "1, 'two'"}, ((1, "two"), {})),
        ({"args": "'one'"}, (("one",), {})),
        ({"args": ""}, ((), {})),
        ({"kwargs": "one=1, two='2'"}, ((), {"one": 1, "two": "2"})),
        ({"kwargs": "{'one': 1}"}, ((), {"one": 1})),
    ],
)
def test_arguments_are_read(written: dict[str, str], read: object) -> None:
    assert arguments(Schedule(func="f", **written)) == read


@pytest.mark.parametrize(
    "written",
    [{"args": "2024-01-01x"}, {"args": "("}, {"args": "f()"}, {"args": "[" * 300}, {"kwargs": "1"}, {"kwargs": "{1}"}],
)
def test_arguments_that_cannot_be_read_are_named(written: dict[str, str]) -> None:
    with pytest.raises(
        ValueError, match=r"^its (keyword )?arguments '.* (one=1, two='2'|1, 'two'); put text in quotes$"
    ):
        arguments(Schedule(func="f", **written))
