"""/metrics: who is told, and what, as Prometheus's own parser reads it."""

import time
from collections.abc import Iterator
from datetime import timedelta
from threading import Event
from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pytest_django import Settings
from queue_state import empty, failed, give_signs, run, set_depth, sign
from worker import announcements
from worker.models import BUCKETS, Cluster, Tally
from worker.processes import clusters
from worker.queue import depths, metrics, signs
from worker.queue.metrics import Queues
from worker.single_flight import SingleFlight
from worker.web.middleware import is_probe

TOKEN = "a token of some length"  # noqa: S105 (nobody's)
FOREIGN = {"host": "172.19.4.2:8000", "authorization": f"Bearer {TOKEN}"}
Found = dict[tuple[str, ...], float]
LOOK = signs.look


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Begin with one cluster, and with empty queues, and let somebody know the token."""
    settings.METRICS_TOKEN = TOKEN
    settings.SECURE_SSL_REDIRECT = True
    give_signs(monkeypatch, sign())
    set_depth(monkeypatch, 0, 0, 0, None)


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Say when the test is over, until which something may wait, and ask nobody whom others wait for."""
    monkeypatch.setattr(depths, "asked", SingleFlight(depths.ask))
    over = Event()
    yield over
    over.set()


@pytest.fixture
def _tables(db: None) -> None:
    """Begin without results, schedules and tallies."""
    empty()


def labels_of(sample: Any) -> list[str]:
    """Return the values of labels in this order."""
    return [sample.labels[name] for name in ("queue", "function", "outcome", "schedule", "le") if name in sample.labels]


