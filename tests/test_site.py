"""What strangers, slow clients and broken proxies do to a site that runs as in production, by its real server."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlencode, urljoin

import pytest

from tests import servers
from tests.browser import HOST, Browser, Page, ask, status
from tests.combinations import COMBINATIONS, Combination
from tests.hostings import settings
from tests.interpreters import for_combination
from tests.processes import Command, Process, free_port, started
from tests.projects import PRODUCTION, Environments, Workplace
from tests.test_docs import caddy, caddyfile
from tests.test_run import events

CLIENTS = 30
USER = {"DJANGO_SUPERUSER_USERNAME": "me", "DJANGO_SUPERUSER_PASSWORD": "a-Secret-of-me", "DJANGO_SUPERUSER_EMAIL": ""}
BEHIND_PROXY = {"Host": HOST, "X-Forwarded-Proto": "https"}
POST = f"POST /nowhere/ HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-Proto: https\r\n"


@dataclass
class Site:
    """A web server, alone with the servers that it needs."""

    workplace: Workplace
    process: Process
    port: int
    redis: int  #: the port of the broker's server

    def logged(self, beginning: str) -> list[dict[str, object]]:
        """Return what it has logged of messages that begin so."""
        return [it for it in events(self.process) if str(it["message"]).startswith(beginning)]

    def signed_in(self) -> Browser:
        """Return the browser of somebody who may do all."""
        browser = Browser(self.port)
        fields = Page(browser.get("/admin/login/").text).fields
        secret = {"username": USER["DJANGO_SUPERUSER_USERNAME"], "password": USER["DJANGO_SUPERUSER_PASSWORD"]}
        assert browser.post("/admin/login/", fields | secret).status == 302
        return browser

    @contextmanager
    def frozen_broker(self) -> Iterator[None]:
        """Stop the broker's server in its tracks: its port takes connections, and nothing answers."""
        with socket.create_connection(("127.0.0.1", self.redis)) as client:
            client.sendall(b"INFO server\r\n")
            (pid,) = map(int, re.findall(rb"process_id:(\d+)", client.recv(10_000)))
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest,
    bake: Callable[[Combination], Path],
    environments: Environments,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Run web, which gives slow clients less time than it says, since the tests wait for it."""
    combination = next(
        it for it in COMBINATIONS if (it.broker, it.hosting, it.django_version) == ("redis", "docker", request.param)
    )
    folder = tmp_path_factory.mktemp("site")
    workplace = Workplace.of(bake(combination), for_combination(combination), environments, folder)
    module = workplace.path / "worker/gunicorn.py"
    text = module.read_text().replace("HEAD = 10.0", "HEAD = 2.0").replace("BODY = 20.0", "BODY = 4.0")
    assert text != module.read_text()
    module.write_text(text)
    port = free_port()
    with servers.sqlite(folder) as database, servers.redis(folder) as broker:
        # Some platforms let gunicorn believe the headers of whoever asks.
        environment = {**PRODUCTION, **database, **broker, "PORT": str(port), "FORWARDED_ALLOW_IPS": "*"}
        for command in (["release"], ["collectstatic", "--noinput"]):
            workplace.manage(*command, environment=environment)
        workplace.manage("createsuperuser", "--noinput", environment=environment | USER)
        web: Command = [workplace.python, "manage.py", "prodserver", "web"]
        with started("web", web, workplace.path, workplace.environment(environment), folder) as process:
            process.wait_until(lambda: status(port, "/livez") == 200, "an answer to /livez")
            yield Site(workplace, process, port, int(broker["REDIS_URL"].rpartition(":")[2].partition("/")[0]))


def on(*versions: str) -> pytest.MarkDecorator:
    """Run a test on a site of each of these Djangos."""
    return pytest.mark.parametrize(
        "site", [pytest.param(it, marks=pytest.mark.xdist_group(f"redis-{it}")) for it in versions], indirect=True
    )


class Slow:
    """A client that sends the first part at once, and from then on a byte a second."""

    def __init__(self, first: str, connection: socket.socket) -> None:
        """Begin."""
        self.connection, self.is_open = connection, True
        connection.sendall(first.encode())
        connection.settimeout(0.001)

    def send(self) -> None:
        """Send a byte, and note whether the server has given up."""
        try:
            self.connection.sendall(b"x")
            self.is_open = self.connection.recv(1000) != b""
        except TimeoutError:
            pass
        except OSError:
            self.is_open = False


HEAD = "GET / HTTP/1.1\r\nX: "
BODY = f"{POST}Content-Length: 1000000\r\n\r\n"
CHUNKS = f"{POST}Transfer-Encoding: chunked\r\n\r\nfffff\r\n"


def send_all(clients: list[Slow]) -> None:
    """Let each send a byte."""
    for client in clients:
        client.send()


@contextmanager
def slow_clients(connect: Callable[[], socket.socket], *firsts: str) -> Iterator[list[Slow]]:
    """Let so many clients come for each of these beginnings."""
    with ExitStack() as stack:
        yield [Slow(first, stack.enter_context(connect())) for first in firsts * CLIENTS]


def longest_wait(livez: Callable[[], int], until: Callable[[], bool], each_second: Callable[[], None]) -> float:
    """Ask /livez until something is so; return how long the slowest answer took."""
    longest, last, end = 0.0, float("-inf"), time.monotonic() + 60
    while not until():
        assert time.monotonic() < end, "it has no end"
        if time.monotonic() - last >= 1:
            each_second()
            last = time.monotonic()
        begun = time.monotonic()
        assert livez() == 200
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.02)
    return longest


@on("5.2")
def test_slow_clients_hold_up_nobody_and_are_cut_off(site: Site) -> None:
    connect = partial(socket.create_connection, ("127.0.0.1", site.port))
    with slow_clients(connect, HEAD, BODY, CHUNKS) as clients:

        def each_second() -> None:
            send_all(clients)
            assert Browser(site.port).get("/").status == 200, "the pages are there as well"

        waited = longest_wait(
            lambda: status(site.port, "/livez"), lambda: not any(it.is_open for it in clients), each_second
        )
    assert waited < 1


@on("5.2")
def test_slow_clients_hold_up_nobody_behind_the_proxy_of_the_page(site: Site, tmp_path: Path) -> None:
    block = caddyfile(site.workplace.path, site.port, free_port())
    assert {"read_header 10s", "read_body 2m"} <= {line.strip() for line in block.splitlines()}
    with caddy(block.replace("read_header 10s", "read_header 2s").replace("2m", "3s"), tmp_path) as (visitor, _):

        def connect() -> socket.socket:
            here = socket.create_connection(("127.0.0.1", visitor.port))
            return visitor.context.wrap_socket(here, server_hostname=HOST)

        with slow_clients(connect, HEAD, BODY) as clients:
            waited = longest_wait(
                lambda: visitor.get("/livez").status,
                lambda: not any(it.is_open for it in clients),
                partial(send_all, clients),
            )
        assert waited < 1
        headers = {"Content-Length": "10000001", "Origin": f"https://{HOST}"}
        assert visitor.ask("POST", "/", headers).status == 413


def raw(port: int, request: str, *bodies: bytes) -> str:
    """Send a request as it is, and return what comes until the server closes, or the first of it if there is a body."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        said = b""
        for body in bodies:
            said += connection.recv(1000)
            connection.sendall(body)
        while data := connection.recv(1000):
            said += data
        return said.decode()


