"""The broker: tasks wait in the project's own database, in django-q2's table."""

import logging
import math
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from multiprocessing.connection import wait
from typing import Any

from django.db import connections, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.signing import SignedPackage

from worker.delivery import Delivery

FREE = datetime(1970, 1, 1, tzinfo=UTC)  #: the lock of a task that was never taken, or was given back

LOOK_EVERY = 1.0  #: seconds after which it is looked again whether this thread's connection can still be used
looked = threading.local()

# With one commit, where a notification of its own would take another.
ENQUEUE = """
WITH task AS (INSERT INTO django_q_ormq (key, payload, lock) VALUES (%s, %s, %s) RETURNING id)
SELECT id, pg_notify(%s, '') FROM task
"""

# In order, past what other clusters are taking at this moment, and in one round trip.
CLAIM = """
UPDATE django_q_ormq AS task SET lock = statement_timestamp() + %s
FROM (SELECT id, lock FROM django_q_ormq WHERE key = %s AND lock <= statement_timestamp()
      ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED) AS free
WHERE task.id = free.id RETURNING task.id, task.payload, free.lock, task.lock
"""

logger = logging.getLogger("django-q")


@cache
def all_rows() -> QuerySet[OrmQ]:
    """Return the rows of all queues, the oldest first: made once, for each task that is queued asks for a copy."""
    rows: QuerySet[OrmQ] = OrmQ.objects.using(Conf.ORM).order_by("id")
    return rows


