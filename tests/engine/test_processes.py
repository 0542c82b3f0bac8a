"""PRODUCTION_PROCESSES: how its processes start and end, and what a wrong entry is told."""

import http.cookiejar
import json
import os
import re
import resource
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from clusters import alike_elsewhere
from core.tasks import OFFERS
from django.core.management import CommandError, call_command, get_commands, load_command_class
from project import PROJECT, Site, free_port, manage, running, variables, wait_for
from pytest_django import Settings
from worker import __version__
from worker.cluster.forks import room_for_files
from worker.cluster.supervisor import MEANINGLESS
from worker.management.commands.qcluster import begin_as


def prodserver(*args: str) -> None:
    """Run the command as the command line does."""
    assert get_commands()["prodserver"] == "worker"
    load_command_class("worker", "prodserver").run_from_argv(["manage.py", "prodserver", *args])


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stand in for the worker."""
    start = Mock()
    monkeypatch.setattr("worker.cluster.supervisor.Supervisor.run", start)
    monkeypatch.setattr("signal.signal", Mock())
    return start


def test_the_processes_are_listed(capsys: pytest.CaptureFixture[str], settings: Settings) -> None:
    prodserver("--list")
    shown = capsys.readouterr()
    assert shown.out.split() == list(settings.PRODUCTION_PROCESSES)
    assert shown.err == f"worker/ {__version__}\n"  # where no script looks for names


def test_a_process_starts_only_once_the_system_checks_have_passed(
    start: Mock, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.STATIC_URL = "no-slash"
    with pytest.raises(SystemExit) as end:
        prodserver("worker")
    assert end.value.code == 1
    start.assert_not_called()
    assert "STATIC_URL" in capsys.readouterr().err


def test_another_cluster_begins_again_with_its_name_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    execv = Mock(side_effect=SystemExit)
    monkeypatch.setattr("os.execv", execv)
    env: dict[str, str] = {}
    monkeypatch.setattr("os.environ", env)
    with pytest.raises(SystemExit):
        begin_as("other")
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


@pytest.mark.parametrize(("module", "package"), [("django_q", "django-q2"), ("croniter", "croniter")])
def test_a_missing_package_ends_with_a_sentence(
    module: str, package: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    done = manage("prodserver", "worker", env={**environment, "PYTHONPATH": str(tmp_path)})
    sentence = f"{package} is not installed here: run `uv sync`, or `uv add {package}` if it was removed."
    assert (done.returncode, done.stderr) == (1, f"ImproperlyConfigured: {sentence}\n")


def settings_with(line: str, folder: Path, env: dict[str, str]) -> dict[str, str]:
    """Return the environment in which a line stands at the end of the settings."""
    (folder / "changed.py").write_text(f"from config.settings import *\n{line}\n")
    return {**env, "DJANGO_SETTINGS_MODULE": "changed", "PYTHONPATH": str(folder)}


@pytest.mark.parametrize("command", ["check", "prodserver web", "prodserver worker"])
def test_an_app_that_is_not_installed_ends_with_a_sentence(
    command: str, environment: dict[str, str], tmp_path: Path
) -> None:
    env = settings_with('INSTALLED_APPS.remove("django_q")', tmp_path, environment)
    done = manage(*command.split(), env=env)
    sentence = "'django_q' is missing in INSTALLED_APPS: write it before 'worker'."
    assert (done.returncode, done.stderr) == (1, f"ImproperlyConfigured: {sentence}\n")


@alike_elsewhere
def test_an_option_of_an_entry_that_there_is_not_ends_with_a_sentence(
    environment: dict[str, str], tmp_path: Path
) -> None:
    env = settings_with('PRODUCTION_PROCESSES["worker"]["ARGS"] = {"nope": "1"}', tmp_path, environment)
    done = manage("prodserver", "worker", env=env)
    assert (done.returncode, done.stderr) == (1, "CommandError: Error: unrecognized arguments: --nope=1\n")


def test_the_arguments_of_an_entry_reach_the_cluster(
    start: Mock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {**settings.PRODUCTION_PROCESSES["worker"], "ARGS": {"name": "other"}}
    settings.PRODUCTION_PROCESSES = {**settings.PRODUCTION_PROCESSES, "other": entry}
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {"other": {}}}
    monkeypatch.setattr("django.core.management.base.BaseCommand.check", Mock())
    monkeypatch.setattr("worker.management.commands.prodserver.begin_as", Mock())  # which would begin again
    begin = Mock()
    monkeypatch.setattr("worker.management.commands.qcluster.begin_as", begin)
    prodserver("other")
    begin.assert_called_once_with("other")
    start.assert_called_once_with()


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


@pytest.mark.parametrize("queue", ["default", "queue"])
@pytest.mark.django_db
def test_a_release_checks_migrates_and_creates_the_cache(
    queue: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "orm": queue}
    monkeypatch.setattr("worker.management.commands.release.require_database", Mock())
    steps: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "worker.management.commands.release.call_command", lambda *args, **options: steps.append((*args, options))
    )
    call_command("release")
    assert steps == [
        ("check", {"deploy": True, "fail_level": "WARNING"}),
        *[
            ("migrate", {"database": alias, "interactive": False, "skip_checks": False})
            for alias in dict.fromkeys(["default", queue])
        ],
        ("createcachetable", {}),
    ]


@alike_elsewhere
@pytest.mark.parametrize("command", ["prodserver", "server"])
def test_web_ends_with_0_after_sigterm(command: str, environment: dict[str, str], tmp_path: Path) -> None:
    with running("web", {**environment, "PORT": str(free_port())}, tmp_path, command, "web") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@alike_elsewhere
def test_production_without_a_database_starts_nothing(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    production = {**environment, "DEBUG": "false", "SECRET_KEY": "k" * 60}
    for command in (["prodserver", "web"], ["qcluster"]):
        done = manage(*command, env=production)
        sentence = "CommandError: DATABASE_URL is not set, and DEBUG is off. Set it to a server's, as in "
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith(sentence)


def test_qcluster_runs_the_cluster_that_it_names(start: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Mock()
    monkeypatch.setattr("worker.management.commands.qcluster.begin_as", begin)
    for arguments in ([], ["--name", "a"], ["-n", "a"]):
        call_command("qcluster", *arguments)
    assert [call.args for call in begin.call_args_list] == [("",), ("a",), ("a",)]
    assert start.call_count == 3


@pytest.mark.parametrize("argument", ["--run-once", "--cluster-name=a"])
def test_an_option_that_qcluster_does_not_know_is_refused(argument: str) -> None:
    with pytest.raises(CommandError, match=f"unrecognized arguments: {argument}"):
        call_command("qcluster", argument)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("prodserver worker", signal.SIGTERM),
        ("worker worker", signal.SIGTERM),
        ("qcluster", signal.SIGTERM),
        ("prodserver worker", signal.SIGHUP),
    ],
)
def test_a_worker_ends_with_0_after_a_signal_to_its_whole_group(
    command: str, number: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    with running("worker", {**environment, "TMPDIR": str(tmp_path)}, tmp_path, *command.split()) as process:
        os.killpg(process.pid, number)
        assert process.wait(30) == 0
    assert "has stopped" in (tmp_path / "worker.log").read_text()


@pytest.fixture
def production(environment: dict[str, str], settings: Settings, tmp_path: Path) -> dict[str, str]:
    """Provide the variables of a worker in production."""
    mine = {"DEBUG": "false", "SECRET_KEY": settings.SECRET_KEY, "TMPDIR": str(tmp_path)}
    return {**environment, **mine, "DATABASE_URL": os.environ["DATABASE_URL"]}


def test_a_signal_that_means_nothing_to_a_worker_ends_none_of_its_processes(
    production: dict[str, str], tmp_path: Path
) -> None:
    with running("worker", production, tmp_path) as process:
        for pid in (process.pid, *children(process.pid)):
            for name in MEANINGLESS:
                os.kill(pid, getattr(signal, name))
        process.terminate()
        assert process.wait(30) == 0
    log = (tmp_path / "worker.log").read_text()
    assert "has stopped" in log
    assert "died" not in log


def test_a_worker_has_a_group_of_its_own_which_is_all_that_a_task_can_end_by_it(
    production: dict[str, str], tmp_path: Path
) -> None:
    with running("worker", {**production, "Q_WORKERS": "3"}, tmp_path) as process:
        groups = {pid: os.getpgid(pid) for pid in children(process.pid)}
    assert sorted(group == pid for pid, group in groups.items()) == [False, True, True, True]  # the agent runs none


def children(pid: int) -> list[int]:
    """Return the processes that one has started."""
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def test_a_worker_that_may_open_too_few_files_ends_with_a_sentence_also_without_an_output(
    environment: dict[str, str],
) -> None:
    command = ["sh", "-c", 'ulimit -n 60; exec "$0" manage.py prodserver worker >&-', sys.executable]
    env = variables({**environment, "Q_WORKERS": "64"})
    done = subprocess.run(command, cwd=PROJECT, env=env, stderr=subprocess.PIPE, text=True, check=False)
    sentence = "CommandError: 64 workers need 192 open files, and 60 are allowed here: raise that limit (`ulimit -n`)"
    assert (done.returncode, done.stderr) == (1, f"{sentence}, or lower Q_WORKERS.\n")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("health_check worker >&-", 1, " is not running on this host\n"),
        ("prodserver --list 2>&-", 0, "\nworker\n"),
        ("prodserver worker >/dev/full", 1, "CommandError: worker cannot go on (OSError: [Errno 28] "),
    ],
)
def test_an_output_that_is_closed_or_full_is_answered_with_no_traceback(
    command: str, code: int, said: str, environment: dict[str, str], tmp_path: Path
) -> None:
    env = variables({**environment, "TMPDIR": str(tmp_path)})
    shell = ["sh", "-c", f'exec "$0" manage.py {command}', sys.executable]
    done = subprocess.run(shell, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_may_open_more_files_if_it_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = Mock()
    monkeypatch.setattr("resource.getrlimit", lambda _: (60, resource.RLIM_INFINITY))
    monkeypatch.setattr("resource.setrlimit", allowed)
    room_for_files(64)
    allowed.assert_called_once_with(resource.RLIMIT_NOFILE, (192, resource.RLIM_INFINITY))


def test_a_stop_that_comes_while_a_worker_is_being_started_ends_it_with_0(
    environment: dict[str, str], tmp_path: Path
) -> None:
    # In short sleeps: a signal that comes just before one is heard after it, and starting imports other things, too.
    (tmp_path / "slow.py").write_text("import time; print('here', flush=True)\nfor _ in range(600): time.sleep(0.1)")
    env = variables({**environment, "PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "slow"})
    command = [sys.executable, "manage.py", "prodserver", "worker"]
    with subprocess.Popen(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"here\n"
        process.terminate()
        assert process.wait(30) == 0


@alike_elsewhere
def test_a_log_that_nobody_reads_any_more_is_no_error(environment: dict[str, str], tmp_path: Path) -> None:
    command = ["sh", "-c", '"$0" manage.py prodserver worker | head -1', sys.executable]
    env = variables({**environment, "TMPDIR": str(tmp_path)})
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(command, cwd=PROJECT, env=env, stderr=errors, start_new_session=True)
        wait_for(lambda: manage("health_check", "worker", env=env).returncode == 0, "health of the worker")
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    assert (tmp_path / "errors").read_text() == ""


def test_each_event_is_logged_in_one_line(site: Site) -> None:
    log = (site.logs / "worker.log").read_text()
    assert len(re.findall(r"Q Cluster \S+ \[\S+\] running", log)) == 1


def test_each_process_starts_once(site: Site) -> None:
    for name in site.processes:
        assert (site.logs / f"{name}.log").read_text().count("Starting process named") == 1, name


@pytest.mark.parametrize("offer", OFFERS)
def test_a_task_that_web_queues_is_run_by_a_worker(site: Site, offer: str) -> None:
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    page = browser.open(site.url).read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token
    form = {"csrfmiddlewaretoken": token[1], "text": "one two three", "offer": offer}
    sent = browser.open(f"{site.url}/tasks/", urllib.parse.urlencode(form).encode())

    def state() -> dict[str, Any]:
        request = urllib.request.Request(sent.url, headers={"Accept": "application/json"})  # noqa: S310
        answer: dict[str, Any] = json.load(browser.open(request))
        return answer

    wait_for(lambda: state()["done"], "result of the task")
    assert "3" in state()["text"]


LOADED = """
import json, sys
from django.conf import settings
from django.contrib import admin
from django.core.handlers.wsgi import WSGIHandler
from worker.queue import metrics

admin.autodiscover()
WSGIHandler()
__import__(settings.ROOT_URLCONF)
print(json.dumps(sorted(name for name in sys.modules if name.startswith("worker.cluster"))))
"""


def test_the_site_loads_nothing_of_what_runs_tasks() -> None:
    done = manage("shell", "--no-imports", "-c", LOADED, env={"DEBUG": "true"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
