"""What is in the queue: the rows of one cluster in django-q2's table, and the connection to it."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from sys import maxsize
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections, router, transaction
from django.db.models import QuerySet
from django.db.models.functions import Length
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.models import OrmQ

from worker.broker.locks import USED, all_rows, lapses, now
from worker.broker.statements import DEPTH, FORGET_LAPSES, IN_FILE, ON_SERVER, TAKE_OUT, TAKE_OUT_OF_FILE
from worker.delivery import Depth, signed_at
from worker.processes import did_you_mean

LOOK_EVERY = 1.0  #: seconds after which it is looked again whether this thread's connection can still be used
AT_ONCE = 1000  #: tasks that payloads() reads at a time
AT_ONCE_SIZE = 1_000_000  #: and their characters, unless one has more
looked = threading.local()


class Contents(ORM):  # type: ignore[misc]
    """The queue, for those who look at it and take something out."""

    @staticmethod
    def check_settings() -> None:
        """Look whether `orm` names a database that is there, and hands out each task once; it is not asked."""
        if Conf.ORM not in settings.DATABASES:
            problem = f"which DATABASES does not have. {did_you_mean(str(Conf.ORM), settings.DATABASES)}"
        elif (vendor := connections[Conf.ORM].vendor) not in {"postgresql", "sqlite"}:
            where = f"a database of {vendor}, where two workers would run a task twice"
            problem = f"{where}: name one of PostgreSQL or SQLite."
        elif not router.allow_migrate_model(Conf.ORM, OrmQ):
            problem = "and a router keeps the queue's table out of it: name the one that its allow_migrate() answers."
        else:
            return
        raise ImproperlyConfigured(f"Q_CLUSTER['orm'] is {Conf.ORM!r}, {problem}")

    @property
    def database(self) -> Any:
        return connections[Conf.ORM]

    @property
    def postgresql(self) -> bool:
        """Whether the database is a server, and no file."""
        return bool(self.database.vendor == "postgresql")

    @staticmethod
    def get_connection(list_key: str | None = None) -> QuerySet[OrmQ]:
        """Return the rows of all queues, the oldest first.

        Upstream, 1.11.1, closes old connections each time: for CONN_HEALTH_CHECKS that is a query for each task queued.
        """
        moment = time.monotonic()
        if connections[Conf.ORM].errors_occurred or moment - getattr(looked, "at", -math.inf) > LOOK_EVERY:
            looked.at = moment
            ORM.get_connection(list_key)
        return all_rows()

    @contextmanager
    def rows(self) -> Iterator[QuerySet[OrmQ]]:
        """Lend the rows; after an error the next one gets a new connection: this one may lead to a former primary."""
        try:
            yield self.get_connection()
        except Error:
            if not self.database.in_atomic_block:
                self.database.close()
            raise

    def run(self, statement: str, *parameters: Any, **named: Any) -> list[tuple[Any, ...]]:
        with self.rows(), self.database.cursor() as cursor:
            cursor.execute(statement, named or parameters)
            return list(cursor.fetchall()) if cursor.description else []

    @staticmethod
    def receipt_of(receipt: str) -> str:
        return receipt

    def peek(self, receipt: str) -> str | None:
        with self.rows() as rows:
            return rows.filter(pk=receipt).values_list("payload", flat=True).first() if receipt.isdecimal() else None

    def payloads(self, most: int) -> Iterator[tuple[str, str]]:
        last = 0
        while most > 0:
            with self.rows() as rows:
                rest = rows.filter(key=self.list_key, pk__gt=last)
                sizes = list(rest.values_list("pk", Length("payload"))[: min(most, AT_ONCE)])
                if not sizes:
                    return
                fit = [size <= AT_ONCE_SIZE for size in accumulate(size for _, size in sizes)].count(True) or 1
                last = sizes[fit - 1][0]
                tasks = list(rest.filter(pk__lte=last).values_list("pk", "payload"))
            most -= fit
            for key, payload in tasks:
                yield str(key), payload

    def depth(self, most: int | None = None) -> Depth:
        """Return how much is in the queue; those that are not waiting are counted up to `most` together."""
        which = {"key": self.list_key, "most": maxsize if most is None else most, "used": USED}
        if self.postgresql:
            ((waiting, due, taken, *times),) = self.run(DEPTH.format(**ON_SERVER), **which)
        else:
            adapt = self.database.ops.adapt_datetimefield_value
            which |= {"used": adapt(USED), "now": adapt(now())}
            ((waiting, due, taken, *times),) = self.run(DEPTH.format(**IN_FILE), **which)
        first, since = times
        moments = [moment for moment in (signed_at(first or ""), since) if moment is not None]
        return Depth(waiting, due, taken, min(moments, default=None))

    def remove(self, receipt: str) -> bool:
        return bool(receipt.isdecimal() and self.take_out("AND id = %(id)s", id=int(receipt)))

    def purge(self) -> int:
        return self.take_out()

    def take_out(self, condition: str = "", **which: Any) -> int:
        """Take out what nobody holds, and waits for nobody who is just claiming it."""
        which["key"] = self.list_key
        if self.postgresql:
            return int(self.run(TAKE_OUT.format(condition=condition, **ON_SERVER), **which)[0][0])
        which["now"] = self.database.ops.adapt_datetimefield_value(now())
        with transaction.atomic(using=Conf.ORM), self.rows(), self.database.cursor() as cursor:
            cursor.execute(TAKE_OUT_OF_FILE.format(condition=condition, **IN_FILE), which)
            taken = int(cursor.rowcount)
            cursor.execute(FORGET_LAPSES)
        return taken

    # django-q2's words

    def delete(self, task_id: str, **which: Any) -> None:
        with self.rows() as rows:
            removed = rows.filter(**which or {"pk": task_id})
            lapses().filter(task__in=removed.values("pk")).delete()
            removed.delete()

    def purge_queue(self) -> None:
        self.delete("", key=self.list_key)

    delete_queue = purge_queue

    def ping(self) -> bool:
        """Ask the database for an answer; upstream's asks nobody."""
        return bool(self.run("SELECT 1"))
