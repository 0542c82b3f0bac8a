"""How long results are kept, by `prune` in a schedule of the project, and how many at most, by the agents."""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from django.db import connections, router, transaction
from django.db.models import Q, QuerySet, Window
from django.db.models.functions import RowNumber
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Task

from worker import failures
from worker.conf import setting
from worker.models import Cancellation, Cluster, Failure
from worker.packages import PART, table
from worker.queue.signs import FORGOTTEN

BATCH = 1000  #: rows that are deleted in one transaction
LOOK_AFTER = 20  #: the number of rows is looked at when a cluster has saved this part of those that there may be
ORDERED = timedelta(days=7)  #: for which a cancellation waits for its task

logger = logging.getLogger("django-q")


def prune() -> int:
    """Delete the results that are older than Q_KEEP_RESULTS and Q_KEEP_FAILURES say, and return how many those were.

    A task that is to be tried again is kept, unless it should have been that long ago: the queue has lost it. This may
    be stopped at any time, and goes on with the next call.
    """
    done = 0
    for success in (True, False):
        for number, _ in delete(Q(success=success, stopped__lt=until(success=success))):
            done += number
    alias, now = router.db_for_write(Task), timezone.now()
    Cancellation.objects.using(alias).filter(since__lt=now - ORDERED).delete()
    Cluster.objects.using(alias).filter(seen__lt=now - FORGOTTEN).delete()
    logger.info("Deleted %s old results", done)
    return done


def until(*, success: bool) -> datetime:
    """Return the time before which results are no longer kept."""
    return timezone.now() - timedelta(days=setting("Q_KEEP_RESULTS" if success else "Q_KEEP_FAILURES"))


def delete(criteria: Q) -> Iterator[tuple[int, datetime]]:
    """Delete results, the oldest first; yield how many each batch had, and of when the last one was.

    Rows that somebody has locked are left out, so nobody waits for anybody. Each batch goes on where the last one
    ended in the index, which may be full of rows that are kept.
    """
    alias = router.db_for_write(Task)
    waiting = Failure.objects.using(alias).filter(next_try__gte=until(success=False)).values("task")
    rows: QuerySet[Any] = Task.objects.using(alias).filter(criteria).exclude(pk__in=waiting).order_by("stopped")
    skip = connections[alias].features.has_select_for_update_skip_locked
    since = None
    while True:
        with transaction.atomic(alias):
            batch = rows.filter(stopped__gte=since) if since else rows
            found = list(batch.select_for_update(skip_locked=skip, of=()).values_list("pk", "stopped")[:BATCH])
            delete_rows([key for key, _ in found], alias)
        if found:
            since = found[-1][1]
            yield len(found), since
        if len(found) < BATCH:
            return


def delete_rows(ids: list[str], using: str) -> None:
    """Do as delete(), which would read the rows, and unpickle them, if somebody listens for deletions."""
    failures.delete(ids, using)
    Task.objects.using(using).filter(pk__in=ids)._raw_delete(using)  # noqa: SLF001


# How many: what a busy queue leaves in a week may be more than the database can bear


class Ceiling:
    """Keeps the number of rows below Q_MOST_RESULTS, for an agent."""

    def __init__(self) -> None:
        self.most: int = setting("Q_MOST_RESULTS")
        self.saved = self.most  #: results that this cluster has saved since the last look
        self.cutting: Iterator[tuple[int, datetime | None]] = iter(())
        self.surplus = self.cut = 0
        self.last: datetime | None = None  #: of when the last is that was deleted

    def turn(self) -> bool:
        """Do a part of what is to be done, a batch at most, and say whether there is more."""
        if not self.surplus and (self.saved < self.most // LOOK_AFTER or not self.look()):
            return False
        number, self.last = next(self.cutting, (0, self.last))
        self.surplus, self.cut = max(0, self.surplus - number), self.cut + number
        if self.surplus and number:
            return True
        self.surplus = 0
        what = "there are more results than Q_MOST_RESULTS = %s, and Q_KEEP_RESULTS is not over: deleted %s"
        if self.cut:
            logger.warning(f"{what}, up to those of %s", self.most, self.cut, self.last)
        return False

    def look(self) -> bool:
        """Estimate the number of rows, count them if they may be too many, and say whether they are."""
        self.saved = self.cut = 0
        alias = router.db_for_write(Task)
        if estimate(alias) <= self.most:
            return False
        self.surplus = Task.objects.using(alias).count() - self.most
        if self.surplus <= 0:
            self.surplus = 0
            return False
        self.surplus += self.most // LOOK_AFTER  # or it would be too many again at once
        self.cutting = chain.from_iterable(map(delete, [*oldest(self.surplus, alias)]))
        return True


def oldest(surplus: int, alias: str) -> Iterator[Q]:
    """Yield what the surplus is: successes before failures, of groups and iterables only what is older than others are.

    Up to a moment: another cluster may be deleting the same, and would go on with rows that are none of it.
    """
    for success in (True, False):
        criteria = Q(Q(group=None) | Q(stopped__lt=until(success=success)), success=success)
        ages = Task.objects.using(alias).filter(criteria).order_by("stopped").values_list("stopped", flat=True)
        if newest := ages[surplus - 1 : surplus].first():
            yield criteria & Q(stopped__lte=newest)
            return
        yield criteria
        surplus -= ages.count()


def estimate(alias: str) -> int:
    """Return about how many results there are: on PostgreSQL as its planner does, which reads none of them."""
    if connections[alias].vendor != "postgresql":
        return int(Task.objects.using(alias).count())
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT reltuples / greatest(relpages, 1) * pg_relation_size(oid) / current_setting('block_size')::int "
            "FROM pg_class WHERE oid = %s::regclass AND reltuples >= 0 AND relpages > 0",
            [Task._meta.db_table],  # noqa: SLF001 (a documented part of models)
        )
        found = cursor.fetchone()
    return int(found[0] if found else Task.objects.using(alias).count())  # it was never analyzed


def prune_to_save_limit() -> None:
    """Delete the oldest successes above django-q2's own `save_limit`."""
    kept = table().filter(success=True).exclude(hook=PART).values_list("pk", flat=True)
    if Conf.SAVE_LIMIT_PER:
        place = Window(RowNumber(), partition_by=Conf.SAVE_LIMIT_PER, order_by="-stopped")
        surplus = kept.alias(place=place).filter(place__gt=Conf.SAVE_LIMIT)
    else:
        surplus = kept.order_by("-stopped")[Conf.SAVE_LIMIT :]
    while some := list(surplus[:BATCH]):
        delete_rows(some, table().db)
