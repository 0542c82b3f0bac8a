"""The system checks: what a wrong setting is told."""

from unittest.mock import Mock

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings
from worker.checks import EPHEMERAL, check_queue

GUNICORN = "django_prodserver.backends.servers.gunicorn.GunicornServer"
WORKER = "worker.backend.DjangoQ2Worker"


@pytest.mark.parametrize(
    ("processes", "error", "hint"),
    [
        (["web"], "PRODUCTION_PROCESSES is not a dict", "Write"),
        ({}, "PRODUCTION_PROCESSES is not a dict", "Write"),
        ({"web": "gunicorn"}, "['web'] is a str", "Write {'BACKEND'"),
        ({"web": {}}, "['web'] has no BACKEND", "Name a class"),
        ({"web": {"BACKEND": GUNICORN, "args": {}}}, "has the unknown key 'args'", "Did you mean 'ARGS'?"),
        ({"web": {"BACKEND": "nodot"}}, "the BACKEND 'nodot' cannot be used", "Name a class"),
        ({"web": {"BACKEND": "no.such.Module"}}, "No module named 'no'", "Name a class"),
        ({"web": {"BACKEND": "worker.backend.Wroker"}}, "does not define a", "Name a class"),
        ({"web": {"BACKEND": "pathlib.Path"}}, "is not a backend of django-prodserver", "Name a class"),
        ({"web": {"BACKEND": GUNICORN, "ARGS": ["--preload"]}}, "ARGS ['--preload'] is not a dict", "Write"),
        ({"web": {"BACKEND": GUNICORN, "ARGS": None}}, "ARGS None is not a dict", "Write"),
        ({"web": {"BACKEND": GUNICORN, "ARGS": {"preload": True}}}, "is not a dict of strings", "None"),
        ({"web": {"BACKEND": GUNICORN, "ARGS": {"wrokers": "2"}}}, "no option 'wrokers'", "Did you mean 'workers'?"),
        ({"w": {"BACKEND": WORKER, "ARGS": {"cluster-name": "x"}}}, "no option 'cluster-name'", "Known are: "),
        ({"w": {"BACKEND": WORKER, "ARGS": {"name": "slwo"}}}, "Q_CLUSTER knows no cluster 'slwo'", ""),
    ],
)
def test_a_wrong_entry_is_named(settings: Settings, processes: object, error: str, hint: str) -> None:
    settings.PRODUCTION_PROCESSES = processes
    (message,) = run_checks()
    assert error in message.msg
    assert hint in str(message.hint)


def test_a_backend_of_another_kind_keeps_its_options(settings: Settings) -> None:
    backend = "django_prodserver.backends.base.BaseServerBackend"
    settings.PRODUCTION_PROCESSES = {"other": {"BACKEND": backend, "ARGS": {"anything": "1"}}}
    assert {message.id for message in run_checks()} == {"worker.W037"}  # which asks for a worker


def test_the_brokers_missing_package_is_named(settings: Settings) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "broker_class": "no_such_package.Broker"}
    (message,) = run_checks()
    assert (message.id, "the package no_such_package" in message.msg) == ("worker.E010", True)


@pytest.mark.parametrize(
    ("change", "identity", "sentence"),
    [
        ({"timeout": 1.5}, "worker.E031", "Q_CLUSTER: timeout is 1.5."),
        ({"timeout": 0}, "worker.E031", "Q_CLUSTER: timeout is 0."),
        ({"workers": True}, "worker.E031", "Q_CLUSTER: workers is True."),
        ({"retry": 2}, "worker.E031", "Q_CLUSTER: retry is 2."),
        ({"max_attempts": 0}, "worker.W036", "Q_CLUSTER: a task that fails is tried without end."),
        ({"save_limit": 0}, "worker.W038", "Q_CLUSTER: results of successes pile up without end."),
        ({"timeout": 86_400}, "worker.I039", "A task may run 86400 s, and a stop leaves it "),
        ({"quue_limit": 3}, "worker.E034", "Q_CLUSTER has the unknown key 'quue_limit'."),
        ({"max_rss": 100}, "worker.E032", "Q_CLUSTER: max_rss is 100, and a worker begins with "),
        ({"ALT_CLUSTERS": None}, "worker.E030", "Q_CLUSTER['ALT_CLUSTERS'] is no dict of dicts."),
        ({"ALT_CLUSTERS": {"a": {"timeout": "9"}}}, "worker.E031", "Q_CLUSTER['ALT_CLUSTERS']['a']: timeout is '9'."),
        ({"ALT_CLUSTERS": {"a": {"name": "b"}}}, "worker.E033", "Q_CLUSTER['ALT_CLUSTERS']['a'] has a name"),
    ],
)
def test_a_wrong_cluster_is_named(settings: Settings, change: dict[str, object], identity: str, sentence: str) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, **change}
    assert any(message.id == identity and message.msg.startswith(sentence) for message in run_checks())


