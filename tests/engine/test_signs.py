"""Signs of life: what all see of a cluster, how soon a dead one is found, and what that costs while nobody looks."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from clusters import alike_elsewhere, clusters, own, own_queue
from django.db import OperationalError, connection
from django.utils import timezone
from django_q.tasks import async_task
from project import wait_for
from pytest_django import DjangoAssertNumQueries
from worker import announcements, heartbeat
from worker.announcements import ORDERS, SIGNS
from worker.cluster import schedules as module
from worker.cluster.agent import Agent
from worker.cluster.channels import pair
from worker.cluster.listener import Listener
from worker.cluster.schedules import Schedules
from worker.cluster.scoreboard import Scoreboard, WorkerState
from worker.models import Cluster
from worker.queue import signs
from worker.retention import prune

SOON = 20.0  #: seconds: by what it has written last, a dead cluster would be found after 90 of them


@pytest.fixture
def queue(transactional_db: None) -> Iterator[None]:
    """Provide a queue of the tests' own."""
    with own_queue():
        yield


@alike_elsewhere
@pytest.mark.usefixtures("queue")
def test_whatever_of_a_cluster_dies_or_is_frozen_is_soon_known_to_be_dead(tmp_path: Path) -> None:
    with clusters(tmp_path, 5, Q_WORKERS="1") as found:
        agents = {beat.main: beat.agent for beat in heartbeat.beats("own")}
        victims = [found[0].pid, agents[found[1].pid], found[2].pid, agents[found[3].pid]]
        try:
            begun = time.monotonic()
            for pid, number in zip(victims, [signal.SIGKILL] * 2 + [signal.SIGSTOP] * 2, strict=True):
                os.kill(pid, number)
            alive: list[int] = []
            while len(alive) != 1 and time.monotonic() - begun < SOON:
                alive = [sign.pid for sign in own() if sign.alive]
            assert alive == [found[4].pid]
            assert [sign.running for sign in own() if not sign.alive] == [[]] * 4
            begun = time.monotonic()
            signs.look(60)
            assert time.monotonic() - begun < 30  # who is known to be dead is not waited for again
        finally:
            for pid in victims[2:]:
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: sum(sign.alive for sign in own()) == 3, "those that were frozen")
        assert {sign.host for sign in own()} == {os.uname().nodename}
    assert not [sign for sign in own() if sign.alive]
    assert len(own()) == 2  # who stops as it should leaves nothing


@alike_elsewhere
@pytest.mark.usefixtures("queue")
def test_a_cluster_tells_what_it_runs_and_what_it_has_fetched(tmp_path: Path) -> None:
    with clusters(tmp_path, Q_WORKERS="1") as (sign,):
        before = time.time()
        identity = async_task("jobs.nap", 4, cluster="own", task_name="the first")
        for _ in range(3):
            async_task("jobs.nap", 0, cluster="own")
        wait_for(lambda: own()[0].running, "a sign of it")
        (seen,) = own()
        (run,) = seen.running
        assert (run.id, run.name, run.func, run.attempt) == (identity, "the first", "jobs.nap", 1)
        assert abs(run.since.timestamp() - before) < 3
        assert (seen.pid, seen.workers, seen.ahead, seen.lag, seen.late) == (sign.pid, 1, 3, 0.0, {})
        assert seen.oldest is not None
        assert abs(seen.oldest - before) < 3
        assert replace(signs.running(identity), seconds=run.seconds) == run
        wait_for(lambda: not own()[0].running and not own()[0].ahead, "end")


class Quiet(Schedules):  # type: ignore[misc]
    """An agent's thread, which ends after a while."""

    def __init__(self) -> None:
        """Speak for an agent without tasks."""
        control, theirs = pair()
        agent = Agent(Mock(publishes=False), control, Scoreboard(2))
        super().__init__(agent)
        agent.schedules, agent.orders = self, self.orders
        self.ends = [control, theirs, agent.wake_up, agent.woken]


@pytest.fixture
def thread(db: None) -> Iterator[Quiet]:
    """Provide one whose listener hears, and whose tick takes no time."""
    made = Quiet()
    made.listener.hears = True
    yield made
    for end in made.ends:
        end.close()


def test_nothing_is_asked_while_nothing_happens_and_two_queries_each_q_quiet(
    thread: Quiet, django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listener, "wait", lambda *_: set())
    thread.look({ORDERS, SIGNS})
    with django_assert_num_queries(0):
        thread.rest(0.3)
    with django_assert_num_queries(2):
        thread.look({ORDERS, SIGNS})  # one each


