"""No more results than there is room for: a busy queue may leave more in a week than the database can bear."""

import logging
from collections.abc import Iterator
from datetime import datetime
from itertools import chain

from django.db import connections, router
from django.db.models import Q
from django_q.models import Task

from worker.conf import setting
from worker.retention import delete, until

LOOK_AFTER = 20  #: the number of rows is looked at when a cluster has saved this part of those that there may be

logger = logging.getLogger("django-q")


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
