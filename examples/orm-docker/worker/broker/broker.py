"""The broker: tasks wait in the project's own database, in django-q2's table.

A task's lock is the time, by the database's clock, from which it may be taken. Each claim and each renewal sets a later
one, so it also tells whose the task is: theirs who know the lock that is there. Its last digits tell what it was set
for: see `locks.py`.
"""

import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django_q.conf import Conf
from django_q.models import OrmQ

from worker.broker.contents import Contents
from worker.broker.locks import (
    FREE,
    RETURNED,
    USED,
    all_rows,
    count,
    delayed,
    in_file,
    is_delayed,
    lapsed,
    lapses,
    leased,
    now,
    whole,
)
from worker.broker.statements import CLAIM, ENQUEUE, FREE_IN_FILE, HELD, RELEASE, REMOVE, RENEW
from worker.delivery import Adapter, Delivery

logger = logging.getLogger("django-q")


class Broker(Adapter, Contents):
    """django-q2's, with leases.

    Upstream, 1.11.1, takes tasks in no order and by the clock of each client, and lets whoever loses a race ask again
    without a pause.
    """

    can_peek = forgets_returned = True
    away: tuple[type[Exception], ...] = ()  # the database's, as for any other page
    transactional = True

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(list_key)
        self.cluster = self.list_key
        self.channel = f"{Conf.PREFIX}:{self.list_key}"[:63]
        self.locks: dict[str, Any] = {}  #: of what this process holds: as PostgreSQL writes them, which is exact
        self.turn = threading.RLock()  #: of whoever compares these locks with the rows', or changes both
        self.due = math.inf  #: when something may be due, by the monotonic clock, as far as the last claim has seen
        self.listening: Any = True  #: the connection that notifications come on; False if none do, True at first

    def run_on(self, held: dict[str, Any], statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement on tasks that this process holds."""
        return self.run(HELD + statement, list(held), list(held.values()), *parameters) if held else []

    @contextmanager
    def alone(self) -> Iterator[QuerySet[OrmQ]]:
        """Lend the rows, and keep other threads from what is known of those that this process holds.

        In a file its lock does so: with another one, whoever has the file could wait for who waits for the file.
        """
        with self.turn if self.postgresql else transaction.atomic(using=Conf.ORM), self.rows() as rows:
            yield rows

    def enqueue(self, task: str, after: datetime | None = None) -> int:
        lock = delayed(after) if after else FREE
        if self.postgresql:
            return int(self.run(ENQUEUE, self.list_key, task, lock, self.channel)[0][0])
        with self.rows() as rows:
            return int(rows.create(key=self.list_key, payload=task, lock=lock).pk)

    def enqueue_all(self, payloads: list[str], after: datetime | None = None) -> None:
        lock = delayed(after) if after else FREE
        with self.rows() as rows:
            rows.bulk_create([OrmQ(key=self.list_key, payload=payload, lock=lock) for payload in payloads])
        if self.postgresql:
            self.run("SELECT pg_notify(%s, '')", self.channel)

    def claim(self, limit: int, size: int) -> list[Delivery]:
        if self.postgresql:
            lease, which = timedelta(seconds=Conf.RETRY), {"key": self.list_key, "used": USED, "free": FREE}
            *taken, last = self.run(CLAIM, **which, limit=limit, size=size, lease=lease)
            if last[0] is None:  # there is nothing
                self.due = math.inf if last[6] is None else time.monotonic() + last[6]
            else:
                taken.append(last)
        else:
            taken = self.claim_in_file(limit, size)
        with self.turn:
            self.locks.update({str(key): lock for key, _, lock, *_ in taken})
        return [Delivery(str(key), payload, 1 + times, again, due) for key, payload, _, times, again, due, *_ in taken]

    def claim_in_file(self, limit: int, size: int) -> list[tuple[Any, ...]]:
        """Take tasks, and return of each what CLAIM does."""
        taken: dict[int, tuple[str, datetime]] = {}
        adapt = self.database.ops.adapt_datetimefield_value
        which = {"key": self.list_key, "limit": limit, "now": adapt(now()), "used": adapt(USED)}
        with self.alone() as rows:
            for task in rows.raw(FREE_IN_FILE, which):  # one that is too large is the last to be read
                size -= len(task.payload.encode())
                if len(taken) == limit or (taken and size < 0):
                    break
                taken[task.pk] = task.payload, task.lock
            lock = leased()
            rows.filter(pk__in=taken).update(lock=lock)
            count([key for key, (_, former) in taken.items() if lapsed(former)], 1)
            times = dict(lapses().filter(task__in=taken).values_list("task", "times"))
        return [
            (key, payload, lock, times.get(key, 0), former != FREE and not is_delayed(former), former != FREE)
            for key, (payload, former) in taken.items()
        ]

    def held(self, receipts: Iterable[str]) -> dict[str, Any]:
        """Return the locks of those tasks that this process holds, as far as it knows."""
        return {receipt: self.locks[receipt] for receipt in receipts if receipt in self.locks}

    def forget(self, held: dict[str, Any]) -> None:
        """Hold these no longer, except those that were claimed again meanwhile."""
        with self.turn:
            for receipt, lock in held.items():
                if self.locks.get(receipt) == lock:
                    del self.locks[receipt]

    def renew(self, receipts: Iterable[str]) -> set[str]:
        receipts = set(receipts)
        held: dict[str, Any] = {}
        try:
            with self.alone() as rows:
                held, lease = self.held(receipts), timedelta(seconds=Conf.RETRY)
                if self.postgresql:
                    renewed = {str(key): lock for key, lock in self.run_on(held, RENEW, lease)}
                else:
                    keys, lock = in_file(held), leased()
                    rows.filter(pk__in=keys).update(lock=lock)
                    renewed = dict.fromkeys(map(str, keys), lock)
                self.locks.update(renewed)
        except Exception:  # of the commit, perhaps: the disk is full
            self.locks.update(held)
            raise
        self.forget({receipt: lock for receipt, lock in held.items() if receipt not in renewed})
        return receipts - renewed.keys()

    def release(self, delays: Mapping[str, float]) -> None:
        with self.parting(delays) as held:
            if self.postgresql:
                seconds = [timedelta(seconds=max(delays[receipt], 0.0)) for receipt in held]
                self.run_on(held, RELEASE, list(held), seconds, RETURNED, self.channel)
                return
            begin, keys = now(), in_file(held)
            at_once = [key for key in keys if delays[str(key)] <= 0]
            all_rows().filter(pk__in=at_once).update(lock=RETURNED)
            for key in {*keys} - {*at_once}:
                all_rows().filter(pk=key).update(lock=whole(begin + timedelta(seconds=delays[str(key)])))

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        """Remove tasks that are done; in a transaction, once it is committed."""
        with self.parting(receipts) as held:
            if self.postgresql:
                self.run_on(held, REMOVE)
                return
            keys = in_file(held)
            all_rows().filter(pk__in=keys).delete()
            if lapses().exists():  # for most tasks there is none
                lapses().filter(task__in=keys).delete()

    @contextmanager
    def parting(self, receipts: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Lend the locks of what this process holds, and forget them once the transaction is committed."""
        with self.alone():
            held = self.held(receipts)
            yield held
            transaction.on_commit(partial(self.forget, held), using=Conf.ORM)

    def idle(self, timeout: float, others: list[Any]) -> None:
        """Wait for a notification, or until something is due; without any, look at the queue every `poll` seconds."""
        timeout = max(0.0, min(timeout, self.due - time.monotonic()))
        if self.listening is not self.database.connection and self.listening is not False:
            self.listen()  # and look again: a task may have come before
        elif self.listening:
            with self.rows(), self.database.wrap_database_errors:
                if not list(self.listening.notifies(timeout=0)):  # one may have come with the answer to a claim
                    wait([self.listening.fileno(), *others], timeout)
                    list(self.listening.notifies(timeout=0))
        else:
            wait(others, min(timeout, Conf.POLL))

    def listen(self) -> None:
        """Ask for notifications, unless a pooler, such as PgBouncer, answers with a number of its own."""
        listening: Any = False
        if self.postgresql:
            ((server,),) = self.run("SELECT pg_backend_pid()")
            if server == self.database.connection.info.backend_pid:
                self.run(f'LISTEN "{self.channel}"')
                listening = self.database.connection
            else:
                logger.warning("PostgreSQL is behind a pooler: the queue is looked at every %s s", Conf.POLL)
        self.listening = listening  # not before: what an outage has kept from being asked is asked again
