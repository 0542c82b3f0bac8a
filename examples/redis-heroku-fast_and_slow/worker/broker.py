"""The broker: tasks wait in a stream of Redis, 6.2 or newer, or Valkey.

A stream remembers who has taken an entry and when (https://redis.io/docs/latest/develop/data-types/streams/), which
is what a lease is made of; of a list, as django-q2 1.11.1 uses one, a task that was taken is gone.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, cached_property
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from django.core.exceptions import ImproperlyConfigured
from django_q.brokers.redis_broker import Redis
from django_q.conf import Conf
from redis import ConnectionError as ConnectionLost
from redis import ReadOnlyError, RedisError, ResponseError
from redis import Redis as Client
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.delivery import Delivery

GROUP = "workers"  #: the clusters, to the server
RETURNED = "returned"  #: whom tasks belong to that were given back
NO_GROUP = ("NOGROUP", "UNBLOCKED", "no such key")  #: how the server says so, also to who waits while it goes
LOOK_EVERY = 2.0  #: seconds between two looks for leases that have run out
TIDY_EVERY = 60.0  #: seconds between two looks for what others have left behind
DRAIN = 10_000  #: tasks moved from django-q2's list at a time, in about 50 ms

# Atomic: a lease that another cluster has got is not taken back. JUSTID: it does not count as another delivery.
RENEW = """
local lost = {}
for i = 3, #ARGV do
    local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
    if #mine == 0 or #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID') == 0 then
        lost[#lost + 1] = ARGV[i]
    end
end
return lost
"""
# The delivery is uncounted: its cluster has not died of it, and failed attempts are counted elsewhere.
RELEASE = """
for i = 4, #ARGV do
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
    if pending then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i],
                   'IDLE', ARGV[3], 'RETRYCOUNT', math.max(pending[4] - 1, 0), 'JUSTID')
    end
end
"""
# XGROUP DELCONSUMER would drop a consumer's tasks with it, so nothing may come between the look and the deletion.
TIDY = """
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local field = {}
    for i = 1, #consumer, 2 do field[consumer[i]] = consumer[i + 1] end
    if field.pending == 0 and field.idle > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], field.name)
    end
