"""PRODUCTION_PROCESSES: how its processes start and end, and what a wrong entry is told."""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django_prodserver.backends.workers.django_q2 import DjangoQ2Worker as UpstreamWorker
from pytest_django import Settings

from tests.conftest import Site
from tests.processes import free_port, manage, running
from worker.backend import DjangoQ2Worker
from worker.checks import EPHEMERAL

GUNICORN = "django_prodserver.backends.servers.gunicorn.GunicornServer"
WORKER = "worker.backend.DjangoQ2Worker"


def prodserver(*args: str) -> None:
    """Run the command as the command line does."""
    assert get_commands()["prodserver"] == "worker"
    load_command_class("worker", "prodserver").run_from_argv(["manage.py", "prodserver", *args])


@pytest.fixture
def qcluster(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stand in for django-q2's command, and record how it is called."""
    command = Mock()
    monkeypatch.setattr("django_prodserver.backends.workers.django_q2.management.call_command", command)
    monkeypatch.setattr("worker.cluster.Cluster.supervise", Mock(return_value=0))
    monkeypatch.setattr("worker.health.wait_for_servers", Mock())
    return command


def test_the_processes_are_listed(capsys: pytest.CaptureFixture[str], settings: Settings) -> None:
    prodserver("--list")
    assert capsys.readouterr().out.split() == list(settings.PRODUCTION_PROCESSES)


def test_a_process_starts_only_once_the_system_checks_have_passed(
    qcluster: Mock, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.STATIC_URL = "no-slash"
    with pytest.raises(SystemExit) as end:
        prodserver("worker")
    assert end.value.code == 1
    qcluster.assert_not_called()
    assert "STATIC_URL" in capsys.readouterr().err


def test_the_worker_hands_its_arguments_to_qcluster(qcluster: Mock, settings: Settings) -> None:
    settings.PRODUCTION_PROCESSES = {"worker": {"BACKEND": WORKER, "ARGS": {"run-once": None, "verbosity": "2"}}}
    with pytest.raises(SystemExit) as end:
        prodserver("worker")
    assert end.value.code == 0
    qcluster.assert_called_once_with("qcluster", "--run-once", "--verbosity=2")


def test_another_cluster_begins_again_with_its_name_in_the_environment(
    qcluster: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    execv = Mock(side_effect=SystemExit)
    monkeypatch.setattr("os.execv", execv)
    env: dict[str, str] = {}
    monkeypatch.setattr("os.environ", env)
    with pytest.raises(SystemExit):
        DjangoQ2Worker(ARGS={"name": "other"}).start_server("--name=other")
    assert env == {"Q_CLUSTER_NAME": "other"}
    execv.assert_called_once_with(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["nope"], "CommandError: There is no process 'nope': PRODUCTION_PROCESSES has web, worker"),
        ([], "CommandError: The name of a process is missing: PRODUCTION_PROCESSES has web, worker"),
    ],
)
def test_a_wrong_name_is_refused(args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        prodserver(*args)
    error = capsys.readouterr().err
    assert end.value.code == 1
    assert error.startswith(sentence)
    assert error.count("\n") == 1


def test_a_missing_package_ends_with_a_sentence(
    qcluster: Mock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("worker.management.commands.prodserver.Command.check", Mock())
    monkeypatch.setattr("worker.backend.import_string", Mock(side_effect=ModuleNotFoundError(name="client")))
    with pytest.raises(SystemExit) as end:
        prodserver("worker")
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "CommandError: The broker needs the package client, which is not installed here: "
        "run `uv sync`, or `uv add client` if it was removed.\n"
    )


def test_the_backend_names_a_missing_django_q2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django_q", None)
    with pytest.raises(ImproperlyConfigured, match="django-q2 is required"):
        DjangoQ2Worker()


def test_the_backend_names_a_missing_app(settings: Settings) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_q"]
    with pytest.raises(ImproperlyConfigured, match="Add 'django_q' to INSTALLED_APPS"):
        DjangoQ2Worker()


def test_a_command_names_a_missing_django_q2(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *args: None if name == 'django_q' else find(name, *args)\n"
    )
    done = manage("check", env={**environment, "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (
        1,
        "ImproperlyConfigured: django-q2 is not installed here: run `uv sync`, "
        "or `uv add django-q2` if it was removed.\n",
    )


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


@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        ("SECRET_KEY", 'Environment variable "SECRET_KEY" not set'),
        ("DATABASE_URL", "CommandError: DATABASE_URL is not set, and DEBUG is off."),
    ],
)
def test_a_release_without_a_variable_ends_with_a_sentence(
    without: str, sentence: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(without, raising=False)  # which continuous integration sets
    variables = {**environment, "DEBUG": "false", "ALLOWED_HOSTS": "www.example.com", "SECRET_KEY": "k" * 60}
    variables["DATABASE_URL"] = f"sqlite:///{tmp_path / 'release.sqlite3'}"
    done = manage("release", env={name: value for name, value in variables.items() if name != without})
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "release.sqlite3").exists()


@pytest.mark.django_db
def test_a_release_checks_migrates_and_creates_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.management.commands.release.check_database", Mock(return_value=[]))
    steps: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "worker.management.commands.release.call_command", lambda *args, **options: steps.append((*args, options))
    )
    call_command("release")
    assert steps == [
        ("check", {"deploy": True, "fail_level": "WARNING"}),
        ("migrate", {"interactive": False}),
        ("createcachetable", {}),
    ]


@pytest.mark.parametrize("command", ["prodserver", "server"])
def test_web_ends_with_0_after_sigterm(command: str, environment: dict[str, str], tmp_path: Path) -> None:
    with running("web", {**environment, "PORT": str(free_port())}, tmp_path, command) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize("command", ["prodserver", "worker"])
def test_a_worker_ends_with_0_after_sigterm_to_its_whole_group(
    command: str, environment: dict[str, str], tmp_path: Path
) -> None:
    with running("worker", {**environment, "TMPDIR": str(tmp_path)}, tmp_path, command) as process:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
    assert "has stopped" in (tmp_path / "worker.log").read_text()


def test_the_backend_is_upstreams() -> None:
    assert issubclass(DjangoQ2Worker, UpstreamWorker)


def test_each_event_is_logged_in_one_line(site: Site) -> None:
    log = (site.logs / "worker.log").read_text()
    assert len(re.findall(r"Q Cluster \S+ \[\S+\] running", log)) == 1


def test_each_process_starts_once(site: Site) -> None:
    for name in site.processes:
        assert (site.logs / f"{name}.log").read_text().count("Starting process named") == 1, name
