"""What can be done about a queue: each action logs who has done it, and returns a sentence for that person.

If it is not possible, a RefusedError says why.
"""

import getpass
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from django.db import router
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.models import Schedule

from worker import failures
from worker.announcements import ORDERS, announce
from worker.conf import setting
from worker.delivery import Leasing
from worker.failures import clock
from worker.health import SERVERS, in_words, sentence_for, why_away
from worker.models import Failure, Pause
from worker.packages import table, text_of
from worker.processes import cluster_of, clusters, did_you_mean, nearest, queue_of, queues
from worker.queue.cancel import RefusedError as RefusedError
from worker.queue.cancel import cancelled, key_of, waiting_or_running
from worker.queue.overview import failed_groups
from worker.resubmit import resubmit
from worker.single_flight import LIMIT, SingleFlight
from worker.trigger import note, trigger

BATCH = 500  #: ids of failures that are read at a time
UNKNOWN = " Whether this was done is not known."

logger = logging.getLogger("worker.queue")


def somebody() -> str:
    """Return who runs a command here."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container it may be a number alone
        user = str(os.getuid())
    return text_of(" ".join(f"{user}@{socket.gethostname()}".split()), 254)


def action(*needs: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Refuse in a sentence what needs a server that is away, or a migration, and say whether it may have been done."""

    def decorate(does: Callable[..., str]) -> Callable[..., str]:
        @wraps(does)
        def do(*args: Any, **kwargs: Any) -> str:
            for name in needs:
                try:
                    SingleFlight(SERVERS[name]).tell(LIMIT)
                except Exception as error:  # each driver and client has exceptions of its own
                    raise RefusedError(f"{in_words({name: error})} Nothing was done.") from error
            try:
                return does(*args, **kwargs)
            except Exception as error:
                if problem := sentence_for(error):
                    raise RefusedError(problem + UNKNOWN * bool(why_away(error))) from error
                raise

        return do

    return decorate


def order(alias: str) -> str:
    """Tell the clusters to look for orders; return a sentence if they may do so late."""
    if announce(alias, ORDERS):
        return ""
    return f" The broker does not answer: workers may hear of it only {setting('Q_QUIET')} s later."


def cluster_named(queue: str) -> str:
    """Return the cluster of a queue, whose own name is taken, too."""
    if queue not in {*queues(), *clusters()}:
        raise RefusedError(f"There is no queue {queue!r}. {did_you_mean(queue, queues())}")
    return cluster_of(queue_of(queue))


@action("database")
def pause(queue: str, by: str) -> str:
    """Let no cluster begin another task of a queue."""
    cluster, alias = cluster_named(queue), table().db
    found, new = Pause.objects.using(alias).get_or_create(pk=cluster, defaults={"since": timezone.now(), "by": by})
    name = queue_of(cluster)
    if not new:
        raise RefusedError(f"The queue {name} is paused already, by {found.by} since {clock(found.since.timestamp())}.")
    late = order(alias)
    logger.info("%s has paused the queue %s", by, name)
    return f"The queue {name} is paused: what runs goes on, and nothing else begins.{late}"


@action("database")
def resume(queue: str, by: str) -> str:
    """Let the clusters go on."""
    cluster, alias = cluster_named(queue), table().db
    name = queue_of(cluster)
    if not Pause.objects.using(alias).filter(pk=cluster).delete()[0]:
        raise RefusedError(f"The queue {name} is not paused.")
    late = order(alias)
    logger.info("%s has resumed the queue %s", by, name)
    return f"The queue {name} goes on.{late}"


@action("database", "broker")
def purge(queue: str, by: str) -> str:
    """Remove all tasks of a queue that no cluster holds."""
    cluster, alias = cluster_named(queue), table().db
    broker: Leasing = get_broker(cluster)
    number = broker.purge()
    # Nothing is left of them to be tried again; of one that a cluster holds, this is written anew when it has ended.
    lost = table().filter(cluster=cluster, success=False).values("pk")
    Failure.objects.using(alias).filter(next_try__isnull=False, task__in=lost).update(next_try=None)
    name = queue_of(cluster)
    logger.info("%s has purged the queue %s of %s", by, name, counted(number))
    return f"Removed {counted(number)} from the queue {name}."


@action("database", "broker")
def retry(
    by: str,
    *,
    task: str | None = None,
    function: str | None = None,
    exception: str | None = None,
    within: float = math.inf,
) -> str:
    """Queue again what has failed for good: the task of an id, those of a function, or of a group of it, or all.

    What somebody has cancelled is left out of all, and of those of a function.
    Many take their time: whoever cannot wait says for how many seconds, and asks again for the rest.
    """
    if task is not None:
        return retry_one(task, by)
    until = time.monotonic() + within
    number, refused, left, why = 0, 0, False, ""
    what = "" if function is None else f" of {function}"
    for key in one_by_one(failed_for_good(function, exception)):
        if left := time.monotonic() > until:
            break
        row = table().filter(pk=key).first()
        problem = resubmit(row) if row else ""
        if row and not problem:
            number += 1
        elif table().filter(pk=key).exists():  # else somebody else has done it meanwhile
            refused, why = refused + 1, why or problem
    if not (number or refused or left):
        raise RefusedError(f"No task{what} has failed for good.{near(function)}")
    if number:
        logger.info("%s has queued again %s%s", by, counted(number), what)
    sentence = f"Queued {counted(number)} again."
    sentence += f" {counted(refused).capitalize()} could not be: {why}" if refused else ""
    return sentence + " There are more: do it again." * left


