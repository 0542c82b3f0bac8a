"""The monitor: what is saved, what is tried again, and what an absent server holds up."""

import math
import queue
import threading
import time
from contextlib import ExitStack
from typing import Any, NoReturn
from unittest.mock import DEFAULT, Mock

import pytest
from django.core.cache import cache
from django.db import OperationalError, connection
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Task as Row
from django_q.signals import post_execute
from django_q.signing import SignedPackage

from tests.memory_broker import MemoryBroker, a_task
from worker.delivery import Task
from worker.monitor import Monitor
from worker.pipes import CONTEXT, Board, Results, pack

pytestmark = pytest.mark.django_db


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Provide the monitor's broker; few tries follow, at once."""
    broker = MemoryBroker()
    monkeypatch.setattr("worker.monitor.get_broker", lambda: broker)
    # Django takes the connection of a test for unusable, since it is in the middle of a transaction, and closes it.
    monkeypatch.setattr("worker.monitor.close_old_connections", lambda: None)
    # In this module alone: clients of brokers have threads, which sleep too.
    monkeypatch.setattr("worker.monitor.time", Mock(wraps=time, sleep=Mock(side_effect=[None] * 5)))
    return broker


class Cluster:
    """A monitor, to which the test hands results as a worker does, and which tells it what it tells the pusher."""

    def __init__(self, broker: MemoryBroker) -> None:
        """Make the pipe."""
        self.broker = broker
        self.told, news = CONTEXT.Pipe(duplex=False)
        self.monitor = Monitor(Results(), Board(1), news)

    def ended(self, name: str, result: object = 1, **options: Any) -> Task:
        """Return a task that was claimed, and has run."""
        self.broker.add(name)
        self.broker.claim(self.broker.number)
        stamp = {"ack_id": str(self.broker.number), "ticket": self.broker.number, "success": True}
        return a_task(name, result=result, stopped=timezone.now(), **stamp | options)

    def settle(self, *tasks: Task) -> Any:
        """Let the monitor save results, and return what the pusher hears of it."""
        self.monitor.settle(list(tasks))
        return self.told.recv()


@pytest.fixture
def cluster(broker: MemoryBroker) -> Cluster:
    """Provide a cluster whose queue is empty."""
    return Cluster(broker)


def saved() -> dict[str, Any]:
    """Return the results of what has succeeded, by name."""
    return dict(Row.objects.filter(success=True).values_list("name", "result"))


def test_a_batch_is_saved_and_then_acknowledged(cluster: Cluster, broker: MemoryBroker) -> None:
    assert cluster.settle(cluster.ended("one", 1), cluster.ended("two", 2)) == [(1, None), (2, None)]
    assert (saved(), broker.taken, broker.waiting) == ({"one": 1, "two": 2}, {}, {})


