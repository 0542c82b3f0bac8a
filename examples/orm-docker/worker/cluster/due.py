"""What a worker does with a schedule that is due.

Its next time is saved before its task is queued, in a transaction of its own, of which the queue is a part where it
is in the same database. One that cannot be queued becomes a failed task that says why, and goes on to its next time.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import connections, router
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.humanhash import uuid
from django_q.models import Schedule

from worker.cluster.rows import patiently
from worker.cluster.schedules import due
from worker.delivery import Leasing, brief
from worker.packages import failed, instance, table
from worker.recurrence import following
from worker.trigger import note, trigger

LATER = timedelta(hours=1)  #: until a schedule is tried again whose next time cannot be told

logger = logging.getLogger("django-q")


def queue(enter_user_code: Callable[[], None], key: int, problem: str, again: bool = True) -> None:
    """Queue the task of a schedule, and note when a user's receivers come.

    A worker may have had a problem with it, and died: then only if it is to be tried again. It raises if a server is
    away, and it is to be done again.
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
            problem = trigger(schedule, before["next_run"], broker, enter_user_code)
        rows.update(**times(schedule), task=schedule.task)  # no receiver of save() can keep it from moving on
        note(schedule)
    if not together and not problem:
        try:
            problem = trigger(schedule, before["next_run"], broker, enter_user_code)
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


def record(schedule: Schedule, problem: str) -> None:
    """Save a failed task for a schedule that could not be queued."""
    name = schedule.name or f"schedule {schedule.pk}"
    reason = f"The schedule {name} cannot be queued: {problem}"
    logger.error("%s; its next time is %s", reason, schedule.next_run)
    func = f"not queued: {schedule.func}"  # which the admin's "resubmit" does not find, since it may be refused
    row = failed("", reason, id=uuid()[1], name=name, func=func, group=name)
    table().bulk_create([instance(row, 1)])


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
