"""The broker: tasks wait in a stream of Redis, 6.2 or newer, or Valkey.

A stream remembers who has taken an entry and when (https://redis.io/docs/latest/develop/data-types/streams/), which
is what a lease is made of; of a list, as django-q2 1.11.1 uses one, a task that was taken is gone.
"""

import logging
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from redis import ConnectionError as ConnectionLost
from redis import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis import TimeoutError as NoAnswer

from worker.broker import scripts
from worker.broker.contents import RETURNED, Contents
from worker.delivery import Adapter, Delivery, brief

LOOK_EVERY = 3.0  #: seconds between two looks for leases that have run out
TIDY_EVERY = 60.0  #: seconds between two looks for what others have left behind
AT_ONCE = 100_000  #: tasks queued by one request: a second of the server's
#: by which a server says that its memory or disk is full, that it is a replica, or lacks those that it needs
TAKES_NOTHING = ("OOM ", "MISCONF ", "READONLY ", "NOREPLICAS ")
DRAIN = 10_000  #: tasks moved from django-q2's list at a time, in about 50 ms

logger = logging.getLogger("django-q")


def milliseconds(delay: float) -> int:
    """Return seconds as the scripts take them, whose clock has no smaller parts: a delay is no shorter for it."""
    return math.ceil(delay * 1000) + 1 if delay > 0 else 0