def test_a_busy_monitor_waits_for_more_results_until_a_batch_is_full(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.monitor.BATCH", 3)
    monkeypatch.setattr("worker.monitor.BUSY", 2)
    waits = []

    class Inbox(queue.Queue[tuple[int, bytes]]):
        def get(self, block: bool = True, timeout: float | None = None) -> tuple[int, bytes]:
            waits.append(timeout is not None and timeout > 0)
            return super().get(block=False)

    def gather(came: int) -> tuple[int, bool]:
        for number in range(came):
            cluster.monitor.inbox.put((number, pack(a_task(f"{number}"))))
        waits.clear()
        return len(cluster.monitor.gather()), waits[-1]

    monkeypatch.setattr(cluster.monitor, "inbox", Inbox())
    assert gather(1) == (1, False)
    assert gather(4) == (3, False)
    assert gather(0) == (1, True)  # the one that was left: now it is busy
    assert gather(3) == (3, False)
    assert gather(3) == (3, True)


def test_a_result_that_cannot_be_saved_becomes_a_failure_and_holds_up_no_other(
    cluster: Cluster, broker: MemoryBroker
) -> None:
    lock = threading.Lock()  # stands for whatever a column or a pickle refuses
    cluster.settle(cluster.ended("one"), cluster.ended("odd", lock, args=(lock,)), cluster.ended("two"))
    assert (saved(), broker.taken) == ({"one": 1, "two": 1}, {})
    assert Row.objects.get(name="odd").result.startswith("The result cannot be saved: TypeError: cannot pickle")


def test_a_result_that_cannot_be_unpickled_is_left_to_the_pusher(cluster: Cluster) -> None:
    ((ticket, reason),) = cluster.settle(cluster.monitor.unpack(7, b"nonsense"))
    assert (ticket, reason.partition(": U")[0]) == (7, "The result cannot be unpickled")


@pytest.mark.parametrize("cached", [None, 60])
def test_a_task_that_fails_is_given_back_until_its_attempts_are_used_up(
    cached: int | None, cluster: Cluster, broker: MemoryBroker
) -> None:
    options = {"chain": [("math.floor", (2.5,))], "group": "chain", "cached": cached, "sync": False}
    task = cluster.ended("task", "no luck", success=False, **options)
    for _ in range(Conf.MAX_ATTEMPTS - 1):
        cluster.settle(task)
        assert (list(broker.waiting), broker.delayed) == (["1"], {"1": Conf.RETRY})
        assert broker.claim(1)
    cluster.settle(task)
    assert (list(broker.waiting), broker.taken) == (["2"], {})  # the next of the chain


def test_a_task_that_succeeds_at_last_has_one_row(cluster: Cluster) -> None:
    task = cluster.ended("task", "no luck", success=False)
    cluster.settle(task)
    cluster.broker.claim(1)
    cluster.settle(task | {"success": True, "result": 1})
    assert (saved(), Row.objects.get().attempt_count) == ({"task": 1}, 2)


def test_nothing_is_acknowledged_before_the_database_is_back_and_has_it(
    cluster: Cluster, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OperationalError("server closed the connection")

    def pause(_: float) -> None:
        assert broker.taken
        outage.close()

    task, outage = cluster.ended("task"), ExitStack()
    monkeypatch.setattr("worker.monitor.time.sleep", pause)
    with outage:
        outage.enter_context(connection.execute_wrapper(refuse))
        cluster.settle(task)
    assert (saved(), broker.taken) == ({"task": 1}, {})
    assert "Could not save results (OperationalError: server closed the connection)" in caplog.text


def test_receipts_are_sent_once_the_broker_is_back(cluster: Cluster, broker: MemoryBroker) -> None:
    task = cluster.ended("task")
    broker.errors = 2
    cluster.settle(task)
    assert (broker.taken, saved()) == ({}, {"task": 1})


@pytest.mark.parametrize("cached", [None, 60])
def test_the_next_of_a_chain_is_queued_once_even_if_the_broker_was_away(
    cached: int | None, cluster: Cluster, broker: MemoryBroker
) -> None:
    chain = [("math.floor", (2.5,)), ("math.floor", (3.5,))]
    task = cluster.ended("task", chain=chain, group="chain", cached=cached, sync=False)
    broker.errors = 1
    cluster.settle(task)
    (delivery,) = broker.waiting.values()
    following = SignedPackage.loads(delivery.payload)
    assert (following["args"], following["chain"]) == ((2.5,), chain[1:])


def test_a_result_is_cached_once_the_cache_is_back(cluster: Cluster, broker: MemoryBroker) -> None:
    task = cluster.ended("task", cached=60)
    broker.cache = Mock(wraps=cache, **{"set.side_effect": [OSError("full"), DEFAULT]})
    cluster.settle(task)
    assert SignedPackage.loads(cache.get("memory:task"))["result"] == 1
    assert saved() == {}


def test_hooks_and_receivers_are_called_and_may_fail(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    def fail(**_: object) -> NoReturn:
        raise ZeroDivisionError

    post_execute.connect(fail)
    cluster.settle(cluster.ended("task", hook="tests.remember.result"), cluster.ended("other", hook="no.such.hook"))
    post_execute.disconnect(fail)
    assert cache.get("hook-task") == 1
    assert "malformed return hook 'no.such.hook'" in caplog.text
    assert caplog.text.count("in Signal.send_robust()") == 2


def test_a_success_that_is_not_wanted_is_not_saved(cluster: Cluster, broker: MemoryBroker) -> None:
    cluster.settle(cluster.ended("task", save=False))
    assert (saved(), broker.taken) == ({}, {})


@pytest.mark.parametrize(
    ("limit", "per", "kept"),
    [
        (0, None, ["1", "2", "3", "4", "failure"]),
        (1, None, ["4", "failure"]),
        (1, "group", ["2", "4", "failure"]),
        (1, "func", ["3", "4", "failure"]),
    ],
)
def test_the_oldest_successes_above_the_limit_are_deleted(
    limit: int, per: str | None, kept: list[str], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conf, "SAVE_LIMIT", limit)
    monkeypatch.setattr(Conf, "SAVE_LIMIT_PER", per)
    monkeypatch.setattr("worker.monitor.PRUNE_EVERY", 0.01)
    cluster.settle(
        cluster.ended("failure", success=False),
        cluster.ended("1", group="a"),
        cluster.ended("2", group="a", func=math.ceil),
        cluster.ended("3", group="b", func=math.ceil),
        cluster.ended("4", group="b"),
    )
    assert cluster.monitor.turn()  # in which nothing comes
    assert sorted(Row.objects.values_list("name", flat=True)) == kept


def test_the_newest_results_are_found_by_an_index() -> None:
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, "django_q_task")
    assert constraints["worker_newest_results"]["columns"] == ["stopped"]
