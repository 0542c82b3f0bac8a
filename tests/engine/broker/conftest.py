"""What the tests of the contract share: brokers on the server that the environment names."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections
from django_q.brokers import get_broker
from django_q.conf import Conf
from pytest_django import DjangoDbBlocker

from .contract import LEASE, Relay, broker_name, relay, server

Brokers = Callable[..., list[Any]]


@pytest.fixture(scope="session", autouse=True)
def database(environment: dict[str, str], django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Use the database of the environment itself, which is set up: threads and processes share it."""
    import_module("worker.broker")  # before tests change what it reads
    with django_db_blocker.unblock():
        yield


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases be short, and looks frequent."""
    monkeypatch.setattr(Conf, "RETRY", LEASE)
    monkeypatch.setattr(Conf, "POLL", 0.2)
    monkeypatch.setattr("worker.broker.broker.LOOK_EVERY", 0.2, raising=False)


@pytest.fixture
def brokers() -> Iterator[Brokers]:
    """Make brokers of the same queue, which is this test's own."""
    name = f"test-{uuid4().hex[:12]}"
    made: list[Any] = []

    def make(number: int = 1) -> list[Any]:
        made.extend(get_broker(name) for _ in range(number))
        return made[-number:]

    yield make
    with suppress(Exception):  # SQS may have it no more
        get_broker(name).delete_queue()
    connections.close_all()


@pytest.fixture
def detour(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """Lead this process's brokers to the server by way of a relay, until the queue is removed."""
    name = broker_name()
    if name == "orm" and connections[Conf.ORM].vendor != "postgresql":
        pytest.skip("a file is never away")
    with relay(*server()) as running:
        here = f"127.0.0.1:{running.port}"
        if name == "redis":
            monkeypatch.setattr(Conf, "REDIS", f"redis://{here}/0")
        elif name == "sqs":
            monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://{here}")
        elif name == "mongodb":
            options = {"timeoutMS": 2000, "serverSelectionTimeoutMS": 500}
            monkeypatch.setattr(Conf, "MONGO", {"host": f"mongodb://{here}", **options})
        else:
            monkeypatch.setitem(connections[Conf.ORM].settings_dict, "HOST", "127.0.0.1")
            monkeypatch.setitem(connections[Conf.ORM].settings_dict, "PORT", running.port)
        forget()
        yield running
    monkeypatch.undo()
    forget()


def forget() -> None:
    """Let this process connect anew."""
    from worker.broker import broker

    connections.close_all()
    if broker_name() == "mongodb" and broker.client.cache_info().currsize:
        broker.client(os.getpid()).close()
    for name in ("client", "clients", "service", "queue_url"):
        if hasattr(broker, name):
            getattr(broker, name).cache_clear()
