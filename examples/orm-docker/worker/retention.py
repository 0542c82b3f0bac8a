"""How long results are kept: `prune` is for a schedule of the project. See cluster/ceiling.py for how many are."""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, router, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django_q.models import Task

from worker.conf import setting
from worker.models import Cancellation, Cluster, Failure
from worker.queue.signs import FORGOTTEN

BATCH = 1000  #: rows that are deleted in one transaction
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
            keys = [key for key, _ in found]
            # As delete(), which would read the rows, and unpickle them, if somebody listens for deletions.
            Failure.objects.using(alias).filter(pk__in=keys)._raw_delete(alias)  # noqa: SLF001
            Task.objects.using(alias).filter(pk__in=keys)._raw_delete(alias)  # noqa: SLF001
        if found:
            since = found[-1][1]
            yield len(found), since
        if len(found) < BATCH:
            return
