"""The system checks: what a wrong setting is told."""

from unittest.mock import Mock

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connections
from django.http.request import validate_host
from django_q.models import OrmQ, Schedule
from pytest_django import Settings
from worker import processes
from worker.checks import EPHEMERAL

GUNICORN = "django_prodserver.backends.servers.gunicorn.GunicornServer"
WORKER = "django_prodserver.backends.workers.django_q2.DjangoQ2Worker"


@pytest.mark.parametrize(
    ("processes", "error", "hint"),
    [
        (["web"], "PRODUCTION_PROCESSES is not a dict", "Write"),
        ({}, "PRODUCTION_PROCESSES is not a dict", "Write"),
        ({"web": "gunicorn"}, "['web']: it is a str.", "Write one such as {'BACKEND'"),
        ({"web": {}}, "['web']: it has no BACKEND.", "DjangoQ2Worker"),
        ({"web": {"BACKEND": GUNICORN, "args": {}}}, "the key 'args' is unknown.", "'ARGS'"),
        ({"web": {"BACKEND": "nodot"}}, "the BACKEND 'nodot' cannot be used", "DjangoQ2Worker"),
        ({"web": {"BACKEND": "no.such.Module"}}, "No module named 'no'", "DjangoQ2Worker"),
        ({"web": {"BACKEND": "worker.apps.Wroker"}}, "does not define a", "DjangoQ2Worker"),
        ({"web": {"BACKEND": "pathlib.Path"}}, "is not a backend of django-prodserver", "DjangoQ2Worker"),
        ({"web": {"BACKEND": GUNICORN, "ARGS": ["--preload"]}}, "ARGS ['--preload'] is not a dict", "Write"),
        ({"web": {"BACKEND": GUNICORN, "ARGS": None}}, "ARGS None is not a dict", "Write"),
        ({"web": {"BACKEND": GUNICORN, "ARGS": {"preload": True}}}, "is not a dict of strings", "None"),
        ({"w": {"BACKEND": WORKER, "ARGS": {"name": "slwo"}}}, "Q_CLUSTER knows no cluster 'slwo'. ", ""),
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
    assert (message.id, "The package no_such_package" in message.msg) == ("worker.E010", True)


@pytest.mark.parametrize(
    ("change", "identity", "sentence"),
    [
        ({"timeout": 1.5}, "worker.E031", "Q_CLUSTER: timeout is 1.5."),
        ({"timeout": 0}, "worker.E031", "Q_CLUSTER: timeout is 0."),
        ({"workers": True}, "worker.E031", "Q_CLUSTER: workers is True."),
        ({"retry": 2}, "worker.E031", "Q_CLUSTER: retry is 2."),
        ({"max_attempts": 0}, "worker.W036", "Q_CLUSTER: a task that fails is tried without end."),
        ({"timeout": 86_400}, "worker.I039", "A task may run 86400 s, and a stop leaves it "),
        ({"quue_limit": 3}, "worker.E034", "Q_CLUSTER has the unknown key 'quue_limit'."),
        ({"max_rss": 100}, "worker.E032", "Q_CLUSTER: max_rss is 100, and a worker begins with "),
        ({"save_limit": "x"}, "worker.E031", "Q_CLUSTER: save_limit is 'x'."),
        ({"recycle": "x"}, "worker.E031", "Q_CLUSTER: recycle is 'x'."),
        ({"time_zone": "Europe/Nope"}, "worker.E031", "Q_CLUSTER: time_zone is 'Europe/Nope'."),
        ({"time_zone": ["UTC"]}, "worker.E031", "Q_CLUSTER: time_zone is ['UTC']."),
        ({"max_rss": "5"}, "worker.E031", "Q_CLUSTER: max_rss is '5'."),
        ({"ALT_CLUSTERS": None}, "worker.E030", "Q_CLUSTER['ALT_CLUSTERS'] is no dict of dicts."),
        ({"ALT_CLUSTERS": {"a": {"timeout": "9"}}}, "worker.E031", "Q_CLUSTER['ALT_CLUSTERS']['a']: timeout is '9'."),
        ({"ALT_CLUSTERS": {"a": {"name": "b"}}}, "worker.E033", "Q_CLUSTER['ALT_CLUSTERS']['a'] has a name"),
    ],
)
def test_a_wrong_cluster_is_named(settings: Settings, change: dict[str, object], identity: str, sentence: str) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, **change}
    assert any(message.id == identity and message.msg.startswith(sentence) for message in run_checks())


@pytest.mark.parametrize("name", ["Q_GRACE", "Q_KEEP_FAILURES", "Q_KEEP_RESULTS", "Q_MOST_RESULTS", "Q_QUIET"])
@pytest.mark.parametrize("value", [0, -1, None, "x", 1.5, True])
def test_a_wrong_number_in_the_settings_is_named(settings: Settings, name: str, value: object) -> None:
    setattr(settings, name, value)
    (message,) = run_checks()
    assert (message.id, message.msg) == ("worker.E031", f"{name} is {value!r}.")


def test_a_number_of_days_that_no_calendar_has_is_named(settings: Settings) -> None:
    settings.Q_KEEP_RESULTS = 36_501
    (message,) = run_checks()
    assert (message.msg, message.hint) == ("Q_KEEP_RESULTS is 36501.", "Write a whole number, from 1 to 36,500.")


def test_a_cluster_may_leave_out_what_has_a_default(settings: Settings) -> None:
    needed = settings.Q_CLUSTER.keys() - {"recycle", "save_limit", "max_rss", "cpu_affinity"}
    settings.Q_CLUSTER = {key: settings.Q_CLUSTER[key] for key in needed}
    assert run_checks() == []


def test_a_cluster_that_nobody_serves_is_named(settings: Settings) -> None:
    clusters = {**settings.Q_CLUSTER["ALT_CLUSTERS"], "a": {}}
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": clusters}
    (message,) = run_checks()
    assert (message.id, "serves the cluster 'a'" in message.msg) == ("worker.W037", True)


def test_the_cluster_beside_a_test_is_served_by_the_test(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "stand_in", "a")
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {**settings.Q_CLUSTER["ALT_CLUSTERS"], "a": {}}}
    assert run_checks() == []


