"""Queue many tasks at once: django-q2 1.11.1 asks the broker for each one, and logs each."""

import logging
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from django_q.brokers import get_broker
from django_q.tasks import async_task

from worker.delivery import Leasing

collecting = ContextVar("collecting", default=False)  #: whether async_task() is asked for many tasks, one by one
logger = logging.getLogger("django-q")
logger.addFilter(lambda record: not collecting.get())


class Collector:
    """Takes the broker's place in async_task(), and keeps what would be queued."""

    def __init__(self, list_key: str) -> None:
        """Begin empty."""
        self.list_key = list_key
        self.payloads: list[str] = []

    def enqueue(self, payload: str) -> int:
        """Keep a task, and return how many there are."""
        self.payloads.append(payload)
        return len(self.payloads)


def enqueue_many(func: str | Callable[..., Any], calls: Iterable[tuple[Any, ...]], **options: Any) -> list[str]:
    """Queue a task for each tuple of arguments, in this order, and return their ids.

    Options, keyword arguments of the tasks and signals are those of async_task(), and the same for all.

    The tasks come all or none where the server can do that. Where they wait in the database, they are part of the
    transaction under way. Other servers take them at once, or in some requests, and then keep those before the one that
    they refuse; there a worker may begin before the transaction is committed:
    `transaction.on_commit(partial(enqueue_many, func, calls))`.

    Raises:
        Exception: What the broker's client raises; see the broker.
    """
    broker: Leasing = options.pop("broker", None) or get_broker(options.get("cluster"))
    collector = Collector(broker.list_key)
    token = collecting.set(True)
    try:
        ids = [async_task(func, *arguments, broker=collector, **options) for arguments in calls]
    finally:
        collecting.reset(token)
    if collector.payloads:  # with the option `sync`, they have been run
        broker.enqueue_all(collector.payloads)
        logger.info("Enqueued [%s] %s tasks", broker.list_key, len(collector.payloads))
    return ids
