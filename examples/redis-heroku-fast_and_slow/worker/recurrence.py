"""When a schedule is due next, by the clock of its time zone, and with what it calls its function."""

import ast
from calendar import monthrange
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter
from django.conf import settings
from django_q.conf import Conf
from django_q.models import Schedule

MINUTES = {Schedule.MINUTES: 1, Schedule.HOURLY: 60}
DAYS = {Schedule.DAILY: 1, Schedule.WEEKLY: 7, Schedule.BIWEEKLY: 14}
MONTHS = {Schedule.MONTHLY: 1, Schedule.BIMONTHLY: 2, Schedule.QUARTERLY: 3, Schedule.YEARLY: 12}


def arguments(schedule: Schedule) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a schedule's task; a ValueError says which are written wrongly."""
    kwargs: Any = {}
    try:
        args = ast.literal_eval(schedule.args) if schedule.args else ()
    except Exception as error:
        text = f"its arguments {schedule.args!r} are no Python literals, such as 1, 'two'"
        raise ValueError(f"{text}; put text in quotes") from error
    if schedule.kwargs:
        try:
            try:
                kwargs = ast.literal_eval(schedule.kwargs)
            except (SyntaxError, ValueError):
                call: Any = ast.parse(f"f({schedule.kwargs})", mode="eval").body
                kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
            kwargs = {str(name): value for name, value in kwargs.items()}
            options = kwargs.get("q_options")
            if isinstance(options, dict) and "broker_name" in options:  # django-q2's former name for it
                options.setdefault("cluster", options.pop("broker_name"))
        except Exception as error:
            text = f"its keyword arguments {schedule.kwargs!r} are not written as one=1, two='2'"
            raise ValueError(f"{text}; put text in quotes") from error
    return args if isinstance(args, tuple) else (args,), kwargs


def following(schedule: Schedule, now: datetime) -> datetime:
    """Return when a schedule is due next: after now, or with `catch_up` after its last time, however long ago that was.

    A day that a month lacks, and an hour that a day lacks, are kept in `minutes`, which these types of schedule do
    not use, so that the next time is on that day or at that hour again.

    In an hour that clocks show twice, a cron expression that names hours (2 or 1,2 or 1-4) comes once, at the first
    one. With `*` or `*/2` for hours it comes in both: it means each hour, or each second one, that clocks show.
    """
    zone = time_zone_of(schedule)
    due: datetime = schedule.next_run
    after = due if Conf.CATCH_UP else max(now, due)
    kind = schedule.schedule_type
    if kind == Schedule.CRON:
        coming: Any = croniter(schedule.cron, now.astimezone(zone) if settings.USE_TZ else now)
        found: datetime = coming.get_next(datetime)
        while found.fold and not coming.expressions[1].startswith("*"):  # at an hour that has been, an hour ago
            found = coming.get_next(datetime)
        return found
    if kind in MINUTES:
        step = timedelta(minutes=MINUTES[kind] * (schedule.minutes or 1 if kind == Schedule.MINUTES else 1))
        return due + ((after - due) // step + 1) * step
    local, kept = wall_clock(due, zone), schedule.minutes
    schedule.minutes = None
    passed = wall_clock(after, zone) - local
    if kind in DAYS:
        if kept is not None and instant(datetime.combine(local, time(*divmod(kept % 1440, 60))), zone) == due:
            local = datetime.combine(local, time(*divmod(kept % 1440, 60)))
        number = max(1, passed.days // DAYS[kind])
        while (wanted := local + timedelta(days=number * DAYS[kind]), found := instant(wanted, zone))[1] <= after:
            number += 1
        if wall_clock(found, zone) != wanted:
            schedule.minutes = wanted.hour * 60 + wanted.minute
        return found
    last = monthrange(local.year, local.month)[1]
    day = kept if kept and local.day == last < kept else local.day
    number = max(1, passed.days // (31 * MONTHS[kind]))
    while True:
        year, month = divmod(local.year * 12 + local.month - 1 + number * MONTHS[kind], 12)
        last = monthrange(year, month + 1)[1]
        found = instant(local.replace(year=year, month=month + 1, day=min(day, last)), zone)
        if found > after:
            schedule.minutes = day if day > last else None
            return found
        number += 1


def time_zone_of(schedule: Schedule) -> ZoneInfo:
    """Return the time zone of a schedule: by default the one of the setting `time_zone`."""
    name = Conf.TIME_ZONE or settings.TIME_ZONE  # django-q2 has none without USE_TZ, where none is asked for
    with suppress(AttributeError, ValueError):  # what cannot be read is named where its task is queued
        name = arguments(schedule)[1].get("q_options", {}).get("time_zone") or name
    try:
        return ZoneInfo(name)
    except (OSError, TypeError, ValueError, ZoneInfoNotFoundError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error


def wall_clock(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return what clocks show at a moment."""
    return moment.astimezone(zone).replace(tzinfo=None) if settings.USE_TZ else moment


def instant(shown: datetime, zone: ZoneInfo) -> datetime:
    """Return the moment at which clocks show this; if they never do, the one at which they would."""
    return shown.replace(tzinfo=zone).astimezone(UTC) if settings.USE_TZ else shown
