"""What a worker does with a schedule that is due.

Its next time is saved before its task is queued, in a transaction of its own, of which the queue is a part where it
is in the same database. One that cannot be queued becomes a failed task that says why, and goes on to its next time.
"""

import ast
import logging
from calendar import monthrange
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter
from django.conf import settings
from django.db import connections, router, transaction
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.humanhash import uuid
from django_q.models import Schedule
from django_q.tasks import async_task

from worker import allowed
from worker.cluster.functions import named
from worker.cluster.overlap import goes_on, note
from worker.cluster.packages import failed, instance, table
from worker.cluster.rows import patiently
from worker.cluster.schedules import due
from worker.delivery import Leasing, brief
from worker.django_tasks import base
from worker.enqueue import Noting
from worker.health import may_pass
from worker.processes import cluster_of, unknown_cluster

MINUTES = {Schedule.MINUTES: 1, Schedule.HOURLY: 60}
DAYS = {Schedule.DAILY: 1, Schedule.WEEKLY: 7, Schedule.BIWEEKLY: 14}
MONTHS = {Schedule.MONTHLY: 1, Schedule.BIMONTHLY: 2, Schedule.QUARTERLY: 3, Schedule.YEARLY: 12}
LATER = timedelta(hours=1)  #: until a schedule is tried again whose next time cannot be told

logger = logging.getLogger("django-q")


def queue(tells: Callable[[], None], key: int, problem: str, again: bool = True) -> None:
    """Queue the task of a schedule, and note when a user's receivers come.

    A worker may have had a problem with it, and died: then only if it is to be tried again.

    Raises:
        Exception: If it is to be done again, for a server is away.
    """
    broker: Leasing = get_broker()
    broker.ping()
    alias = router.db_for_write(Schedule)
    rows = Schedule.objects.using(alias).filter(pk=key)
    skip = connections[alias].features.has_select_for_update_skip_locked
    together = broker.transactional and alias == Conf.ORM
    with patiently(alias):
        schedule = due().select_for_update(skip_locked=skip).filter(pk=key).first()
        if schedule is None:  # another cluster was faster, or a worker that then died: perhaps before it queued this
            for schedule in rows if problem and not together else ():
                record(schedule, problem)
            return
        problem = "" if again else problem
        before = times(schedule)
        problem = move_on(schedule) or problem
        if together and not problem:
            problem = attempt(schedule, before["next_run"], broker, tells)
        rows.update(**times(schedule), task=schedule.task)  # no receiver of save() can keep it from moving on
        note(schedule)
    if not together and not problem:
        try:
            problem = attempt(schedule, before["next_run"], broker, tells)
        except Exception:
            rows.filter(next_run=schedule.next_run).update(**before)
            raise
        rows.update(task=schedule.task)
        note(schedule)
    if schedule.schedule_type == Schedule.ONCE and before["repeats"] < 0:
        rows.delete()
    if problem:
        record(schedule, problem)


def times(schedule: Schedule) -> dict[str, Any]:
    """Return what tells when a schedule is due."""
    return {"next_run": schedule.next_run, "repeats": schedule.repeats, "minutes": schedule.minutes}


def attempt(schedule: Schedule, intended: datetime, broker: Leasing, tells: Callable[[], None]) -> str:
    """Queue a schedule's task; return why it cannot be, or "".

    Raises:
        Exception: If a server is away.
    """
    tells()
    try:
        args, kwargs = arguments(schedule)
        options = kwargs.pop("q_options", {})
        options.pop("time_zone", None)
        overlap = options.pop("overlap", True)
        if schedule.intended_date_kwarg:
            kwargs[schedule.intended_date_kwarg] = intended.isoformat()
        if schedule.hook:
            options["hook"] = schedule.hook
        options["cluster"] = schedule.cluster or options.get("cluster")
        options["group"] = options.get("group", schedule.name or schedule.pk)
        checked = (allowed.refusal(schedule.func), *map(allowed.refusal_of_options, (kwargs, options)))
        if refused := next(filter(None, (*checked, unknown_cluster(options["cluster"]))), ""):
            return refused
        if not options["cluster"] and isinstance(declared := named(schedule.func), base.Task):
            options["cluster"] = cluster_of(declared.queue_name)
        if options["cluster"] not in {None, Conf.CLUSTER_NAME}:
            broker = get_broker(options["cluster"])
        options["broker"] = noting = Noting(broker)
        if not overlap and goes_on(schedule, options, broker):
            name = schedule.name or schedule.pk
            keys = {"task_id": schedule.task, "task": schedule.func}
            logger.warning("Skipped the schedule %s: its task %s still goes on", name, schedule.task, extra=keys)
            return ""
        with transaction.atomic(router.db_for_write(Schedule)):  # what is refused here spoils no more than this
            schedule.task = async_task(schedule.func, *args, q_options=options, **kwargs)
        if not overlap:
            schedule.receipt = noting.receipt
    except Exception as error:  # whatever receivers of django-q2's pre_enqueue raise
        if may_pass(error):
            raise
        return brief(error)
    keys = {"task_id": schedule.task, "task": schedule.func}
    logger.info("Queued the schedule %s as %s", schedule.name or schedule.pk, schedule.task, extra=keys)
    return ""


def arguments(schedule: Schedule) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a schedule's task.

    Raises:
        ValueError: If they are written wrongly.
    """
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


def record(schedule: Schedule, problem: str) -> None:
    """Save a failed task for a schedule that could not be queued."""
    name = schedule.name or f"schedule {schedule.pk}"
    reason = f"The schedule {name} cannot be queued: {problem}"
    logger.error("%s; its next time is %s", reason, schedule.next_run)
    func = f"not queued: {schedule.func}"  # which the admin's "resubmit" does not find, since it may be refused
    row = failed("", reason, id=uuid()[1], name=name, func=func, group=name)
    table().bulk_create([instance(row, 1)])


# The next time


def move_on(schedule: Schedule) -> str:
    """Set a schedule's next time, and count this one; return why that cannot be told, or ""."""
    if schedule.schedule_type == Schedule.ONCE:
        schedule.repeats = 0
        return ""
    schedule.repeats = schedule.repeats - 1 if schedule.repeats > 0 else -1
    try:
        schedule.next_run = following(schedule, timezone.now())
    except Exception as error:  # whatever a cron expression is
        schedule.next_run = timezone.now() + LATER
        return f"its next time cannot be told ({brief(error)})"
    return ""


def following(schedule: Schedule, now: datetime) -> datetime:
    """Return when a schedule is due next: after now, or with `catch_up` after its last time, however long ago that was.

    A day that a month lacks, and an hour that a day lacks, are kept in `minutes`, which these types of schedule do
    not use, so that the next time is on that day or at that hour again.

    In an hour that clocks show twice, a cron expression that names hours (2 or 1,2 or 1-4) comes once, at the first
    one. With `*` or `*/2` for hours it comes in both: it means each hour, or each second one, that clocks show.

    Raises:
        Exception: If its cron expression is none.
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
    """Return the time zone of a schedule: by default the one of the setting `time_zone`.

    Raises:
        ValueError: If there is none of its name.
    """
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
