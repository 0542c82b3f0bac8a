"""What the locks of tasks say, and what is counted of those that were leases.

A lock is the time from which a task may be taken. Its last digits, the microseconds after a whole millisecond, tell
what it was set for: see below. A plain django-q2 sets any digits, for its leases.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from django.conf import settings
from django.db.models import F, QuerySet
from django_q.conf import Conf
from django_q.models import OrmQ

from worker.models import Lapse

PUT_OFF, LEASED, DELAYED = 0, 1, 2  #: digits of what was given back for a while, is held, or was queued for later
FREE = datetime(1970, 1, 1, tzinfo=UTC if settings.USE_TZ else None)  #: the lock of what was never taken
RETURNED = FREE - timedelta(days=1)  #: the lock of what was given back without a delay: it comes first
USED = FREE + timedelta(days=366)  #: earlier are only locks of what waits, whatever the time zone


def now() -> datetime:
    """Return the time where the database is a file of this host. It is UTC, which no summer time turns back."""
    return datetime.now(UTC) if settings.USE_TZ else datetime.now(UTC).replace(tzinfo=None)


def whole(moment: datetime) -> datetime:
    """Return the next whole millisecond."""
    return moment + timedelta(microseconds=-moment.microsecond % 1000)


def delayed(moment: datetime) -> datetime:
    """Return the lock of what is queued for later."""
    return whole(moment) + timedelta(microseconds=DELAYED)


def is_delayed(lock: datetime) -> bool:
    return lock > USED and lock.microsecond % 1000 == DELAYED


def lapsed(lock: datetime) -> bool:
    """Say whether a lock that is over was a lease."""
    return lock > USED and lock.microsecond % 1000 not in {PUT_OFF, DELAYED}


def leased() -> datetime:
    """Return when a lease runs out that begins now, where the database is a file."""
    return whole(now() + timedelta(seconds=Conf.RETRY)) + timedelta(microseconds=LEASED)


def lapses() -> QuerySet[Lapse]:
    """Return what is known of leases that have run out."""
    return Lapse.objects.using(Conf.ORM)


def count(keys: list[int], by: int) -> None:
    """Change how often the leases of tasks have run out."""
    lapses().bulk_create([Lapse(task=key, times=0) for key in keys], ignore_conflicts=True)
    lapses().filter(task__in=keys).update(times=F("times") + by)


@cache
def all_rows() -> QuerySet[OrmQ]:
    """Return the rows of all queues, the oldest first: made once, for each task that is queued asks for a copy."""
    rows: QuerySet[OrmQ] = OrmQ.objects.using(Conf.ORM).order_by("id")
    return rows


def in_file(held: dict[str, Any]) -> list[int]:
    """Return the ids of the tasks that this process still holds."""
    rows = all_rows().filter(pk__in=held).values_list("pk", "lock")
    return [key for key, lock in rows if held[str(key)] == lock]
