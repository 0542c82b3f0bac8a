"""What the tests of the contract share."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from django.db import connections
from worker.delivery import Delivery

LEASE = 1  #: seconds; the least that SQS knows
PLENTY = 32 * 1024 * 1024  #: bytes
DEADLINE = 30.0  #: seconds that a condition may take to come true


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first answer that is true; fail if there is none in time."""
    end = time.monotonic() + DEADLINE
    while not (answer := condition()):
        assert time.monotonic() < end, f"{what}: not within {DEADLINE:.0f} s"
        time.sleep(0.02)
    return answer


def take(broker: Any, number: int, size: int = PLENTY) -> list[Delivery]:
    """Claim so many tasks, however long it takes."""
    taken: list[Delivery] = []

    def enough() -> bool:
        taken.extend(broker.claim(number - len(taken), size))
        return len(taken) >= number

    until(enough, f"{number} tasks")
    return taken


def texts(deliveries: Iterable[Delivery]) -> list[str]:
    """Return the payloads."""
    return [delivery.payload for delivery in deliveries]


def receipts(deliveries: Iterable[Delivery]) -> list[str]:
    """Return the receipts."""
    return [delivery.receipt for delivery in deliveries]


def sizes(broker: Any) -> list[int]:
    """Return how many tasks wait, and how many are held."""
    return [broker.queue_size(), broker.lock_size()]


def in_threads(*actions: Callable[[], Any]) -> list[Any]:
    """Do things at the same time, and return their answers."""

    def act(action: Callable[[], Any]) -> Any:
        try:
            return action()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(actions)) as threads:
        return [future.result() for future in [threads.submit(act, action) for action in actions]]


class Relay:
    """Stands between a client and a server, and cuts their connections."""

    def __init__(self, host: str, port: int) -> None:
        """Listen for clients of a server."""
        self.target = host, port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.drops = threading.Event()  #: whether the next answer is not passed on, and its connection cut instead
        self.dropped = 0
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        """Pass on what comes until told to end."""
        with DefaultSelector() as selector, suppress(OSError):
            selector.register(self.listener, EVENT_READ)
            while not self.ends.is_set():
                for key, _ in selector.select(0.1):
                    if key.fileobj is self.listener:
                        pair = self.listener.accept()[0], socket.create_connection(self.target)
                        self.pairs.append(pair)
                        selector.register(pair[0], EVENT_READ, (pair[1], False))
                        selector.register(pair[1], EVENT_READ, (pair[0], True))
                    else:
                        self.pass_on(selector, key.fileobj, *key.data)

    def pass_on(self, selector: DefaultSelector, source: Any, sink: Any, answers: bool) -> None:
        """Pass on what one side has sent, or end both."""
        with suppress(OSError):
            if (data := source.recv(1 << 20)) and not (answers and self.drops.is_set()):
                sink.sendall(data)
                return
            if data:
                self.drops.clear()
                self.dropped += 1
        for end in (source, sink):
            with suppress(KeyError, ValueError):
                selector.unregister(end)
            end.close()

    def cut(self) -> None:
        """Cut all connections."""
        for pair in self.pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Cut all connections, and take no new ones."""
        self.ends.set()
        self.cut()
        self.thread.join()
        for end in (self.listener, *(end for pair in self.pairs for end in pair)):  # no sooner: numbers are reused
            end.close()


@contextmanager
def relay(host: str, port: int) -> Iterator[Relay]:
    """Run a relay to a server."""
    running = Relay(host, port)
    try:
        yield running
    finally:
        running.end()


def many(number: int) -> int:
    """Return how many tasks a test may have: moto counts all for each one that is added, and a file has one writer."""
    slower = {"sqs": 6, "mongodb": 3, "orm": 4 if connections["default"].vendor == "sqlite" else 1}
    return number // slower.get(broker_name(), 1)


def broker_name() -> str:
    """Return which broker the project has."""
    from django.conf import settings

    names = {"redis": "redis", "sqs": "sqs", "mongo": "mongodb", "orm": "orm"}
    return next(name for setting, name in names.items() if setting in settings.Q_CLUSTER)


def server() -> tuple[str, int]:
    """Return host and port of the broker's server."""
    from urllib.parse import urlsplit

    variables = {"redis": "REDIS_URL", "sqs": "AWS_ENDPOINT_URL_SQS", "mongodb": "MONGODB_URL", "orm": "DATABASE_URL"}
    parts = urlsplit(os.environ[variables[broker_name()]])
    return parts.hostname or "", parts.port or 0
