"""The task of a schedule is queued: when it is due, and when somebody wants it now."""

import hashlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import router, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import Schedule

from worker import allowed
from worker.delivery import Leasing, brief
from worker.django_tasks import base
from worker.enqueue import Noting, queue_as
from worker.failures import is_waiting
from worker.health import may_pass
from worker.models import ScheduleState
from worker.packages import named, table
from worker.processes import cluster_of, unknown_cluster
from worker.recurrence import arguments

LOST = 3600  #: seconds, beside those of its attempts, after which a task that nobody knows of does not go on any more

logger = logging.getLogger("django-q")


def trigger(schedule: Schedule, intended: datetime, broker: Leasing, enter_user_code: Callable[[], None]) -> str:
    """Queue a schedule's task; return why it cannot be, or ""; raises if a server is away."""
    enter_user_code()
    try:
        args, kwargs = arguments(schedule)
        if refused := allowed.refusal_of_options(options := kwargs.pop("q_options", None) or {}):
            return refused
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
            schedule.task = queue_as(known(schedule, intended), schedule.func, *args, q_options=options, **kwargs)
        if not overlap:
            schedule.receipt = noting.receipt
    except Exception as error:  # whatever receivers of django-q2's pre_enqueue raise
        if may_pass(error):
            raise
        return brief(error)
    keys = {"task_id": schedule.task, "task": schedule.func}
    logger.info("Queued the schedule %s as %s", schedule.name or schedule.pk, schedule.task, extra=keys)
    return ""


def known(schedule: Schedule, intended: datetime) -> dict[str, Any]:
    """Return what a task has in common with itself if it is queued again, since no answer came: so it runs once."""
    facts = (schedule.pk, schedule.func, schedule.task, intended.isoformat())
    digest = hashlib.blake2b(repr(facts).encode(errors="replace"), digest_size=10).hexdigest()
    return {"id": f"{max(0, int(intended.timestamp() * 1000)):012x}{digest}", "once": True}


# Whether its last task still goes on, which is asked of those with overlap=False, as all have that are declared in code


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
