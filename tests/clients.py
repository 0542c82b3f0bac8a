"""A site that runs as in production, and the clients that come to it: slow ones, broken ones, browsers."""

import os
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import servers
from tests.browser import HOST, Browser, Page, status
from tests.processes import Command, Process, free_port, started
from tests.projects import PRODUCTION, Workplace
from tests.test_run import events

CLIENTS = 30
USER = {"DJANGO_SUPERUSER_USERNAME": "me", "DJANGO_SUPERUSER_PASSWORD": "a-Secret-of-me", "DJANGO_SUPERUSER_EMAIL": ""}
BEHIND_PROXY = {"Host": HOST, "X-Forwarded-Proto": "https"}
LESS = {  #: what the tests can wait for, and what they can fill
    "THREADS = 80": "THREADS = 20",
    "HEAD = 10.0": "HEAD = 2.0",
    "BODY = 20.0": "BODY = 2.0",
    "BoundedSemaphore(8)": "BoundedSemaphore(2)",
    "FILE = 10.0": "FILE = 4.0",
    "ANSWER = 20.0": "ANSWER = 1.0",
}
SIZE = 20_000_000  #: bytes of a large answer
PAGES = f"""
from pathlib import Path

from django.db import OperationalError
from django.http import FileResponse, HttpResponse, StreamingHttpResponse

Path("large").write_bytes(b"x" * {SIZE})


def late():
    yield b"some"
    raise TimeoutError("the page's own")


def away(request):
    raise OperationalError("nobody is there")


urlpatterns += [
    path("large/", lambda request: HttpResponse(b"x" * {SIZE})),
    path("file/", lambda request: FileResponse(open("large", "rb"))),
    path("stream/", lambda request: StreamingHttpResponse(b"x" * {SIZE // 10} for _ in range(10))),
    path("late/", lambda request: StreamingHttpResponse(late())),
    path("away/", away),
    path("broken/", lambda request: 1 / 0),
]
"""
SETTINGS = """
PRODUCTION_PROCESSES["web"]["ARGS"]["keep-alive"] = env.str("KEEP_ALIVE", "95")
"""
GET = f"GET {{}} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-Proto: https\r\n"
POST = f"POST /nowhere/ HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-Proto: https\r\n"


@dataclass
class Site:
    """A web server, alone with the servers that it needs."""

    workplace: Workplace
    process: Process
    port: int
    environment: dict[str, str]

    def connect(self) -> socket.socket:
        """Come to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    @contextmanager
    def another(self, **variables: str) -> Iterator["Site"]:
        """Run the same with other variables."""
        port = free_port()
        environment = self.environment | {"PORT": str(port)} | variables
        folder = self.workplace.path / str(port)
        folder.mkdir()
        few: Command = ["prlimit", "--nofile=1024:8192"]  # as it is on many systems
        web: Command = [*few, self.workplace.python, "manage.py", "prodserver", "web"]
        everything = self.workplace.environment(environment)
        with started("web", web, self.workplace.path, everything, folder) as process:
            process.wait_until(lambda: status(port, "/livez") == 200, "an answer to /livez")
            yield Site(self.workplace, process, port, environment)

    def servers(self) -> list[int]:
        """Return its processes that answer."""
        return [pid for pid in self.process.session() if pid != self.process.popen.pid]

    def bodies(self) -> list[int]:
        """Return how many files with bodies each of them has."""
        folder = str(self.workplace.temporary)
        return [sum(it.startswith(folder) for it in opened(pid)) for pid in self.servers()]

    @contextmanager
    def small_disk(self) -> Iterator[None]:
        """Let no file of its processes become larger than now fits the log."""
        before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in self.servers()}
        try:
            for pid, (_, hard) in before.items():
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (300_000, hard))
            yield
        finally:
            for pid, limits in before.items():
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

    def logged(self, beginning: str) -> list[dict[str, object]]:
        """Return what it has logged of messages that begin so."""
        return [it for it in events(self.process) if str(it["message"]).startswith(beginning)]

    def complaints(self) -> list[dict[str, object]]:
        """Return what it has logged beside that its processes start."""
        return [it for it in self.logged("") if it["levelname"] != "INFO"]

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
        with socket.create_connection(("127.0.0.1", int(urlsplit(self.environment["REDIS_URL"]).port or 0))) as client:
            client.sendall(b"INFO server\r\n")
            (pid,) = map(int, re.findall(rb"process_id:(\d+)", client.recv(10_000)))
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def on(*versions: str) -> pytest.MarkDecorator:
    """Run a test on a site of each of these Djangos."""
    return pytest.mark.parametrize(
        "site", [pytest.param(it, marks=pytest.mark.xdist_group(f"redis-{it}")) for it in versions], indirect=True
    )


@contextmanager
def serve(workplace: Workplace, folder: Path) -> Iterator[Site]:
    """Run web, which gives clients less than it says, since the tests wait for it."""
    modules = [workplace.path / f"worker/web/{name}.py" for name in ("gunicorn", "http")]
    for much, less in LESS.items():
        (module,) = (it for it in modules if much in it.read_text())
        module.write_text(module.read_text().replace(much, less))
    for name, more in ("urls", PAGES), ("settings", SETTINGS):
        with (workplace.path / f"config/{name}.py").open("a") as file:
            file.write(more)
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
            yield Site(workplace, process, port, environment)


def opened(pid: int) -> Iterator[str]:
    """Yield the files that a process has open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield str(link.readlink())


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


def steadily(site: Site, path: str, pace: float) -> int:
    """Ask for a large answer, take so many bytes of it a second, and return how many came."""
    with site.connect() as connection:
        connection.sendall(f"{GET.format(path)}Connection: close\r\n\r\n".encode())
        begun, count = time.monotonic(), 0
        while data := connection.recv(100_000):
            count += len(data)
            time.sleep(max(begun + count / pace - time.monotonic(), 0))
    return count