def test_a_row_is_written_when_what_is_shown_changes_and_not_again(
    thread: Quiet, django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker: WorkerState = thread.agent.scoreboard.workers[0]
    thread.look({ORDERS, SIGNS})
    clock = [time.monotonic()]
    monkeypatch.setattr("worker.cluster.registration.time", Mock(monotonic=lambda: clock[0], time=time.time))
    worker.start("a" * 32, "jobs.nap", 2)
    for later, queries, shown in ((0.1, 0, []), (1, 1, ["a" * 32]), (9, 0, ["a" * 32])):
        clock[0] += later
        with django_assert_num_queries(queries):
            thread.look(set())
        (row,) = Cluster.objects.all()
        assert [run["id"] for run in row.state["running"]] == shown
    worker.start("a" * 32, "jobs.nap", 3)  # the next attempt, before anybody has looked
    clock[0] += 1
    with django_assert_num_queries(1):
        thread.look(set())
    assert Cluster.objects.get().state["running"][0]["attempt"] == 3
    worker.reset()  # as the supervisor does once a worker has died
    thread.look(set())
    assert Cluster.objects.get().state["running"] == []
    thread.agent.hand_out.slots[0] = Mock(pid=1, out=[])  # it has begun
    thread.look(set())
    assert Cluster.objects.get().state["workers"] == 1
    with django_assert_num_queries(0):
        thread.look(set())
    thread.registration.withdraw()
    thread.registration.write()
    assert not Cluster.objects.exists()


def test_a_cluster_whose_supervisor_is_frozen_says_so(thread: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    thread.look({SIGNS})
    assert Cluster.objects.get().lost is None
    monkeypatch.setattr("worker.cluster.scoreboard.SUPERVISED", -1.0)
    thread.look({SIGNS})
    assert Cluster.objects.get().lost is not None


def test_a_thread_that_waits_for_a_lock_is_no_dead_cluster(
    thread: Quiet, django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cluster.schedules.connections", Mock())  # this test's, which another thread has not
    thread.look({SIGNS})
    long_ago = timezone.now() - timedelta(minutes=1)
    Cluster.objects.update(seen=long_ago, lost=long_ago)
    thread.rest(0.001)
    with django_assert_num_queries(0):
        thread.answer_if_stuck()
    thread.ticked -= 2
    thread.answer_if_stuck()
    row = Cluster.objects.get()
    assert row.lost is None
    assert row.seen > long_ago
    monkeypatch.setattr(thread.registration, "write", Mock(side_effect=OperationalError))
    thread.answer_if_stuck()


@pytest.mark.django_db(transaction=True)
def test_one_on_this_host_whose_main_process_is_well_is_not_dead_for_an_answer_that_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.announcements.ask", Mock(return_value=True))
    monkeypatch.setattr(signs, "_asked", (-signs.ASK_EVERY, None))
    monkeypatch.setattr(signs, "is_alive_here", lambda row: True)
    a_row(seen=timezone.now() - timedelta(seconds=1), state={"hears": True})
    assert [sign.alive for sign in signs.look(0.1)] == [True]
    assert Cluster.objects.get().lost is None


def a_row(**fields: Any) -> Cluster:
    """Return a cluster of another host."""
    state = {"hears": False, "folder": "elsewhere", "running": [], **fields.pop("state", {})}
    facts = {"name": "own", "host": "there", "pid": 1, "since": timezone.now(), "seen": timezone.now()}
    return Cluster.objects.create(pk=uuid4(), **{**facts, **fields, "state": state})


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("age", "lost", "alive"), [(80, False, True), (100, False, False), (1, True, False), (4000, False, None)]
)
def test_who_cannot_be_asked_is_known_by_what_was_last_seen(age: float, lost: bool, alive: bool | None) -> None:
    a_row(seen=timezone.now() - timedelta(seconds=age), lost=timezone.now() if lost else None)
    assert [sign.alive for sign in own()] == ([] if alive is None else [alive])
    prune()
    assert Cluster.objects.count() == (alive is not None)


@pytest.mark.django_db(transaction=True)
def test_who_does_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.announcements.ask", announce := Mock(return_value=True))
    monkeypatch.setattr(signs, "_publish", Mock(wait=announce))  # a thread of which may begin late
    monkeypatch.setattr(signs, "_asked", (-signs.ASK_EVERY, None))
    a_row(seen=timezone.now() - timedelta(seconds=1), state={"hears": True})
    begun = time.monotonic()
    assert [sign.alive for sign in signs.look(0.3)] == [False]
    assert time.monotonic() - begun >= 0.3
    assert Cluster.objects.get().lost
    begun = time.monotonic()
    assert [sign.alive for sign in signs.look(60)] == [False]
    assert time.monotonic() - begun < 60
    announce.assert_called_once()


@pytest.mark.django_db(transaction=True)
def test_nobody_is_dead_for_a_question_that_could_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Mock(publish=Mock(side_effect=ConnectionError))
    monkeypatch.setattr("worker.announcements.client", lambda: away)
    monkeypatch.setattr(signs, "_asked", (-signs.ASK_EVERY, None))
    a_row(seen=timezone.now() - timedelta(seconds=1), state={"hears": True})
    begun = time.monotonic()
    assert [sign.alive for _ in range(3) for sign in signs.look(30)] == [True] * 3
    assert time.monotonic() - begun < 25
    assert Cluster.objects.get().lost is None
    away.publish.assert_called_once()  # who looks need not wait for a frozen server each time


@pytest.mark.django_db
def test_what_was_found_dead_goes_when_its_successor_starts_on_its_host(thread: Quiet) -> None:
    here = os.uname().nodename
    name = thread.registration.rows.model and module.Conf.CLUSTER_NAME
    a_row(host=here, name=name, lost=timezone.now())
    a_row(host=here, name=name, pid=os.getppid())
    others = {a_row(host=here, name=name).pk, a_row(name=name, lost=timezone.now()).pk}
    thread.look({SIGNS})
    assert {row.pk for row in Cluster.objects.all()} == {*others, thread.registration.identity}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no such locks")
@pytest.mark.usefixtures("queue")
def test_a_lock_on_the_schedules_leaves_their_cluster_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs, "is_alive_here", lambda row: None)  # as from another host
    with clusters(tmp_path, Q_WORKERS="1"), closing(connection.copy()) as somebody, connection.cursor() as cursor:
        somebody.set_autocommit(False)
        somebody.cursor().execute("LOCK TABLE django_q_schedule IN ACCESS EXCLUSIVE MODE")
        announcements.announce("default")

        def waits() -> bool:
            cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            return bool(cursor.fetchone()[0])

        wait_for(waits, "a thread that waits for the lock")
        monkeypatch.setattr(signs, "_asked", (-signs.ASK_EVERY, None))
        assert [sign.alive for sign in own()] == [True]
        assert waits()