@on("5.2")
def test_what_is_too_large_is_refused_before_it_is_read(site: Site) -> None:
    said = raw(site.port, f"{POST}Expect: 100-continue\r\nContent-Length: 10000001\r\n\r\n")
    assert said.startswith("HTTP/1.1 413 ")
    assert "No more than 10 MB can be sent at once.\n" in said
    (line,) = site.logged("POST /nowhere/: ")
    assert line["message"] == "POST /nowhere/: No more than 10 MB can be sent at once. MAX_UPLOAD_MB raises that."
    assert line["levelname"] == "WARNING"
    said = raw(site.port, f"{POST}Transfer-Encoding: chunked\r\n\r\n{10_100_000:x}\r\n{'x' * 10_100_000}")
    assert said.startswith("HTTP/1.1 413 ")


@on("5.2")
def test_what_is_not_too_large_is_read(site: Site) -> None:
    fields = urlencode(USER | {"text": "x" * 200_000}).encode()
    head = f"{POST.replace('/nowhere/', '/admin/login/')}Connection: close\r\n"
    continued = f"{head}Expect: 100-continue\r\nContent-Length: {len(fields)}\r\n\r\n"
    said = raw(site.port, continued, fields)
    assert said.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 ")
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(fields), fields)
    said = raw(site.port, f"{head}Transfer-Encoding: chunked\r\n\r\n{chunks.decode()}")
    assert said.startswith("HTTP/1.1 403 ")