def found() -> Found:
    """Return the values by name and labels, each of which is there once."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Queues())
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    values = [((it.name, *labels_of(it)), it.value) for family in families for it in family.samples]
    assert len(values) == len(dict(values))
    return dict(values)


def test_only_who_knows_the_token_is_told(client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    look = type("Look", (), {"text": b"all", "problem": ""})
    monkeypatch.setattr(metrics.Metrics, "read", lambda self: look)
    response = client.get("/metrics", headers=FOREIGN)
    assert (response.status_code, response.content, response["Cache-Control"]) == (200, b"all", "no-store")
    assert response["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    for header in ("", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer ä"):
        for ask in (client.get, client.post):
            assert ask("/metrics", headers={**FOREIGN, "authorization": header}).status_code == 404
    response = client.post("/metrics", headers=FOREIGN)
    assert (response.status_code, response["Allow"], response.content) == (405, "GET, HEAD", b"Ask by GET.\n")
    assert is_probe("/metrics"), "pages that wait for a server would hold it up"
    settings.METRICS_TOKEN = ""
    assert not is_probe("/metrics"), "which is answered as other paths are"
    assert client.get("/metrics", secure=True, headers={"authorization": "Bearer "}).status_code == 404


@pytest.mark.usefixtures("_tables")
def test_a_queue_is_told_of_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    set_depth(monkeypatch, 10, 3, 2, timezone.now().timestamp() - 100)
    give_signs(monkeypatch, sign(ahead=1, running=[run("a")], lag=2.5), sign(workers=3), sign(alive=False))
    failed()
    failed(next_try=timezone.now())
    values = found()
    told = {name: values[f"django_q_{name}", "default"] for name in ("waiting_tasks", "due_tasks", "running_tasks")}
    assert told == {"waiting_tasks": 11, "due_tasks": 3, "running_tasks": 1}
    assert 100 <= values["django_q_oldest_waiting_seconds", "default"] < 110
    told = {name: values[f"django_q_{name}", "default"] for name in ("workers", "clusters", "paused", "broker_up")}
    assert told == {"workers": 5, "clusters": 2, "paused": 0, "broker_up": 1}
    assert values["django_q_results_lag_seconds", "default"] == 2.5
    assert (values["django_q_retrying_tasks",], values["django_q_failed_tasks",]) == (1, 1)


@pytest.mark.usefixtures("_tables")
def test_what_the_broker_would_have_to_tell_is_left_out_while_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    set_depth(monkeypatch, error=OSError("away"))
    values = found()
    assert values["django_q_broker_up", "default"] == 0
    assert ("django_q_waiting_tasks", "default") not in values
    assert ("django_q_oldest_waiting_seconds", "default") not in values
    set_depth(monkeypatch, 0, 0, 0, None)
    assert found()["django_q_oldest_waiting_seconds", "default"] == 0
    set_depth(monkeypatch, 5, 0, 0, None)  # of SQS nobody knows the age
    assert ("django_q_oldest_waiting_seconds", "default") not in found()


@pytest.mark.usefixtures("_tables")
def test_what_all_clusters_have_counted_is_told_by_function_and_outcome() -> None:
    empty = [0] * (len(BUCKETS) + 1)
    for outcome, count in (("successful", 5), ("failed", 1), ("retried", 2), ("cancelled", 1)):
        ran = [count, *empty[1:-1], 1]
        Tally.objects.create(
            cluster=clusters()[0],
            func="core.tasks.a",
            outcome=outcome,
            count=count,
            ran=10.0,
            waited=2.5,
            ran_buckets=ran,
            waited_buckets=empty,
        )
    values = found()
    of = ("default", "core.tasks.a")
    assert values["django_q_tasks_total", *of, "successful"] == 5
    assert values["django_q_tasks_total", *of, "retried"] == 2
    assert values["django_q_task_run_seconds_sum", *of] == 40
    assert values["django_q_task_run_seconds_bucket", *of, "0.01"] == 9
    assert values["django_q_task_run_seconds_bucket", *of, "3600.0"] == 9
    assert values["django_q_task_run_seconds_bucket", *of, "+Inf"] == 13
    assert values["django_q_task_run_seconds_count", *of] == 13
    assert values["django_q_task_wait_seconds_count", *of] == 0


@pytest.mark.usefixtures("_tables")
def test_a_schedule_that_is_overdue_is_told_by_its_name() -> None:
    now = timezone.now()
    Schedule.objects.create(name="late", func="core.tasks.tidy", next_run=now - timedelta(minutes=3))
    Schedule.objects.create(name="off", func="core.tasks.tidy", next_run=now, repeats=0)
    for minutes in (1, 2):
        Schedule.objects.create(name="twice", func="core.tasks.tidy", next_run=now - timedelta(minutes=minutes))
    values = found()
    assert 120 <= values["django_q_schedule_overdue_seconds", "twice"] < 140
    assert 180 <= values["django_q_schedule_overdue_seconds", "late"] < 200
    assert ("django_q_schedule_overdue_seconds", "off") not in values


def told(client: Client) -> Found:
    """Return what is answered, though a server is frozen."""
    begun = time.monotonic()
    response = client.get("/metrics", headers=FOREIGN)
    assert time.monotonic() - begun < 20
    assert response.status_code == 200, response.content
    families = list(text_string_to_metric_families(response.content.decode()))
    return {(it.name, *labels_of(it)): it.value for family in families for it in family.samples}


@pytest.mark.parametrize("broker", ["well", "away", "frozen"])
@pytest.mark.parametrize("database", ["away", "frozen"])
def test_an_alert_tells_a_database_that_does_not_answer_from_a_broker_and_from_web(
    client: Client, monkeypatch: pytest.MonkeyPatch, frozen: Event, database: str, broker: str
) -> None:
    def fail(patience: float) -> None:
        frozen.wait(60 if database == "frozen" else 0)
        raise OperationalError("connection refused")

    monkeypatch.setattr(metrics, "overview", fail)
    set_depth(monkeypatch, 5, 0, 0, None, error=OSError("away") if broker == "away" else None)
    if broker == "frozen":
        monkeypatch.setattr(depths, "get_broker", lambda cluster: frozen.wait(60))
    up = float(broker == "well" and not Conf.ORM)
    assert told(client) == {("django_q_database_up",): 0, ("django_q_broker_up", "default"): up}


@pytest.mark.skipif(bool(Conf.ORM), reason="the broker is the database")
@pytest.mark.usefixtures("transactional_db")
def test_a_frozen_broker_hides_nothing_that_the_database_knows(
    client: Client, monkeypatch: pytest.MonkeyPatch, frozen: Event
) -> None:
    empty()
    failed()
    now, state = timezone.now(), {"hears": bool(announcements.client()), "folder": "", "workers": 2, "running": []}
    known = {"name": clusters()[0], "host": "elsewhere", "pid": 7, "since": now, "seen": now, "state": state}
    Cluster.objects.create(id=uuid4(), **known)
    monkeypatch.setattr(signs, "look", LOOK)
    monkeypatch.setattr(signs, "_asked", (-signs.ASK_EVERY, None))
    monkeypatch.setattr(signs, "_publish", SingleFlight(lambda: frozen.wait(60)))
    monkeypatch.setattr(depths, "get_broker", lambda cluster: frozen.wait(60))
    values = told(client)
    assert values["django_q_clusters", "default"] == 1, "one that could not be asked has written lately"
    assert (values["django_q_database_up",], values["django_q_broker_up", "default"]) == (1, 0)
    assert values["django_q_failed_tasks",] == 1
    assert ("django_q_waiting_tasks", "default") not in values


def test_a_database_without_tables_is_one_sentence(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(patience: float) -> None:
        raise ImproperlyConfigured("The database is not migrated.")

    monkeypatch.setattr(metrics, "overview", fail)
    response = client.get("/metrics", headers=FOREIGN)
    assert (response.status_code, response.content) == (503, b"The database is not migrated.\n")