def test_a_cluster_that_is_not_there_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q_CLUSTER_NAME", settings.SITE_SLUG[:-1])
    (message,) = run_checks()
    assert (message.id, message.msg.partition(". ")[2]) == ("worker.E035", f"Did you mean {settings.SITE_SLUG!r}?")


def test_a_connection_pool_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DATABASES["default"], "OPTIONS", {"pool": True})
    assert "worker.E021" in {message.id for message in run_checks()}


def test_a_database_that_does_not_commit_by_itself_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.DATABASES["default"], "AUTOCOMMIT", False)
    assert "worker.E026" in {message.id for message in run_checks()}


def test_a_cache_that_web_does_not_share_is_named(settings: Settings) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    (message,) = run_checks()
    assert message.id == "worker.W011"


def test_a_missing_database_stops_a_release(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
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


@pytest.mark.parametrize(
    "host",
    [
        "https://a.example",
        "a.example:443",
        "a.example/",
        "'a.example'",
        '"a.example"',
        '["a.example"]',
        "$NAME",
        "${NAME}.example",
        "a.example b.example",
        "*.a.example",
        "a.example.",
        "müller.example",
        "a_b.example",
    ],
)
def test_a_host_that_can_never_match_is_named(settings: Settings, host: str) -> None:
    settings.ALLOWED_HOSTS = [host, "www.example.com"]
    (message,) = (each for each in run_checks(include_deployment_checks=True) if each.id == "worker.W023")
    assert message.msg == f"ALLOWED_HOSTS has {host!r}, which can never match."
    assert not validate_host("a.example", [host]) or host == "*.a.example"


@pytest.mark.parametrize("host", ["a.example", ".a.example", "*", "localhost", "127.0.0.1", "[::1]", "WWW.A.example"])
def test_a_host_that_can_match_is_none_of_them(settings: Settings, host: str) -> None:
    settings.ALLOWED_HOSTS = [host]
    assert "worker.W023" not in {message.id for message in run_checks(include_deployment_checks=True)}


@pytest.mark.parametrize(
    ("origin", "right"),
    [
        ("https://a.example", True),
        ("https://*.a.example:8443", True),
        ("http://localhost:8000", True),
        ("capacitor://localhost", True),
        ("https://A.example", False),
        ("https://a.example:443", False),
        ("http://a.example:80", False),
        ("https://a.example/", False),
        ("https://$NAME", False),
        ("'https://a.example'", False),
    ],
)
def test_an_origin_that_can_never_match_is_named(settings: Settings, origin: str, right: bool) -> None:
    settings.CSRF_TRUSTED_ORIGINS = [origin]
    assert right is ("worker.W023" not in {each.id for each in run_checks(include_deployment_checks=True)})


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"pgbouncer": True}, 'invalid connection option "pgbouncer"'),
        ({"sslmode": "of"}, 'invalid sslmode value: "of"'),
        ({"target_session_attrs": "nix"}, 'invalid target_session_attrs value: "nix"'),
        ({"sslmode": "require", "server_side_binding": True, "hostaddr": "127.0.0.1"}, ""),
    ],
)
def test_an_option_that_no_driver_knows_is_named(settings: Settings, option: dict[str, object], sentence: str) -> None:
    options = {"ENGINE": "django.db.backends.postgresql", "NAME": "site", "HOST": "nowhere", "PASSWORD": "secret"}
    settings.DATABASES["other"] = {**connections["default"].settings_dict, **options, "OPTIONS": option}
    try:
        found = [message.msg for message in run_checks() if message.id == "worker.E024"]
    finally:
        del settings.DATABASES["other"], connections["other"]
    assert found == ([f"DATABASES['other'] has an option that cannot be used: {sentence}."] if sentence else [])