@on("5.2")
def test_a_frozen_broker_holds_up_no_probe_and_no_page_that_does_without(site: Site) -> None:
    browser = site.signed_in()
    page = Page(browser.get("/").text)
    form = {**page.fields, "text": "some words", **dict(page.buttons[:1])}
    with ThreadPoolExecutor(40) as pool, site.frozen_broker():
        ready = [pool.submit(status, site.port, "/readyz") for _ in range(40)]
        waited = longest_wait(lambda: browser.get("/").status, lambda: all(it.done() for it in ready), lambda: None)
        assert waited < 1
        assert {it.result() for it in ready} == {503}
        sent = [pool.submit(browser.post, page.action, form) for _ in range(8)]
        waited = longest_wait(lambda: status(site.port, "/livez"), lambda: all(it.done() for it in sent), lambda: None)
        assert waited < 1
        answers = {(it.result().status, it.result().text) for it in sent}
    assert answers == {(503, "A server that this page needs does not answer. Try again in a minute.\n")}
    lines = site.logged(f"POST {page.action}: a server does not answer (TimeoutError: ")
    assert len(lines) == len(sent)
    assert lines[0]["levelname"] == "ERROR"
    assert "exc_info" not in lines[0]
    site.process.wait_until(lambda: status(site.port, "/readyz") == 200, "an answer of the broker")


@on("5.2")
def test_a_client_cannot_say_where_the_site_is(site: Site) -> None:
    headers = {**BEHIND_PROXY, "SCRIPT_NAME": "/elsewhere", "X-Script-Name": "/elsewhere"}
    assert ask(site.port, "GET", "/admin/", headers).location == "/admin/login/?next=/admin/"
    assert ask(site.port, "GET", "/elsewhere/admin/", headers).status == 404


@on("5.2")
def test_what_came_by_http_in_part_did_not_come_by_https(site: Site) -> None:
    for said, location in {
        "https": None,
        "https, https": None,
        "https,http": f"https://{HOST}/",
        "http,https": f"https://{HOST}/",
        "http": f"https://{HOST}/",
    }.items():
        assert ask(site.port, "GET", "/", {"Host": HOST, "X-Forwarded-Proto": said}).location == location, said


@on("5.2")
def test_a_redirect_without_end_ends_in_a_sentence(site: Site) -> None:
    # As a browser sees it that comes by HTTPS to a proxy that goes on by HTTP, and says so.
    browser = Browser(site.port)
    said = {"X-Forwarded-Proto": "http"}
    redirect = browser.ask("GET", "/", said)
    assert (redirect.status, redirect.location) == (301, f"https://{HOST}/")
    (cookie,) = browser.cookies.values()
    assert cookie.key.startswith("__Host-"), "a browser would keep it though it came by HTTP"
    assert (cookie["secure"], cookie["path"], cookie["domain"]) == (True, "/", "")
    end = browser.ask("GET", "/", said)
    assert end.status == 500
    assert end.text.startswith("The browser came by HTTPS, but the proxy before this site says 'http' in X-Forwarded-P")
    assert browser.get("/").status == 200, "once the proxy is mended"


@on("5.2", "6.1")
def test_the_policy_is_strict_and_the_admin_lives_with_it(site: Site) -> None:
    browser, seen, left = site.signed_in(), set[str](), {"/", "/admin/", "/admin/login/", "/admin/password_change/"}
    while left:
        path = left.pop()
        seen.add(path)
        answer = browser.get(path)
        assert answer.status in {200, 302}, f"{path}: {answer}"
        policy = dict(it.split(" ", 1) for it in answer.policy.split("; "))
        assert policy == {
            "default-src": "'self'",
            "img-src": "'self' data:",
            "base-uri": "'none'",
            "form-action": "'self'",
            "frame-ancestors": "'none'",
            "object-src": "'none'",
        }, path
        page = Page(answer.text)
        assert page.inline == [], path
        assert all(file.startswith(("/", "data:")) for file in page.files), path
        links = (urljoin(path, link).partition("?")[0] for link in page.links if "logout" not in link)
        left |= {link for link in links if link.startswith("/admin/") and "jsi18n" not in link} - seen
    assert len(seen) > 20, seen


@on("5.2")
def test_https_can_be_left_to_others(site: Site) -> None:
    environment = {**PRODUCTION, "DATABASE_URL": "postgres://me:pw@db/site", "DEBUG": "false"}
    off, year = {"SECURE_SSL_REDIRECT": "false", "SECURE_HSTS_SECONDS": "0"}, {"SECURE_HSTS_SECONDS": "31536000"}
    check = ["check", "--deploy", "--fail-level", "WARNING"]
    site.workplace.manage(*check, environment=environment | off)
    for said, redirect, seconds in ({}, True, 3600), (off, False, 0), (year, True, 31536000):
        found = settings(site.workplace.path, said)
        assert (found["SECURE_SSL_REDIRECT"], found["SECURE_HSTS_SECONDS"]) == (redirect, seconds)
