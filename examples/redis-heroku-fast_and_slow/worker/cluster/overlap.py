"""Whether the last task of a schedule still goes on, so that no further one is to be queued.

That is asked of schedules with the option `overlap=False`, as those have that are declared in code.
"""

from datetime import timedelta
from typing import Any

from django.db import router
from django.db.models import QuerySet
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule

from worker.cluster.failures import is_waiting
from worker.cluster.packages import table
from worker.delivery import Leasing
from worker.models import ScheduleState

LOST = 3600  #: seconds, beside those of its attempts, after which a task that nobody knows of does not go on any more


def states() -> QuerySet[ScheduleState]:
    """Return what is known of schedules."""
    return ScheduleState.objects.using(router.db_for_write(Schedule))


def note(schedule: Schedule) -> None:
    """Save what the next run of a schedule must know of this one, if it must."""
    if receipt := getattr(schedule, "receipt", None):
        facts = {"receipt": str(receipt), "queued": timezone.now()}
        states().update_or_create(schedule=schedule.pk, defaults=facts)


def goes_on(schedule: Schedule, options: dict[str, Any], broker: Leasing) -> bool:
    """Say whether the last task of a schedule waits, runs or is to be tried again.

    If the broker cannot tell, its result does; one that has none, and is lost perhaps, goes on only for so long.
    """
    state = states().filter(schedule=schedule.pk).exclude(receipt="").first()
    if state is None or state.queued is None:
        return False
    if broker.can_peek:
        return broker.peek(state.receipt) is not None
    if row := table().filter(pk=schedule.task).values_list(is_waiting()).first():
        return bool(row[0])
    most = options.get("max_attempts") or Conf.MAX_ATTEMPTS or 1
    seconds = LOST + most * (options.get("timeout") or Conf.TIMEOUT or LOST)
    return bool(timezone.now() - state.queued < timedelta(seconds=seconds))
