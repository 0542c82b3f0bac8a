"""When agents look at schedules: at the time of the next one, and when one has changed, with one query each time."""

import time
from collections.abc import Iterator
from datetime import timedelta
from threading import RLock
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule, Task
from django_q.tasks import schedule
from project import Site, wait_for
from pytest_django import DjangoAssertNumQueries
from worker import announcements
from worker.announcements import announce
from worker.cluster import schedules as module
from worker.cluster.listener import Listener
from worker.cluster.schedules import Schedules

COUNT = "core.tasks.count_words"
announced = pytest.mark.skipif(
    connection.vendor != "postgresql" and not Conf.REDIS, reason="neither PostgreSQL nor Redis is there to announce"
)


class Agent:
    """Holds what is offered."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.lock, self.held, self.offered = RLock(), dict[int, Any](), list[int]()
        self.hand_out = Mock()

    def hold(self, does: str, **fields: Any) -> Any:
        """Hold something."""
        held = self.held[len(self.held)] = SimpleNamespace(does=does, **fields)
        return held

    def offer(self, held: Any) -> None:
        """Keep what is offered."""
        self.offered.append(held.extra[0])


@pytest.fixture
def agent(db: None) -> Agent:
    """Provide an agent without schedules."""
    Schedule.objects.all().delete()
    return Agent()


def in_seconds(seconds: float, **fields: Any) -> Schedule:
    """Return a schedule that is due then."""
    return Schedule.objects.create(func=COUNT, next_run=timezone.now() + timedelta(seconds=seconds), **fields)


def test_a_look_tells_in_one_query_when_the_next_one_is(
    agent: Agent, django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Schedules(agent)
    with django_assert_num_queries(1):
        assert looks.offer_due() == float("inf")
    in_seconds(50, cluster="another")
    in_seconds(40, repeats=0)
    in_seconds(30)
    with django_assert_num_queries(1):
        assert 29 < looks.offer_due() < 30.1
    first, second = in_seconds(-2), in_seconds(-1)
    assert looks.offer_due() == module.SOON
    assert looks.offer_due() == module.SOON
    assert agent.offered == [first.pk, second.pk]
    monkeypatch.setattr(module, "AT_ONCE", 1)
    assert looks.offer_due() == module.HURRY


@pytest.mark.skipif(connection.vendor != "postgresql", reason="it keeps no such time")
@pytest.mark.parametrize("time", ["10000-01-01", "0001-01-01 BC"])
def test_a_time_that_python_does_not_know_holds_up_no_other_schedule(agent: Agent, time: str) -> None:
    odd, other = in_seconds(-2), in_seconds(-1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_schedule SET next_run = %s WHERE id = %s", [time, odd.pk])
    assert Schedules(agent).offer_due() == module.SOON
    assert other.pk in agent.offered


@pytest.fixture
def listener(transactional_db: None) -> Iterator[Listener]:
    """Provide one that listens."""
    listener = Listener()
    listener.listen()
    yield listener
    if listener.subscription is not None:
        listener.subscription.close()


@announced
def test_whoever_listens_hears_of_each_kind_of_change_once_it_can_be_seen(listener: Listener) -> None:
    def hears(seconds: float = 20) -> bool:
        begun = time.monotonic()
        listener.wait(seconds)
        return time.monotonic() - begun < seconds - 0.1

    assert not hears(0.7)
    row = in_seconds(50)
    assert hears()
    row.save()
    assert hears()
    with transaction.atomic():
        row.save()
        if Conf.REDIS:
            assert not hears(0.7)
    assert hears()
    announce("default")
    assert hears()
    listener.listen()
    assert not hears(0.7)


@announced
def test_a_listener_that_was_cut_off_listens_again(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("worker.cluster.listener.AGAIN", 0.1)
    if listener.subscription is None:
        (server,) = [listener.listening.info.backend_pid]
        other = connections.create_connection("default")
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [server])
        other.close()
        while listener.listening:  # the server's last word may come before the end of the connection
            listener.wait(9)
        assert "Announcements are not heard: OperationalError: " in caplog.text
    else:
        announcements.client().client_kill_filter(_type="pubsub")
        listener.wait(0.1)
    listener.listen()
    begun = time.monotonic()
    announce("default")
    listener.wait(20)
    assert time.monotonic() - begun < 10


@announced
def test_a_listener_that_cannot_listen_at_first_does_once_the_server_answers(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = announcements.client()
    if not server:
        pytest.skip("PostgreSQL announces")
    late = Listener()
    with monkeypatch.context() as away:
        away.setattr(server.connection_pool, "get_connection", Mock(side_effect=ConnectionError("away")))
        with pytest.raises(ConnectionError):
            late.listen()
    assert not late.hears
    assert late.listen()
    assert late.hears
    announce("default")
    assert late.wait(9) == {announcements.SCHEDULES}
    late.subscription.close()


@announced
@pytest.mark.django_db(transaction=True)
def test_a_schedule_that_somebody_adds_begins_at_its_time(site: Site) -> None:
    due = timezone.now() + timedelta(seconds=3)
    for name in ("exact", "exact too"):
        schedule(COUNT, "one two", name=name, next_run=due)
    tasks = Task.objects.filter(group__in=["exact", "exact too"])
    wait_for(lambda: tasks.count() == 2, "two results")
    for task in tasks:
        assert due < task.started
        assert task.stopped - due < timedelta(seconds=1)
    tasks.delete()
