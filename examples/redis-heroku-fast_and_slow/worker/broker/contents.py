"""What is in the queue: the keys of one cluster, and the client for them."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from heapq import merge
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django_q.brokers.redis_broker import Redis
from django_q.conf import Conf
from redis import Redis as Client
from redis import RedisError, ResponseError

from worker.broker import content_scripts, scripts
from worker.broker.client import client
from worker.delivery import Depth

GROUP = "workers"  #: the clusters, to the server
RETURNED = "returned"  #: whom tasks belong to that were given back, at once or with a delay
NO_GROUP = ("NOGROUP", "UNBLOCKED", "no such key")  #: how the server says so, also to who waits while it goes
RECEIPT = re.compile(r"\d{1,15}-\d{1,15}\+?")
AT_ONCE_SIZE = 1_000_000  #: bytes that payloads() reads at a time, or some more

logger = logging.getLogger("django-q")


def moment(task: tuple[str, str]) -> int:
    """Return when a task was queued, in milliseconds; what follows in its id counts within one stream."""
    return int(task[0].partition("-")[0])


class Contents(Redis):  # type: ignore[misc]
    """The queue, for those who look at it and take something out.

    Errors are redis-py's RedisError, and mean that the server may or may not have done what it was asked.
    """

    had_group = False  #: whether the queue was there before: if it is not any more, what waited is lost

    def __init__(self, list_key: str | None = None) -> None:
        name = self.cluster = list_key or Conf.CLUSTER_NAME
        super().__init__(name)
        self.list_key = ":".join(["django_q", *dict.fromkeys([Conf.PREFIX, name]), "stream"])
        self.keys = [self.list_key, *(f"{self.list_key}:{kind}" for kind in ("later", "due", "wake"))]

    @staticmethod
    def get_connection(list_key: str | None = None) -> Client:
        """Return the client for the server of the setting `redis`, which is not asked yet."""
        if not isinstance(Conf.REDIS, str) or Conf.DJANGO_REDIS:
            raise ImproperlyConfigured(
                "Q_CLUSTER['redis'] must be a URL, as in redis://user:password@host:6379/0; 'django_redis' is not read."
            )
        return client(Conf.REDIS)

    check_settings = get_connection

    def ping(self) -> bool:
        """Ask the server; whoever asks tells of an error, where django-q2 logs a line of its own."""
        return bool(self.connection.ping())

    def lists(self) -> Iterator[str]:
        """Yield the lists of plain django-q2 on this server, as far as a second suffices to look for them."""
        cursor, end = 0, time.monotonic() + 1
        with suppress(RedisError):  # it is away, or does not allow to look
            while True:
                cursor, keys = self.connection.scan(cursor, match="django_q:*:q", count=10_000, _type="list")
                yield from (key.decode(errors="replace") for key in keys)
                if not cursor or time.monotonic() > end:
                    return

    @property
    def lease(self) -> int:
        """Milliseconds after which a task is lost to the next claim."""
        return int(Conf.RETRY * 1000)

    def in_group(self, action: Callable[[], Any]) -> Any:
        """Do something that needs the group: a new queue has none, nor does one that was emptied or failed over."""
        try:
            done = action()
            self.had_group = True
            return done
        except ResponseError as error:
            if not any(word in str(error) for word in NO_GROUP):
                if "READONLY" in str(error):  # which redis-py does not see in what a script of Redis 6 answers
                    self.connection.connection_pool.disconnect(inuse_connections=False)
                raise
        for stream, needed in zip(self.keys, (True, False), strict=False):
            try:
                self.connection.xgroup_create(stream, GROUP, id="0", mkstream=needed)
                if needed and self.had_group:
                    logger.error("%s is gone, and all that waited in it: Redis has lost its data, say", stream)
            except ResponseError as error:
                if needed and "BUSYGROUP" not in str(error):  # another process was faster
                    raise
        return action()

    def run(self, script: str, *args: str | int, keys: Iterable[str] = ()) -> Any:
        """Run a script on the queue, and further keys; the group is its first argument."""
        run = self.connection.register_script(scripts.WORDS + script)
        return self.in_group(lambda: run([*self.keys, *keys], [GROUP, *args]))

    @staticmethod
    def receipt_of(receipt: str) -> str:
        return receipt

    def peek(self, receipt: str) -> str | None:
        if not RECEIPT.fullmatch(receipt):
            return None
        stream, identity = self.place(receipt)
        found = self.connection.xrange(stream, identity, identity)
        return found[0][1][b"payload"].decode(errors="replace") if found else None

    def payloads(self, most: int) -> Iterator[tuple[str, str]]:
        streams = [self.entries(mark, most) for mark in ("", "+")]
        for _, (receipt, payload) in zip(range(most), merge(*streams, key=moment), strict=False):
            yield receipt, payload

    def entries(self, mark: str, most: int) -> Iterator[tuple[str, str]]:
        """Yield tasks of one of the streams."""
        begin = "-"
        while found := self.run(content_scripts.PAYLOADS, mark, begin, most, AT_ONCE_SIZE):
            for receipt, payload in zip(found[::2], found[1::2], strict=True):
                yield receipt.decode() + mark, payload.decode(errors="replace")
            begin = f"({found[-2].decode()}"

    def depth(self, most: int | None = None) -> Depth:
        """Return how much is in the queue: the server counts as it goes, and need not end at `most`."""
        waiting, due, taken, oldest = self.run(content_scripts.HELD + content_scripts.DEPTH, RETURNED, self.lease)
        return Depth(max(0, waiting), due, taken, oldest / 1000 if waiting > 0 and oldest >= 0 else None)

    def remove(self, receipt: str) -> bool:
        return bool(RECEIPT.fullmatch(receipt) and self.run(content_scripts.TAKE_OUT, RETURNED, self.lease, receipt))

    def purge(self) -> int:
        """Take out all that nobody holds, and was there when it began; other requests come in between."""
        removed = 0
        for mark in ("", "+"):
            begin, end = "-", "+"
            while begin:
                number, begin, end = self.run(
                    content_scripts.HELD + content_scripts.PURGE, RETURNED, self.lease, mark, begin, end
                )
                removed += number
        return removed

    # django-q2's words

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Show a cluster's state for so many seconds; while the server is away, the log of the agent says so."""
        with suppress(RedisError):
            super().set_stat(key, value, timeout)

    def delete(self, task_id: str) -> None:
        stream, identity = self.place(task_id)
        self.connection.xdel(stream, identity)
        self.in_group(lambda: self.connection.xack(stream, GROUP, identity))
        self.connection.zrem(self.keys[2], task_id)

    def place(self, receipt: str) -> tuple[str, str]:
        """Return the stream of a task, and its id there."""
        return self.keys[receipt.endswith("+")], receipt.rstrip("+")

    def delete_queue(self) -> int:
        return int(self.connection.delete(*self.keys))

    purge_queue = delete_queue