class Broker(Adapter, Contents):
    """django-q2's, with leases, and keys that hold the project's name: two projects may share a server."""

    can_peek = forgets_returned = True
    away: tuple[type[Exception], ...] = (ConnectionLost, NoAnswer)
    errors: tuple[type[Exception], ...] = (RedisError,)
    transactional = False
    publishes = True  #: what its client announces is heard by all that listen
    looked = tidied = float("-inf")  #: when, by the monotonic clock
    due = float("-inf")  #: when to ask for tasks again, unless there is news; by the monotonic clock
    seen: Sequence[bytes] = ()  #: the last entries of the stream and of `wake` that were there when it asked

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(list_key)
        self.name = f"{socket.gethostname()}-{uuid4().hex[:8]}"

    @staticmethod
    def will_pass(error: BaseException) -> bool:
        """Look at the text, too: redis-py 8.1 has no class for most of these, and scripts of Redis 6.2 wrap them."""
        if isinstance(error, OutOfMemoryError | ReadOnlyError):
            return True
        return isinstance(error, ResponseError) and any(code in str(error) for code in TAKES_NOTHING)

    @property
    def consumer(self) -> str:
        """Whom claimed tasks belong to: this process alone, and none that was forked from it."""
        return f"{self.name}-{os.getpid()}"

    def once(self, *command: str | int) -> Any:
        """Send a command that may not be carried out twice: redis-py repeats those whose answer did not come."""
        pool = self.connection.connection_pool
        connection = pool.get_connection()  # connected anew if the server has closed it
        try:
            connection.check_health()
            connection.send_command(*command, check_health=False)
            return connection.read_response()
        except ReadOnlyError:  # a former primary has refused it
            connection.disconnect()
            connection.send_command(*command)
            return connection.read_response()
        finally:
            pool.release(connection)

    def enqueue(self, task: str, after: datetime | None = None) -> str:
        if after:
            return self.enqueue_later([task], after)
        receipt: bytes = self.once("XADD", self.list_key, "*", "payload", task)
        return receipt.decode()

    def enqueue_all(self, payloads: list[str], after: datetime | None = None) -> None:
        """Add tasks, all or none of each hundred thousand: more would keep the server longer than is waited for it."""
        for begin in range(0, len(payloads), AT_ONCE):
            part = payloads[begin : begin + AT_ONCE]
            if after:
                self.enqueue_later(part, after)
            else:
                self.once("EVAL", scripts.ENQUEUE_ALL, 1, self.list_key, *part)

    def enqueue_later(self, payloads: list[str], after: datetime) -> str:
        """Add tasks that are to be taken when the server's clock shows this time; return the receipt of the last."""
        moment = math.ceil(after.timestamp() * 1000)
        receipt: bytes = self.once("EVAL", scripts.ENQUEUE_LATER, len(self.keys), *self.keys, moment, *payloads)
        return receipt.decode()

    def claim(self, limit: int, size: int) -> list[Delivery]:
        """Take tasks whose lease has run out, or those that are due, or new ones; if there were none, wait a second."""
        now = time.monotonic()
        if now - self.tidied > TIDY_EVERY:
            if self.tidied < 0:
                self.warn()
            self.tidied, self.due = now, now
            if self.tidy() == DRAIN:
                self.tidied -= TIDY_EVERY
        if now - self.looked > LOOK_EVERY:
            if lapsed := self.run(scripts.RECLAIM, self.consumer, limit, size, RETURNED, self.lease):
                return self.deliveries(lapsed)
            self.looked = now
        if self.due > now and not self.hears():
            return []
        taken = self.run(scripts.CLAIM, self.consumer, limit, size, RETURNED)
        if len(taken) % 4 == 0:
            self.due = now
            return self.deliveries(taken)
        *self.seen, wait = taken
        self.due = time.monotonic() + wait / 1000 if wait >= 0 else math.inf
        return []

    def hears(self) -> bool:
        """Wait until a task was queued or given back, or is due; return whether there is one within a second."""
        block = max(1, math.ceil(min(1.0, self.due - time.monotonic()) * 1000))
        streams = dict(zip((self.keys[0], self.keys[3]), self.seen, strict=True))
        return bool(self.connection.xread(streams, count=1, block=block)) or time.monotonic() >= self.due

    @staticmethod
    def deliveries(found: list[Any]) -> list[Delivery]:
        """Return tasks that a script has taken; what is not text in one will not be readable."""
        tasks = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
        return [
            Delivery(receipt.decode(), payload.decode(errors="replace"), count, mark == b"again", due=mark != b"new")
            for receipt, payload, count, mark in tasks
        ]

    def idle(self, timeout: float, others: list[Any]) -> None:
        """Return: claim() has waited, and hears of a task at once."""

    def renew(self, receipts: Iterable[str]) -> set[str]:
        receipts = list(receipts)
        lost = self.run(scripts.RENEW, self.consumer, *receipts) if receipts else []
        return {receipt.decode() for receipt in lost}

    def release(self, delays: Mapping[str, float]) -> None:
        if delays:
            late = [part for receipt, delay in delays.items() for part in (receipt, milliseconds(delay))]
            self.run(scripts.RELEASE, self.consumer, RETURNED, *late)

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        if receipts := list(receipts):
            self.run(scripts.REMOVE, self.consumer, *receipts)

    def tidy(self) -> int:
        """Forget clusters that are gone, and return how many tasks came from the list of a plain django-q2.

        A project that has moved from it, or is just being deployed, has tasks there.
        """
        stock = f"django_q:{self.cluster}:q"
        try:
            moved: int = self.run(scripts.TIDY, self.lease, DRAIN, RETURNED, keys=[stock])
        except ResponseError as error:  # of a key that is no list, or may not be read: that must not keep tasks waiting
            logger.warning("%s cannot be tidied, nor %s be moved to it: %s", self.list_key, stock, brief(error))
            return 0
        if moved:
            logger.info("Moved %s tasks from %s to %s", moved, stock, self.list_key)
        return moved

    def warn(self) -> None:
        """Log that the server may drop tasks; one that does not say so is trusted."""
        try:
            policy = self.connection.info("memory").get("maxmemory_policy", "")
        except ResponseError:
            return
        if policy.startswith("allkeys"):  # a volatile policy spares what does not expire
            logger.warning("Redis drops tasks when its memory is full: its maxmemory-policy is %s", policy)
