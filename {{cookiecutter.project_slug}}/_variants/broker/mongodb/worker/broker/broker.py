"""The broker: tasks wait in a MongoDB collection.

A document holds the `payload` of a task and its `lock`, the time from which it may be taken; once taken, also the
`lease`, which names the claim, and `deliveries`. Those that a plain django-q2 has left can be taken too.

All times are the server's, since the clocks of clients differ: it tells the time by `hello`, and by `$$NOW` in the
pipeline of an update (https://www.mongodb.com/docs/manual/reference/aggregation-variables/).
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from multiprocessing.connection import wait
from typing import Any

from bson import ObjectId
from django.core.exceptions import ImproperlyConfigured
from django_q.brokers.mongo import Mongo
from django_q.conf import Conf
from pymongo import ASCENDING, DESCENDING, MongoClient, ReadPreference, UpdateMany
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    PyMongoError,
    WTimeoutError,
)

from worker.delivery import Adapter, Delivery, Depth

Document = dict[str, Any]

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)  #: the lock of a task that was never taken, or was given back
# Those come first whose lease has run out or whose next attempt is due, and then, all LONG_AGO, the oldest. A claim
# reads just so many entries of an index in this order, however many tasks wait or are taken.
ORDER = [("lock", DESCENDING), ("_id", ASCENDING)]
DEFAULTS: Document = {
    # For each call, tries that PyMongo makes by itself included: well before the agent is taken for stuck, and
    # before leases can run out unnoticed while a call waits, which would then claim what the cluster holds already.
    "timeoutMS": min(10_000, Conf.RETRY * 1000 // 3),
    "w": "majority",  # what is written outlives a change of the primary
}


@cache
def client(pid: int) -> MongoClient[Document]:
    """Return this process's client, which cannot be shared over a fork; upstream's is new for each task queued.

    What adds a task may be repeated by it: the id, which is given here, is there only once.
    """
    return new_client()


def new_client(**options: Any) -> MongoClient[Document]:
    try:
        return MongoClient(**DEFAULTS | Conf.MONGO | options)
    except (InvalidURI, ValueError) as error:  # whose sentences may repeat parts of the URL
        raise ImproperlyConfigured(
            "MONGODB_URL cannot be read: write mongodb://user:password@host:27017/name, and in the password %2F for /, "
            "%23 for #, %3F for ?, %40 for @, %3A for : and %25 for %."
        ) from error
    except (ConfigurationError, OSError) as error:
        if str(Conf.MONGO.get("host")).startswith("mongodb+srv:"):
            raise  # the server of names may be away
        raise ImproperlyConfigured(f"MONGODB_URL has an option after its ? that cannot be used: {error}") from error


def document(payload: str, after: datetime | None) -> Document:
    """Return a new task. MongoDB knows milliseconds, and would cut off the rest of its time."""
    if after is None:
        return {"payload": payload, "lock": LONG_AGO}
    lock = after.astimezone(UTC) + timedelta(microseconds=-after.microsecond % 1000)
    return {"payload": payload, "lock": lock}


def later(seconds: float) -> Document:
    """Return the time in so many seconds, as an expression of the server."""
    return {"$add": ["$$NOW", math.ceil(seconds * 1000)]}


class Broker(Adapter, Mongo):  # type: ignore[misc]
    """django-q2's, with leases. Errors are PyMongo's; a task of more than 16 MB is a DocumentTooLarge.

    Tasks come in the order of their ids: as they were queued by one process, to the second by those of several.
    Upstream, 1.11.1, takes them in no order, one at a time, and goes by the clock of each client.
    """

    can_peek = forgets_returned = True
    away: tuple[type[Exception], ...] = (ConnectionFailure, ExecutionTimeout, WTimeoutError)
    errors: tuple[type[Exception], ...] = (PyMongoError,)
    transactional = False
    indexed = False

    @property
    def cluster(self) -> str:
        return str(self.list_key)

    @staticmethod
    def get_connection(list_key: str | None = None) -> MongoClient[Document]:
        return client(os.getpid())

    @staticmethod
    def check_settings() -> None:
        """Look at the URL, and ask no server."""
        new_client(connect=False).close()

    def get_collection(self) -> Collection[Document]:
        """Return the collection of this queue; a secondary that lags would answer wrongly.

        It is in the database that the URL names, if it does, and not in that of the users, which URLs often name.
        """
        database: Database[Document] = self.connection.get_default_database(Conf.MONGO_DB)
        if database.name == "admin":
            database = self.connection[Conf.MONGO_DB]
        return database.get_collection(self.list_key, read_preference=ReadPreference.PRIMARY)

    def now(self) -> datetime:
        """Return the server's time."""
        now: datetime = self.connection.admin.command("hello")["localTime"]
        return now

    def enqueue(self, task: str, after: datetime | None = None) -> str:
        """Add a task.

        Upstream dates it back by the `retry` of the process that adds it, so that a cluster with a longer one
        waits for the difference (1.11.1).
        """
        return str(self.collection.insert_one(document(task, after)).inserted_id)

    def enqueue_all(self, payloads: list[str], after: datetime | None = None) -> None:
        """Add tasks; those before one that is refused stay."""
        self.collection.insert_many([document(payload, after) for payload in payloads])

    def claim(self, limit: int, size: int) -> list[Delivery]:
        """Take tasks: find free ones that fit, take those that still are free, read what was taken.

        One find_one_and_update a task would wait each time until a majority has written it.
        """
        if not self.indexed:
            self.collection.create_index(ORDER)
            self.indexed = True
        lease = ObjectId()
        taken = {
            "lock": later(Conf.RETRY),
            "lease": lease,
            "deliveries": {"$add": [{"$ifNull": ["$deliveries", 0]}, 1]},
        }
        while True:
            free = {"lock": {"$lte": self.now()}}
            columns = {"lock": True, "size": {"$strLenBytes": "$payload"}}
            tasks = list(self.collection.find(free, columns, sort=ORDER, limit=limit))
            if len(tasks) == limit and tasks[-1]["lock"].year > LONG_AGO.year:  # more is due than is asked for
                some = {"lock": {"$gt": LONG_AGO, **free["lock"]}}
                tasks = list(self.collection.find(some, columns, sort=[("lock", ASCENDING)], limit=limit))
            tasks.sort(key=lambda task: (task["lock"].year == LONG_AGO.year, task["lock"]))
            found: list[ObjectId] = []
            due = {task["_id"] for task in tasks if task["lock"].year > LONG_AGO.year}
            left = size
            for task in tasks:
                left -= task["size"]
                if found and left < 0:
                    break
                found.append(task["_id"])
            if not found:
                return []
            if self.collection.update_many({"_id": {"$in": found}, **free}, [{"$set": taken}]).modified_count:
                break  # otherwise other clusters were faster with all of them
        mine = {task["_id"]: task for task in self.collection.find({"_id": {"$in": found}, "lease": lease})}
        return [self.delivery(mine[key], is_due=key in due) for key in found if key in mine]

    @classmethod
    def delivery(cls, task: Document, *, is_due: bool) -> Delivery:
        """Return a task that was taken."""
        count, again = task["deliveries"], task["deliveries"] > 1 or "again" in task
        return Delivery(cls.receipt(task), task["payload"], count, again, due=is_due or again)

    @staticmethod
    def receipt(task: Document) -> str:
        """Return the receipt of a task that was taken: it is of no use any more once the next claim takes it."""
        return f"{task['_id']}.{task['lease']}"

    @staticmethod
    def held(receipts: list[str]) -> Document:
        """Return the filter for tasks that are still held under these receipts."""
        by_lease: dict[str, list[ObjectId]] = {}
        for identity, lease in (receipt.split(".") for receipt in receipts):
            by_lease.setdefault(lease, []).append(ObjectId(identity))
        return {"$or": [{"_id": {"$in": ids}, "lease": ObjectId(lease)} for lease, ids in by_lease.items()]}

    def renew(self, receipts: Iterable[str]) -> set[str]:
        if not (receipts := list(receipts)):
            return set()
        held = self.held(receipts)
        self.collection.update_many(held, [{"$set": {"lock": later(Conf.RETRY)}}])
        return set(receipts) - {self.receipt(task) for task in self.collection.find(held, ["lease"])}

    def release(self, delays: Mapping[str, float]) -> None:
        """Give tasks back, each to be taken after so many seconds; that hand-out ended in order, and is not counted."""
        changes = []
        for delay in sorted(set(delays.values())):  # the server tells the time anew for each
            free: Document = {"lock": later(delay) if delay > 0 else LONG_AGO, "again": True}
            free["deliveries"] = {"$subtract": ["$deliveries", 1]}
            held = self.held([receipt for receipt in delays if delays[receipt] == delay])
            changes.append(UpdateMany(held, [{"$set": free}, {"$unset": "lease"}]))
        if changes:
            self.collection.bulk_write(changes, ordered=False)

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        if receipts := list(receipts):
            self.collection.delete_many(self.held(receipts))

    def idle(self, timeout: float, others: list[Any]) -> None:
        """Wait for `poll` seconds, or until one of the others is ready."""
        wait(others, min(timeout, Conf.POLL))

    @staticmethod
    def receipt_of(receipt: str) -> str:
        return receipt.partition(".")[0]

    def peek(self, receipt: str) -> str | None:
        found = self.collection.find_one({"_id": ObjectId(receipt)}) if ObjectId.is_valid(receipt) else None
        return found and str(found["payload"])

    def payloads(self, most: int) -> Iterator[tuple[str, str]]:
        for task in islice(self.collection.find({}, ["payload"], sort=[("_id", ASCENDING)]), most):
            yield str(task["_id"]), task["payload"]

    def depth(self, most: int | None = None) -> Depth:
        """Return how much is in the queue, each counted up to `most`; when a task was queued is known to the second."""
        now, limit = self.now(), {} if most is None else {"limit": most}
        later = {"lock": {"$gt": now}}
        conditions = {"lock": {"$lte": now}}, later | {"lease": None}, later | {"lease": {"$ne": None}}
        waiting, late, taken = (self.collection.count_documents(condition, **limit) for condition in conditions)
        queued = self.collection.find_one({"lock": LONG_AGO}, ["_id"], sort=[("_id", ASCENDING)])
        due = {"lock": {"$gt": LONG_AGO, "$lte": now}}
        first = self.collection.find_one(due, ["lock"], sort=[("lock", ASCENDING)])
        times = [queued["_id"].generation_time] if queued else []
        times += [first["lock"].replace(tzinfo=UTC)] if first else []
        return Depth(waiting, late, taken, min((time.timestamp() for time in times), default=None))

    def remove(self, receipt: str) -> bool:
        return ObjectId.is_valid(receipt) and self.take_out({"_id": ObjectId(receipt)}) == 1

    def purge(self) -> int:
        return self.take_out({})

    def take_out(self, which: Document) -> int:
        """Take out what nobody holds: no lease, or one that has run out."""
        free = [{"lock": {"$lte": self.now()}}, {"lease": None}]
        return int(self.collection.delete_many({**which, "$or": free}).deleted_count)

    # django-q2's words

    def delete(self, task_id: str) -> None:
        """Remove a task, whoever holds it, by its receipt or by what enqueue() has returned."""
        self.collection.delete_one({"_id": ObjectId(task_id.partition(".")[0])})

    def purge_queue(self) -> None:
        """Remove all tasks, and keep the index."""
        self.collection.delete_many({})

    def delete_queue(self) -> None:
        self.collection.drop()
        self.indexed = False

    def ping(self) -> bool:
        """Ask the server for an answer; upstream's asks nobody."""
        return bool(self.connection.admin.command("ping")["ok"])
