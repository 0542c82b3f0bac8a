"""What a project tells of its tasks: by its log, to Sentry, by mail and in traces, as its processes run."""

import gzip
import http.client
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

from tests.browser import HOST, status
from tests.combinations import CHOICES, COMBINATIONS, TEMPLATE, Combination, each
from tests.processes import Command, Process, free_port, run, started
from tests.projects import PRODUCTION, Workplace
from tests.test_demo import Terminal
from tests.test_mail_and_files import Letterbox, letterbox
from tests.test_run import events

of_each_django = [next(it for it in COMBINATIONS if it.django_version == name) for name in CHOICES["django_version"]]
SETTINGS = 'ROOT_URLCONF, APPEND_SLASH = "reported_urls", False\n'
URLS = """
from django.urls import path
from config.urls import urlpatterns
from reported import page
urlpatterns = [path("report/<name>", page), *urlpatterns]
"""
ODD_IDS = ("", "a b", "a" * 65, "a,b", "{x}", "\u00e9", "a;b", '"a"', "%0a")  #: that no log should have to bear


@dataclass
class Receiver:
    """Takes events as Sentry does."""

    port: int
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        """Its address."""
        return f"http://the-key@127.0.0.1:{self.port}/7"

    def of(self, task: str) -> list[dict[str, Any]]:
        """Return the events of a task."""
        return [it for it in self.events if it["tags"].get("task") == task]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Serve one on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/api/7/envelope/"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            lines = gzip.decompress(body).split(b"\n")
            for head, content in zip(lines[1::2], lines[2::2], strict=False):
                if json.loads(head)["type"] == "event":
                    found.events.append(json.loads(content))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Receiver(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


@pytest.fixture(scope="module")
def reporters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages that a project may add: all Python, and so for each interpreter."""
    folder = tmp_path_factory.mktemp("reporters")
    which: Command = ["--group", f"{TEMPLATE / 'pyproject.toml'}:reporters", "--target", folder]
    run([find_uv_bin(), "pip", "install", "--quiet", *which], TEMPLATE, os.environ)
    return folder


def strictly(line: str) -> Any:
    """Return an event of the log, as others read it who know no NaN."""
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON: {line}"))


@dataclass
class Site:
    """Web and a worker."""

    web: Process
    worker: Process
    port: int
    environment: dict[str, str]

    def get(self, name: str, request_id: str = "") -> tuple[str, str | None]:
        """Ask for the page of a task; return its id, and that of the request."""
        headers = {"Host": HOST, "X-Forwarded-Proto": "https", **({"X-Request-ID": request_id} if request_id else {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", f"/report/{name}", headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, text
        return text, answer.getheader("X-Request-ID")

    def lines(self, beginning: str, **keys: object) -> list[dict[str, Any]]:
        """Return the worker's lines that begin so, and have these keys."""
        return [
            line
            for line in map(strictly, self.worker.out.read_text().splitlines())
            if line["message"].startswith(beginning) and keys.items() <= line.items()
        ]

    def wait_for(self, beginning: str, **keys: object) -> dict[str, Any]:
        """Wait for such a line."""
        return self.worker.wait_until(lambda: next(iter(self.lines(beginning, **keys)), None), f"{beginning} {keys}")


@contextmanager
def running(workplace: Workplace, packages: Path, **variables: str) -> Iterator[Site]:
    """Run web and a worker as in production, with the tasks and pages of the tests."""
    shutil.copy(TEMPLATE / "tests" / "inside" / "reported.py", workplace.path)
    (workplace.path / "reported_urls.py").write_text(URLS)
    (workplace.path / "reported_settings.py").write_text(f"from config.settings import *\n{SETTINGS}")
    port = free_port()
    database = f"sqlite:///{workplace.temporary / 'database.sqlite3'}"
    own = {"DATABASE_URL": database, "PORT": str(port), "WEB_CONCURRENCY": "1", "PYTHONPATH": str(packages)}
    environment = {**PRODUCTION, **own, "DJANGO_SETTINGS_MODULE": "reported_settings", **variables}
    workplace.manage("release", environment=environment)
    everything, (web, worker) = workplace.environment(environment), ("web", "worker")
    command: Command = [workplace.python, "manage.py", "prodserver"]
    with (
        started(web, [*command, web], workplace.path, everything, workplace.temporary) as first,
        started(worker, [*command, worker], workplace.path, everything, workplace.temporary) as second,
    ):
        first.wait_until(lambda: status(port, "/livez") == 200, "an answer to /livez")
        yield Site(first, second, port, environment)
        assert second.stop() == 0, second.log()
        first.stop()


@each("", lambda combination: iter([()]), of_each_django)
def test_the_log_sentry_and_traces_tell_of_tasks(
    combination: Combination, workplace: Workplace, reporters: Path
) -> None:
    spans = workplace.temporary / "spans"
    with receiver() as sentry, running(workplace, reporters, SENTRY_DSN=sentry.dsn, SPANS=str(spans)) as site:
        # First those that end their workers, which would take along spans that are not sent yet.
        ids = {"die": site.get("die", "id-of/die")}
        site.wait_for("Failed 'reported.die'", task_id=ids["die"][0])
        task_id, _ = site.get("last", "id-of/last")
        row = f"task={task_id!r}, by='ada', since=timezone.now()"
        imports = "from django.utils import timezone; from worker.models import Cancellation"
        cancel = f"{imports}; Cancellation.objects.create({row})"
        site.worker.wait_until(lambda: site.lines("Worker-", task_id=task_id), "the beginning of a task")
        workplace.manage("shell", "-v0", "-c", cancel, environment=site.environment)
        (told,) = [site.wait_for("Failed 'reported.last'", task_id=task_id, request_id="id-of/last")]
        assert "Cancelled by ada" in told["message"]
        ids |= {name: site.get(name, f"id-of/{name}") for name in ("fail", "mend", "clash", "collide", "odd")}
        ids |= {name: site.get(name, f"id-of/{name}") for name in ("queue_another", "chain")}
        assert {name: request_id for name, (_, request_id) in ids.items()} == {name: f"id-of/{name}" for name in ids}
        for given in ODD_IDS:
            assert re.fullmatch("[0-9a-f]{32}", site.get("collide", given)[1] or "")
        for name, (task_id, _) in list(ids.items())[:6]:
            what = "Failed" if name in {"fail", "die", "clash"} else "Processed"
            site.wait_for(f"{what} 'reported.{name}'", task_id=task_id, **({"attempt": 3} if name == "fail" else {}))
        for name in ("queued", "last"):
            site.wait_for(f"link {name}")
        check_failures(site, ids["fail"][0])
        check_lines(site, {name: task_id for name, (task_id, _) in ids.items()})
        check_web(site)
        site.worker.wait_until(lambda: len(sentry.events) >= 3, "events")
    check_events(sentry, ids["fail"][0])
    check_spans([json.loads(line) for line in spans.read_text().splitlines()])


def check_failures(site: Site, task_id: str) -> None:
    """Each attempt that fails has one line, with all keys, and its traceback in one of them."""
    first, _, last = lines = site.lines("Failed 'reported.fail'", task_id=task_id)
    common = {"task": "reported.fail", "queue": "default", "of": 3, "request_id": "id-of/fail", "levelname": "ERROR"}
    assert [line["attempt"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert common.items() <= line.items(), line
        assert "\n" not in line["message"]
        assert "ValueError: no luck; attempt " in line["message"]
        assert line["traceback"].startswith("Traceback (most recent call last):\n")
        assert line["duration"] >= 0
        assert line["wait"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["next_try"])
    assert "next_try" not in last
    own = site.lines("a line of its own", task_id=task_id)
    assert [line["attempt"] for line in own] == [1, 2, 3]
    assert all((common | {"levelname": "INFO", "colour": "red"}).items() <= line.items() for line in own)
    other = [line for line in site.lines("") if line.get("task_id") == task_id and "traceback" in line]
    assert other == lines, "a failure has more than one line"


def check_lines(site: Site, ids: dict[str, str]) -> None:
    """Whatever a task logs comes out, and no line is another task's."""
    (mine,) = site.lines("mine", request_id="id-of/collide")
    assert (mine["task_id"], mine["task"], mine["traceback"]) == ("mine", "reported.collide", ["mine"])
    assert mine["attempt"].startswith("<object")
    assert mine["timestamp"] != "mine"
    assert site.lines("half ?, none \0, whole \U0001f600", task_id=ids["odd"], attempt=1, levelname="WARNING")
    for said in ("nan", "'deep': inf", "1): 'a tuple'", "[...]", "int: ValueError"):
        assert [it for it in site.lines("odd extra", task_id=ids["odd"]) if said in str(it["it"])], said
    assert site.lines("odd extra", task_id=ids["odd"], **{"('no', 'text')": 1})
    assert site.lines("in a thread", task_id=ids["odd"], request_id="id-of/odd")
    assert "KeyError" in site.lines("Failed 'reported.clash'", task_id=ids["clash"])[0]["message"]
    assert site.lines("Failed 'reported.die'", task_id=ids["die"], attempt=1, of=1, request_id="id-of/die")
    assert any("SIGKILL" in line["message"] for line in site.lines("Worker-", task_id=ids["die"], task="reported.die"))
    assert site.lines("link queued", request_id="id-of/queue_another", task="reported.link")
    assert site.lines("Enqueued", request_id="id-of/queue_another", task="reported.link")
    for name in ("first", "last"):
        assert site.lines(f"link {name}", request_id="id-of/chain"), name
    for line in site.lines("Processed"):
        assert {"task_id", "task", "queue", "attempt", "duration", "wait"} <= line.keys(), line


def check_web(site: Site) -> None:
    """Lines of web have the request's id, and that about a task which is queued its keys."""
    lines = [line for line in events(site.web) if line.get("request_id") == "id-of/fail"]
    assert [str(line["message"]).partition(" ")[0] for line in lines] == ["page", "Enqueued"]
    keys = {"task": "reported.fail", "queue": "default"}
    assert keys.items() <= lines[1].items()


def check_events(sentry: Receiver, task_id: str) -> None:
    """Each task that has failed for good is one event, and none else."""
    (fail,) = sentry.of("reported.fail")
    (die,) = sentry.of("reported.die")
    (clash,) = sentry.of("reported.clash")
    assert {it["event_id"] for it in sentry.events} == {it["event_id"] for it in (fail, die, clash)}, sentry.events
    assert fail["fingerprint"] == ["reported.fail", "builtins.ValueError"]
    tags = {"task_id": task_id, "queue": "default", "attempt": "3", "of": "3", "request_id": "id-of/fail"}
    assert tags.items() <= {name: str(value) for name, value in fail["tags"].items()}.items()
    (raised,) = fail["exception"]["values"]
    assert (raised["type"], raised["value"]) == ("ValueError", "no luck")
    assert raised["stacktrace"]["frames"][-1]["function"] == "fail"
    crumbs = [it["message"] for it in fail["breadcrumbs"]["values"] if it["category"] == "task"]
    assert crumbs == ["attempt 1: ValueError: no luck", "attempt 2: ValueError: no luck"]
    assert die["fingerprint"] == ["reported.die", "worker.policy.WorkerDied"]
    assert "The worker died (SIGKILL) while it ran this task" in str(die["message"])
    assert "exception" not in die


def check_spans(spans: list[dict[str, Any]]) -> None:
    """Whatever a request has set off is one trace."""
    for task, number in {"fail": 3, "mend": 2, "collide": 1}.items():
        ours = [it for it in spans if it["attributes"].get("code.function.name") == f"reported.{task}"]
        requests = {it["context"]["span_id"]: it["context"]["trace_id"] for it in spans if it["name"] == "request"}
        by_trace = [it for it in ours if it["context"]["trace_id"] == ours[0]["context"]["trace_id"]]
        assert len(by_trace) == number, task
        assert all(requests[it["parent_id"]] == it["context"]["trace_id"] for it in ours)
        assert {(it["name"], it["kind"]) for it in ours} == {("process default", "SpanKind.CONSUMER")}
    failed = next(it for it in spans if it["attributes"].get("code.function.name") == "reported.fail")
    assert failed["status"]["status_code"] == "ERROR"
    assert failed["events"][0]["attributes"]["exception.message"] == "no luck"
    links = [it for it in spans if it["attributes"].get("code.function.name") == "reported.link"]
    number_of = [sum(it["context"]["trace_id"] == each["context"]["trace_id"] for it in links) for each in links]
    assert sorted(number_of) == [1, 2, 2], "the links of a chain are not in one trace"


@each("", lambda combination: iter([()]), of_each_django)
def test_failures_are_mailed_once_an_hour_where_there_is_no_sentry(
    combination: Combination, workplace: Workplace, reporters: Path
) -> None:
    Letterbox.letters.clear()
    ids = []
    with letterbox() as port:
        variables = {"EMAIL_URL": f"smtp://127.0.0.1:{port}", "ADMINS": "ada@example.com", "Q_WORKERS": "2"}
        with running(workplace, reporters, **variables) as site:
            for name in ("fail", "fail", "fail", "fail", "mend", "die"):
                task_id, _ = site.get(name, "some-request")
                ids.append(task_id)
                what, attempt = ("Processed", 2) if name == "mend" else ("Failed", 3 if name == "fail" else 1)
                site.wait_for(f"{what} 'reported.{name}'", task_id=task_id, attempt=attempt)
            task_id, _ = site.get("imported")
            site.wait_for("Processed 'reported.imported'", task_id=task_id)
            variables |= {"DATABASE_URL": f"sqlite:///{workplace.temporary / 'database.sqlite3'}"}
            look = (
                "from django_q.models import Task; print(Task.objects.get(func='reported.imported').result);"
                "from django.db import connection as c;"
                "c.cursor().execute(\"DELETE FROM cache WHERE cache_key LIKE '%%worker.errors:%%' "
                "AND cache_key NOT LIKE '%%:count'\")"
            )
            printed = workplace.manage("shell", "-v0", "-c", look, environment={**PRODUCTION, **variables})
            assert printed.splitlines()[-1] == "[]", "packages are imported that nobody has asked for"
            site.worker.wait_until(lambda: len(Letterbox.letters) == 2, "two letters")
            task_id, _ = site.get("fail")
            site.wait_for("Failed 'reported.fail'", task_id=task_id, attempt=3)
            site.worker.wait_until(lambda: len(Letterbox.letters) == 3, "a third letter")
    first, died, second = (letter.decode().replace("=\r\n", "") for letter in Letterbox.letters)
    Letterbox.letters.clear()
    assert "Subject: [Django] reported.fail failed: ValueError: no luck\r\n" in first
    assert "\r\nrequest_id: some-request\r\n" in first
    assert "Traceback (most recent call last)" in first
    assert "more times" not in first
    assert f"\r\nRun it again with: python manage.py queue retry {ids[0]}\r\n" in first
    assert "reported.die has failed for good: WorkerDied: The worker died (SIGKILL)" in died
    assert "It has failed in this way 3 more times since the last mail." in second


@each("", lambda combination: iter([()]), of_each_django[:1])
def test_a_receiver_that_never_answers_delays_nothing(
    combination: Combination, workplace: Workplace, reporters: Path
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        running(
            workplace, reporters, SENTRY_DSN=f"http://key@127.0.0.1:{silent.getsockname()[1]}/7", Q_WORKERS="1"
        ) as it,
    ):
        begun = time.monotonic()
        for name in ("clash", "collide") * 5:
            task_id, _ = it.get(name)
        it.wait_for("Processed 'reported.collide'", task_id=task_id)
        assert time.monotonic() - begun < 20
        begun = time.monotonic()
    assert time.monotonic() - begun < 20


@each("", lambda combination: iter([()]), of_each_django[:1])
def test_a_wrong_address_of_sentry_is_told_in_a_sentence(
    combination: Combination, workplace: Workplace, reporters: Path
) -> None:
    for dsn in ("https://the-key@/7", "the-key", "https://the-key@sentry.example.com/", "ftp://the-key@a/7"):
        variables = {**PRODUCTION, "PYTHONPATH": str(reporters), "SENTRY_DSN": dsn}
        told = workplace.manage("check", environment=variables, expect=1)
        wanted = (
            "SENTRY_DSN is no address of a project at Sentry: write https://KEY@HOST/NUMBER, as its settings show it."
        )
        assert told == f"ImproperlyConfigured: {wanted}\n"
    told = workplace.manage("check", environment={**PRODUCTION, "SENTRY_DSN": dsn}, expect=1)
    assert told == "ImproperlyConfigured: SENTRY_DSN needs a package: run `uv add sentry-sdk`.\n"


@each("", lambda combination: iter([()]), of_each_django[:1])
def test_lines_have_colours_on_a_terminal_only(combination: Combination, workplace: Workplace) -> None:
    of_a_task = "extra=dict(task_id='0199aaaabbbbcccc' + 16 * 'd')"
    code = f"import logging; logging.error('loud'); logging.info('quiet', {of_a_task}); print('the end')"
    command = f'"{workplace.python}" manage.py shell -v0 -c "{code}"'

    def shown(**variables: str) -> str:
        terminal = Terminal(command, workplace.path, workplace.environment({"DEBUG": "true", **variables}))
        try:
            return terminal.read_until("the end", 60)
        finally:
            terminal.close()

    assert "\033[31mERROR\033[0m root: loud\r\nINFO root: quiet [0199aaaabbbbcccc]\r\n" in shown()
    assert "\033" not in shown(NO_COLOR="1")
    printed = workplace.manage("shell", "-v0", "-c", code, environment={"DEBUG": "true"})
    assert "ERROR root: loud\nINFO root: quiet [0199aaaabbbbcccc]\n" in printed