def test_what_the_broker_cannot_use_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Mock(side_effect=ImproperlyConfigured("X_URL cannot be read."))
    monkeypatch.setattr("worker.broker.Broker.check_settings", refusal)
    (message,) = run_checks()
    assert (message.id, message.msg) == ("worker.E014", "X_URL cannot be read.")
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "broker_class": "worker.broker.Brokr"}
    (message,) = run_checks()
    assert (message.id, 'does not define a "Brokr"' in message.msg) == ("worker.E014", True)


@pytest.mark.django_db
def test_what_waits_for_a_cluster_of_a_former_name_is_named(settings: Settings) -> None:
    def told() -> list[str]:
        found = [it.msg for it in run_checks(databases=["default"]) if it.id in {"worker.W038", "worker.W041"}]
        return [it for it in found if "'for:mer'" in it or repr(settings.SITE_SLUG) in it]

    Schedule.objects.create(func="core.tasks.count_words", cluster=settings.SITE_SLUG)
    Schedule.objects.create(func="core.tasks.count_words")
    if "orm" in settings.Q_CLUSTER:
        OrmQ.objects.create(key=settings.SITE_SLUG, payload="")
    assert told() == []
    Schedule.objects.create(func="core.tasks.count_words", cluster="for:mer")
    OrmQ.objects.create(key="for:mer", payload="")
    assert told() == [
        "Tasks wait in the table django_q_ormq with the key 'for:mer', which no cluster serves.",
        "Schedules wait for the cluster 'for:mer', which is not there.",
    ]
    assert not {it.id for it in run_checks()} & {"worker.W038", "worker.W041"}  # `check` asks no server