class Broker(ORM):  # type: ignore[misc]
    """django-q2's, with leases.

    A task's lock is the time, by the database's clock, from which it may be taken. Upstream, 1.11.1, takes tasks in
    no order and by the clock of each client, and lets whoever loses a race ask again without a pause.
    """

    ordered = True
    forgets_returned = True

    def __init__(self, list_key: str | None = None) -> None:
        """Serve the queue of this cluster."""
        super().__init__(list_key)
        self.lease = timedelta(seconds=Conf.RETRY)
        self.channel = f"{Conf.PREFIX}:{self.list_key}"[:63]
        self.locks: dict[str, datetime] = {}  #: of what this process has claimed
        self.listening: Any = None  #: the connection that notifications come on, False if none do

    @property
    def database(self) -> Any:
        """Django's connection to the database that holds the queue."""
        return connections[Conf.ORM]

    @staticmethod
    def get_connection(list_key: str | None = None) -> QuerySet[OrmQ]:
        """Return the rows of all queues, the oldest first.

        Upstream, 1.11.1, closes old connections each time: for CONN_HEALTH_CHECKS that is a query for each task queued.
        """
        now = time.monotonic()
        if connections[Conf.ORM].errors_occurred or now - getattr(looked, "at", -math.inf) > LOOK_EVERY:
            looked.at = now
            ORM.get_connection(list_key)
        return all_rows()

    def now(self) -> datetime:
        """Return the time of the database: clients' clocks differ, but that of a file is this host's."""
        if self.database.vendor != "postgresql":
            return timezone.now()
        with self.database.cursor() as cursor:
            cursor.execute("SELECT statement_timestamp()")
            now: datetime = cursor.fetchone()[0]
            return now

    def enqueue(self, task: str) -> int:
        """Add a task."""
        if self.database.vendor == "postgresql":
            with self.database.cursor() as cursor:
                cursor.execute(ENQUEUE, [self.list_key, task, FREE, self.channel])
                return int(cursor.fetchone()[0])
        return int(self.get_connection().create(key=self.list_key, payload=task, lock=FREE).pk)

    def enqueue_all(self, payloads: list[str]) -> None:
        """Add tasks, all or none."""
        rows = [OrmQ(key=self.list_key, payload=payload, lock=FREE) for payload in payloads]
        self.get_connection().bulk_create(rows)
        self.notify()

    def notify(self) -> None:
        """Wake whoever waits for a task, once the transaction is committed."""
        if self.database.vendor == "postgresql":
            with self.database.cursor() as cursor:
                cursor.execute("SELECT pg_notify(%s, '')", [self.channel])

    def claim(self, limit: int) -> list[Delivery]:
        """Take up to so many tasks, the oldest first."""
        if self.database.vendor == "postgresql":
            with self.database.cursor() as cursor:
                cursor.execute(CLAIM, [self.lease, self.list_key, limit])
                rows = sorted(cursor.fetchall())
        else:
            with transaction.atomic(using=Conf.ORM):
                now = self.now()
                free = self.get_connection().filter(key=self.list_key, lock__lte=now)[:limit]
                rows = [(row.pk, row.payload, row.lock, now + self.lease) for row in free]
                self.get_connection().filter(pk__in=[row[0] for row in rows]).update(lock=now + self.lease)
        self.locks |= {str(key): lock for key, _, _, lock in rows}
        return [self.delivery(key, payload, free) for key, payload, free, _ in rows]

    def delivery(self, key: int, payload: str, free: datetime) -> Delivery:
        """Return a task. One whose lease has run out carries the number of its hand-outs in its payload."""
        return Delivery(str(key), *(self.count(key, payload, 1) if free != FREE else (payload, 1)))

    def count(self, key: int, payload: str, by: int) -> tuple[str, int]:
        """Change the number of a task's hand-outs, and return its payload and the number."""
        try:
            task = SignedPackage.loads(payload)
        except Exception:  # whatever unpickling raises: the pusher reports it
            return payload, 1
        task["deliveries"] = task.get("deliveries", 1) + by
        payload = SignedPackage.dumps(task)
        self.get_connection().filter(pk=key).update(payload=payload)
        return payload, task["deliveries"]

    def renew(self, receipts: Iterable[str]) -> set[str]:
        """Renew leases, and return the receipts of those that are not this process's any more."""
        receipts = set(receipts)
        self.locks = {receipt: lock for receipt, lock in self.locks.items() if receipt in receipts}
        if not receipts:
            return set()
        lock = self.now() + self.lease
        rows = self.get_connection().filter(pk__in=receipts)
        rows.filter(lock__in=set(self.locks.values())).update(lock=lock)
        self.locks = dict.fromkeys(self.locks, lock)
        return receipts - {str(key) for key in rows.filter(lock=lock).values_list("pk", flat=True)}

    def release(self, receipts: Iterable[str], delay: float = 0.0) -> None:
        """Give tasks back, to be taken after so many seconds."""
        if receipts := list(receipts):
            rows = self.get_connection().filter(pk__in=receipts)
            if delay:  # its lock will look like a lease that has run out, but its cluster has not died of it
                for key, payload in rows.values_list("pk", "payload"):
                    self.count(key, payload, -1)
            rows.update(lock=self.now() + timedelta(seconds=delay) if delay else FREE)

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        """Remove tasks that are done."""
        if receipts := list(receipts):
            self.get_connection().filter(pk__in=receipts).delete()

    def idle(self, timeout: float, others: list[Any]) -> None:
        """Wait for a notification; without one, look at the queue every `poll` seconds."""
        if self.listening is not self.database.connection and self.listening is not False:
            self.listen()  # and look again: a task may have come before
        elif self.listening:
            wait([self.listening.fileno(), *others], timeout)
            list(self.listening.notifies(timeout=0))
        else:
            wait(others, min(timeout, Conf.POLL))

    def listen(self) -> None:
        """Ask for notifications, and find out whether they come: a PgBouncer that pools transactions drops them."""
        self.listening = False
        if self.database.vendor == "postgresql":
            with self.database.cursor() as cursor:
                cursor.execute(f'LISTEN "{self.channel}"')
            self.notify()
            if list(self.database.connection.notifies(timeout=2, stop_after=1)):
                self.listening = self.database.connection
            else:
                logger.warning("PostgreSQL's notifications do not arrive; asking every %s s instead", Conf.POLL)