end
local payloads = redis.call('LRANGE', KEYS[2], 0, ARGV[3] - 1)
for _, payload in ipairs(payloads) do redis.call('XADD', KEYS[1], '*', 'payload', payload) end
redis.call('LTRIM', KEYS[2], #payloads, -1)
return #payloads
"""

logger = logging.getLogger("django-q")


def connection_options(url: str) -> dict[str, object]:
    """Return what the URL leaves open.

    Heroku's certificates are signed by itself, and say so nowhere (https://devcenter.heroku.com/articles/connecting-heroku-redis):
    where its variable DYNO is set, they are not verified, unless the URL asks for it. Everywhere else they are.
    """
    parts = urlsplit(url)
    options: dict[str, object] = {
        "socket_connect_timeout": 5,  # seconds
        "socket_timeout": 5,  # seconds; above the one for which an empty queue is asked
        "health_check_interval": 30,  # seconds; routers drop connections that were long idle
        # Connect anew, once, if the connection was cut, or leads to a former primary. After a timeout the server may
        # still do what it was asked: a task would be queued twice.
        "retry": Retry(NoBackoff(), 1, (ConnectionLost, ReadOnlyError)),
    }
    if parts.scheme == "rediss" and "DYNO" in os.environ and "ssl_cert_reqs" not in parse_qs(parts.query):
        options["ssl_cert_reqs"] = "none"
    return options


def usable(url: str) -> str:
    """Return the URL without what redis-py does not know (DigitalOcean adds `ssl`), or what changes its answers.

    Raises:
        ImproperlyConfigured: If it is not that of a single server.
    """
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ImproperlyConfigured(
            "REDIS_URL must begin with redis://, rediss:// or unix://: the queue is on one server, "
            "neither behind Sentinel nor in a cluster."
        )
    base, _, query = url.partition("?")
    dropped = {"ssl", "protocol", "decode_responses", "legacy_responses"}
    return f"{base}?{'&'.join(pair for pair in query.split('&') if pair.partition('=')[0] not in dropped)}"


@cache
def client(url: str) -> Client:
    """Connect; a process keeps its connections, and those of a fork are its own."""
    return Client.from_url(usable(url), **connection_options(url))


class Broker(Redis):  # type: ignore[misc]
    """django-q2's, with leases, and keys that hold the project's name: two projects may share a server.

    Errors are redis-py's RedisError, and mean that the server may or may not have done what it was asked.
    """

    ordered = True
    forgets_returned = True
    looked = tidied = float("-inf")  #: when, by the monotonic clock

    def __init__(self, list_key: str | None = None) -> None:
        """Serve the queue of this cluster."""
        name = list_key or Conf.CLUSTER_NAME
        super().__init__(name)
        self.list_key = ":".join(["django_q", *dict.fromkeys([Conf.PREFIX, name]), "stream"])

    @staticmethod
    def get_connection(list_key: str | None = None) -> Client:
        """Connect to the server of the setting `redis`."""
        return client(Conf.REDIS)

    @cached_property
    def consumer(self) -> str:
        """Whom claimed tasks belong to: this process alone."""
        return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"

    @property
    def lease(self) -> int:
        """Milliseconds after which a task is lost to the next claim."""
        return int(Conf.RETRY * 1000)

    def in_group(self, action: Callable[[], Any]) -> Any:
        """Do something that needs the group: a new queue has none, nor does one that was emptied or failed over."""
        try:
            return action()
        except ResponseError as error:
            if not any(word in str(error) for word in NO_GROUP):
                raise
        try:
            self.connection.xgroup_create(self.list_key, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another process was faster
                raise
        return action()

    def run(self, script: str, *args: str | int, keys: Iterable[str] = ()) -> Any:
        """Run a script on the stream, and further keys; the group is its first argument."""
        run = self.connection.register_script(script)
        return self.in_group(lambda: run([self.list_key, *keys], [GROUP, *args]))

    def enqueue(self, task: str) -> str:
        """Add a task."""
        receipt: bytes = self.connection.xadd(self.list_key, {"payload": task})
        return receipt.decode()

    def enqueue_all(self, payloads: list[str]) -> None:
        """Add tasks, all or none."""
        pipeline = self.connection.pipeline(transaction=True)
        for payload in payloads:
            pipeline.xadd(self.list_key, {"payload": payload})
        pipeline.execute()

    def claim(self, limit: int) -> list[Delivery]:
        """Take tasks whose lease has run out, or else new ones, for which it waits a second."""
        now = time.monotonic()
        if now - self.tidied > TIDY_EVERY:
            if self.tidied < 0:
                self.warn()
            if self.tidy() < DRAIN:
                self.tidied = now
        if now - self.looked > LOOK_EVERY:
            if deliveries := self.reclaim(limit):
                return deliveries
            self.looked = now
        streams = {self.list_key: ">"}
        read = self.in_group(lambda: self.connection.xreadgroup(GROUP, self.consumer, streams, count=limit, block=1000))
        return [self.delivery(entry) for _, entries in read for entry in entries]

    def reclaim(self, limit: int) -> list[Delivery]:
        """Take tasks whose lease has run out, the oldest first."""
        pending = self.in_group(
            lambda: self.connection.xpending_range(self.list_key, GROUP, "-", "+", limit, idle=self.lease)
        )
        if not pending:
            return []
        counts = {entry["message_id"]: entry["times_delivered"] + 1 for entry in pending}
        # Those are left out that another cluster has taken meanwhile, and those that are in no stream any more.
        entries = self.connection.xclaim(self.list_key, GROUP, self.consumer, self.lease, list(counts))
        return [self.delivery(entry, counts[entry[0]]) for entry in entries if entry[0]]

    def delivery(self, entry: tuple[bytes, dict[bytes, bytes]], count: int = 1) -> Delivery:
        """Return a task; what is not text in it will not be readable."""
        return Delivery(entry[0].decode(), entry[1].get(b"payload", b"").decode(errors="replace"), count)

    def idle(self, timeout: float, others: list[Any]) -> None:
        """Return: claim() has waited, and hears of a task at once."""

    def renew(self, receipts: Iterable[str]) -> set[str]:
        """Renew leases, and return the receipts of those that are not this process's any more."""
        receipts = list(receipts)
        return {receipt.decode() for receipt in self.run(RENEW, self.consumer, *receipts)} if receipts else set()

    def release(self, receipts: Iterable[str], delay: float = 0.0) -> None:
        """Give tasks back, to be taken after so many seconds."""
        if receipts := list(receipts):
            self.run(RELEASE, RETURNED, max(0, self.lease - int(delay * 1000)), *receipts)

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        """Remove tasks that are done.

        In no transaction: a server whose memory is full refuses any, and so would stay full. What is deleted and still
        pending, since the connection broke between the two, is forgotten by reclaim().
        """
        if receipts := list(receipts):
            pipeline = self.connection.pipeline(transaction=False)
            pipeline.xdel(self.list_key, *receipts).xack(self.list_key, GROUP, *receipts).execute()

    def tidy(self) -> int:
        """Forget clusters that are gone, and return how many tasks came from the list of a plain django-q2.

        A project that has moved from it, or is just being deployed, has tasks there.
        """
        stock = f"django_q:{self.list_key.split(':')[-2]}:q"
        moved: int = self.run(TIDY, self.lease, DRAIN, keys=[stock])
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

    # django-q2's words

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Show a cluster's state for so many seconds; while the server is away, the pusher's log says so."""
        with suppress(RedisError):
            super().set_stat(key, value, timeout)

    def dequeue(self) -> list[tuple[str, str | bytes]]:
        """Take tasks, as receipts and payloads."""
        return [(delivery.receipt, delivery.payload) for delivery in self.claim(Conf.BULK)]

    def acknowledge(self, task_id: str) -> None:
        """Remove a task that is done."""
        self.acknowledge_all([task_id])

    delete = fail = acknowledge

    def lock_size(self) -> int:
        """Return how many tasks clusters hold."""
        pending = self.in_group(lambda: self.connection.xpending(self.list_key, GROUP))
        return sum(entry["pending"] for entry in pending["consumers"] if entry["name"] != RETURNED.encode())

    def queue_size(self) -> int:
        """Return how many tasks wait, those included that were given back."""
        return max(0, int(self.connection.xlen(self.list_key)) - self.lock_size())

    def delete_queue(self) -> int:
        """Remove the queue, with the tasks that clusters hold."""
        return int(self.connection.delete(self.list_key))

    purge_queue = delete_queue