def test_a_cluster_that_nobody_serves_is_named(settings: Settings) -> None:
    clusters = {**settings.Q_CLUSTER["ALT_CLUSTERS"], "a": {}}
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": clusters}
    (message,) = run_checks()
    assert (message.id, "serves the cluster 'a'" in message.msg) == ("worker.W037", True)


def test_a_cluster_that_is_not_there_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q_CLUSTER_NAME", settings.SITE_SLUG[:-1])
    (message,) = run_checks()
    assert (message.id, message.hint) == ("worker.E035", f"Did you mean {settings.SITE_SLUG!r}?")


def test_a_connection_pool_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DATABASES["default"], "OPTIONS", {"pool": True})
    assert "worker.E021" in {message.id for message in run_checks()}


def test_a_cache_that_web_does_not_share_is_named(settings: Settings) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    (message,) = run_checks()
    assert message.id == "worker.W011"


def test_a_missing_database_stops_a_release(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    settings.DEBUG = False
    assert "worker.E020" in {message.id for message in run_checks(include_deployment_checks=True)}
    with pytest.raises(CommandError, match="DATABASE_URL is not set"):
        call_command("release")


@pytest.mark.parametrize(
    ("name", "platform", "sentence"),
    [
        ("db.sqlite3", "", "a file in the project's folder is replaced with it at the next deploy"),
        (":memory:", "", "one in memory ends with its process"),
        ("/data/db.sqlite3", EPHEMERAL[0], f"this machine's disk goes with it, as {EPHEMERAL[0]} tells"),
        ("/data/db.sqlite3", "", ""),
    ],
)
def test_sqlite_that_will_be_gone_stops_a_release(
    name: str, platform: str, sentence: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in EPHEMERAL:
        monkeypatch.delenv(variable, raising=False)
    if platform:
        monkeypatch.setenv(platform, "1")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{name}")
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    monkeypatch.setitem(settings.DATABASES["default"], "NAME", name)
    settings.DEBUG = False
    found = [message.msg for message in run_checks(include_deployment_checks=True) if message.id == "worker.E022"]
    assert found == ([f"DATABASE_URL names a SQLite database, and {sentence}."] if sentence else [])


@pytest.fixture
def queue_in_the_database(settings: Settings) -> None:
    """Let tasks wait in the database, whatever the project's broker is."""
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "orm": "default", "broker_class": "worker.broker.Broker"}


@pytest.mark.usefixtures("queue_in_the_database")
def test_a_queue_in_another_database_than_postgresql_and_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_queue(None) == []
    monkeypatch.setattr(connection, "vendor", "mysql")
    (message,) = check_queue(None)
    assert message.id == "worker.E012"
    assert (
        message.msg == "Q_CLUSTER['orm'] is 'default', a database of mysql, where two workers would run a task twice."
    )


@pytest.mark.usefixtures("queue_in_the_database")
def test_a_queue_in_a_database_that_is_not_there_is_named(settings: Settings) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "orm": "defualt"}
    (message,) = check_queue(None)
    assert (message.id, message.hint) == ("worker.E011", "Did you mean 'default'?")


@pytest.mark.usefixtures("queue_in_the_database")
def test_a_router_that_keeps_the_queue_elsewhere_is_named(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = [Mock(spec=["allow_migrate"], allow_migrate=Mock(return_value=False))]
    (message,) = check_queue(None)
    assert message.id == "worker.E013"


def test_the_queue_of_another_broker_may_be_anywhere(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "orm": "default", "broker_class": "django_q.brokers.orm.ORM"}
    monkeypatch.setattr(connection, "vendor", "mysql")
    assert check_queue(None) == []