def retry_one(task: str, by: str) -> str:
    key, _ = key_of(task, failed_ones)
    row = table().filter(pk=key).first()
    if row is None:
        raise RefusedError(f"There is no result of a task {key}: it waits or runs, or its result is no longer kept.")
    if row.success:
        raise RefusedError(f"{row.name} has succeeded: it is not run again.")
    if problem := resubmit(row):
        raise RefusedError(problem)
    logger.info("%s has queued again %s (%s)", by, row.name, row.func)
    return f"Queued {row.name} again."


def failed_ones(beginning: str) -> Iterator[str]:
    """Yield the ids that begin so of tasks that have failed."""
    yield from table().filter(pk__startswith=beginning, success=False).values_list("pk", flat=True)


def failed_for_good(function: str | None = None, exception: str | None = None) -> "QuerySet[Any]":
    """Return the results of what has failed for good until now, of a function or by an exception, or of all."""
    rows: QuerySet[Any] = table().filter(~failures.is_waiting(), success=False, stopped__lte=timezone.now())
    if function is not None:
        rows = rows.filter(func=function)
    kept = Failure.objects.filter(task=OuterRef("pk"))  # no pk__in: PostgreSQL would read all rows for each
    if exception:
        return rows.filter(Exists(kept.filter(exception=exception)))
    if exception is not None:  # what was set aside, or could not be queued, has none
        return rows.filter(~Exists(kept.exclude(exception="")))
    return rows.filter(~Exists(kept.filter(exception=failures.CANCELLED)))


def one_by_one(rows: "QuerySet[Any]") -> Iterator[str]:
    """Yield the ids of results, the oldest first."""
    rows = rows.order_by("stopped", "pk")
    last: tuple[Any, str] | None = None
    while True:
        some = rows.filter(Q(stopped__gt=last[0]) | Q(stopped=last[0], pk__gt=last[1])) if last else rows
        found = list(some.values_list("stopped", "pk")[:BATCH])
        yield from (key for _, key in found)
        if len(found) < BATCH:
            return
        last = found[-1]


def near(function: str | None) -> str:
    """Return what may have been meant where nothing is left to run again, of a function or at all."""
    found = failed_groups()
    if any(group.exception == failures.CANCELLED and function in {None, group.func} for group in found):
        return " What somebody has cancelled runs again by its id."
    hint = nearest(function, {group.func for group in found}) if function else ""
    return f" {hint}" if hint else ""


@action("database", "broker")
def cancel(task: str, by: str, patience: float = 5.0) -> str:
    """Take a task out of its queue, or end the worker that runs it, by the id of the task or of its result."""
    key, receipt = key_of(task, waiting_or_running)
    sentence = cancelled(key, receipt, by, patience)
    logger.info("%s has cancelled the task %s", by, key)
    return sentence


@action("database", "broker")
def run_schedule(schedule: str | int, by: str) -> str:
    """Queue the task of a schedule now, by its name or its id; when it is due next stays as it is."""
    alias = router.db_for_write(Schedule)
    rows = Schedule.objects.using(alias).defer("next_run")  # Python may not know its time
    found = list(rows.filter(name=schedule)[:20]) if isinstance(schedule, str) else []
    if not found and str(schedule).isdecimal():
        found = list(rows.filter(pk=int(schedule)))
    if not found:
        known = list(rows.exclude(name=None).values_list("name", flat=True).distinct()[:1000])
        hint = did_you_mean(str(schedule), known) if known else "There are none."
        raise RefusedError(f"There is no schedule {schedule!r}. {hint}")
    if len(found) > 1:
        ids = ", ".join(str(row.pk) for row in found)
        raise RefusedError(f"{len(found)} schedules have the name {schedule!r}: write the id of one of them: {ids}.")
    row, before = found[0], found[0].task
    name = row.name or f"schedule {row.pk}"
    if problem := trigger(row, timezone.now(), get_broker(), lambda: None):
        raise RefusedError(f"The schedule {name} cannot be queued: {problem}")
    if row.task == before:
        raise RefusedError(f"The last task of the schedule {name} still goes on, and may not overlap with another.")
    rows.filter(pk=row.pk).update(task=row.task)
    note(row)
    logger.info("%s has run the schedule %s", by, name)
    return f"Queued the schedule {name} as {row.task}."


def counted(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"
