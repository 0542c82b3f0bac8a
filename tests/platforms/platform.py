"""A platform that runs a project on this machine: its machines, its router, its visitors and its deploys."""

import http.client
import itertools
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import servers
from tests.hostings import Deployment, Described
from tests.platforms.facts import Facts, Order
from tests.processes import DEADLINE, PAUSE, Command, Process, free_port, run, started, succeeds
from tests.projects import PRODUCTION, Workplace

# Goes into the project: a task and a page that write into a ledger, and take until they are let go.
WORK = '''
import os
import subprocess
import time
from pathlib import Path

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django_q.tasks import async_task

FOLDER = Path({folder!r})


def note(line: str) -> None:
    """Write a line, at once and whole."""
    file = os.open(FOLDER / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{{line}}\\n".encode())
    os.close(file)


def work(name: str) -> None:
    """Take until the test lets it go, if the name says that it is long."""
    note(f"begin {{name}}")
    if name.startswith("long"):  # and leaves an orphan behind, which falls to PID 1 where that is not somebody else
        subprocess.run(["sh", "-c", '(sleep 0.1; echo "orphan $0" >> "$1") &', name, FOLDER / "ledger"])
    while name.startswith("long") and not (FOLDER / name).exists():
        time.sleep(0.05)
    note(f"end {{name}}")


def ask() -> None:
    """Ask the database, for long enough that others come meanwhile."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.2)")


def queue(request: HttpRequest, name: str) -> HttpResponse:
    """Queue a task."""
    async_task(work, name)
    return HttpResponse("queued")


def page(request: HttpRequest, name: str) -> HttpResponse:
    """Do in web what the task does in the worker."""
    work(name)
    return HttpResponse("done")


def busy(request: HttpRequest) -> HttpResponse:
    """Ask the database, and let a task of each queue do the same."""
    ask()
    for cluster in (None, *settings.Q_CLUSTER["ALT_CLUSTERS"]):
        async_task(ask, cluster=cluster)
    return HttpResponse("done")
'''
VISITORS = 24  #: at once, more than web has threads
STEADY = 30  #: looks in turn that have seen no further connection, after which there are no more
URLS = """
import work  # noqa: E402
from django.urls import path as path_of  # noqa: E402

urlpatterns += [
    path_of("queue/<name>/", work.queue),
    path_of("page/<name>/", work.page),
    path_of("busy/", work.busy),
]
"""


#: Makes a program what PID 1 is in a container: to whom the orphans of all that it has started fall (man 2 prctl).
AS_PID_1 = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); os.execvp(sys.argv[1], sys.argv[1:])"


def zombies(parent: int) -> list[str]:
    """Return what has ended, and waits for ever to be taken note of by this process."""
    found = [path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [name for name, _, rest in found if rest.split()[:2] == ["Z", str(parent)]]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fail the test if it takes too long."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come within {DEADLINE:.0f} s")
        time.sleep(PAUSE)


class Ledger:
    """What tasks and pages have noted, and the word that lets the long ones go."""

    def __init__(self, folder: Path) -> None:
        """Keep it in this folder."""
        self.folder = folder
        folder.mkdir()
        (folder / "ledger").touch()

    def count(self, event: str) -> Counter[str]:
        """Return how often each has noted this event."""
        lines = (line.split() for line in (self.folder / "ledger").read_text().splitlines())
        return Counter(name for found, name in lines if found == event)

    def let_go(self, name: str) -> None:
        """Let a long one come to its end."""
        (self.folder / name).touch()


class Router:
    """Hands visitors on to one of the machines of web; without any, they wait."""

    def __init__(self) -> None:
        """Know no machine yet."""
        self.ports: list[int] = []
        self.under_way: Counter[int] = Counter()
        self.lock = threading.Lock()

    @contextmanager
    def route(self) -> Iterator[int | None]:
        """Yield the port of a machine, if there is one."""
        with self.lock:
            port = min(self.ports, key=self.under_way.__getitem__) if self.ports else None
            if port:
                self.under_way[port] += 1
        try:
            yield port
        finally:
            with self.lock:
                if port:
                    self.under_way[port] -= 1

    def add(self, port: int) -> None:
        """Send visitors to a machine, too."""
        with self.lock:
            self.ports.append(port)

    def remove(self, port: int) -> None:
        """Send no further visitor to a machine, and wait until the usual ones have left it."""
        with self.lock:
            self.ports.remove(port)
        wait_until(lambda: not self.under_way[port], "the end of all requests")


@dataclass
class Machine:
    """A process of the project, on what it takes for a machine of its own."""

    name: str
    process: Process
    port: int
    window: int  #: seconds between SIGTERM and SIGKILL
    environment: Mapping[str, str]
    stopped: float = 0.0


@dataclass
class Platform:
    """A platform, and the project that it runs."""

    facts: Facts
    deployment: Deployment
    workplace: Workplace
    addresses: Mapping[str, str]
    stack: ExitStack
    ledger: Ledger

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.router, self.machines = Router(), list[Machine]()
        self.numbers = itertools.count(1)

    def environment(self, described: Described) -> dict[str, str]:
        """Return the variables of a process: the platform's, its file's, the user's, and those of its servers."""
        secret = {"SECRET_KEY": PRODUCTION["SECRET_KEY"]}
        return {**self.facts.variables, **self.facts.given, **described.environment, **secret, **self.addresses}

    def start(self, name: str) -> Machine:
        """Start a process as its file says, with a temporary folder that it shares with none."""
        number, port = next(self.numbers), free_port()
        described = self.deployment.processes[name]
        temporary = self.workplace.temporary / f"machine-{number}"
        temporary.mkdir()
        variables = {**self.environment(described), "PORT": str(port), "TMPDIR": str(temporary), "HOME": "/nonexistent"}
        variables["PGAPPNAME"] = name  # by which the database counts its connections
        environment = self.workplace.environment(variables)
        command = [str(self.workplace.python), "-c", AS_PID_1, *described.command.split()]
        logs = self.workplace.temporary
        process = self.stack.enter_context(started(f"{name}-{number}", command, self.workplace.path, environment, logs))
        machine = Machine(name, process, port, described.window - described.pause, environment)
        self.machines.append(machine)
        return machine

    def wait_until_well(self, machine: Machine) -> None:
        """Probe a process as the platform does, until it is well."""
        if machine.name == "web":
            machine.process.wait_until(lambda: self.probe(machine.port) == 200, f"200 from {self.facts.probe}")
        elif self.facts.runs_commands:
            command = ["python", "manage.py", "health_check", machine.name]
            machine.process.wait_until(
                lambda: succeeds(command, self.workplace.path, machine.environment), "a good health"
            )
        else:
            machine.process.wait_until(lambda: "running" in machine.process.log(), "the cluster's start")

    def probe(self, port: int) -> int:
        """Ask web as the platform's probe does; 0 stands for no answer."""
        connection = http.client.HTTPConnection(self.facts.address, port, timeout=5)
        try:
            connection.request("GET", self.facts.probe, headers={"Host": self.facts.probe_host})
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def ask(self, port: int, path: str) -> int:
        """Ask a machine as the platform's proxy hands on what a visitor asks; return the status."""
        connection = http.client.HTTPConnection(self.facts.address, port, timeout=DEADLINE)
        try:
            connection.request("GET", path, headers={"Host": self.facts.host, "X-Forwarded-Proto": "https"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def release(self, without: str = "") -> bool:
        """Run what the platform runs before a new version, and say whether it may take over."""
        variables = self.environment(self.deployment.processes["web"])
        environment = self.workplace.environment({name: text for name, text in variables.items() if name != without})
        done = subprocess.run(
            self.deployment.release.split(), cwd=self.workplace.path, env=environment, capture_output=True, check=False
        )
        return done.returncode == 0

    def first_deploy(self) -> None:
        """Start all processes of the first version."""
        assert self.release()
        names = [name for name in self.deployment.processes for _ in range(self.facts.webs if name == "web" else 1)]
        for machine in [self.start(name) for name in names]:
            self.open(machine)

    def open(self, machine: Machine) -> None:
        """Wait until a process is well, and let visitors in if it is web."""
        self.wait_until_well(machine)
        if machine.name == "web":
            self.router.add(machine.port)

    def deploy(self, when_told: Callable[[str], None]) -> None:
        """Replace all processes in the platform's order; `when_told` hears of each that has been told to stop."""
        assert self.release()
        old = list(self.machines)
        match self.facts.order:
            case Order.START_FIRST:
                for machine in [self.start(machine.name) for machine in old]:
                    self.open(machine)
                self.tell(old, when_told)
                self.see_off(old)
            case Order.AT_ONCE:
                self.tell(old, when_told)
                new = [self.start(machine.name) for machine in old]
                self.see_off(old)
                for machine in new:
                    self.open(machine)
            case Order.STOP_FIRST | Order.WEB_FIRST:
                if self.facts.order is Order.WEB_FIRST:
                    webs = [machine for machine in old if machine.name == "web"]
                    for machine in [self.start(machine.name) for machine in webs]:
                        self.open(machine)
                    self.tell(webs, when_told)
                    self.see_off(webs)
                    old = [machine for machine in old if machine not in webs]
                for machine in old:
                    self.tell([machine], when_told)
                    self.see_off([machine])
                    self.open(self.start(machine.name))

    def tell(self, machines: list[Machine], when_told: Callable[[str], None]) -> None:
        """Tell processes to stop, once no visitor comes to them any more."""
        for machine in machines:
            if machine.name == "web":
                self.router.remove(machine.port)
        for machine in machines:
            machine.stopped = time.monotonic()
            self.send(machine)
        for machine in machines if self.facts.twice else []:
            if machine.name != "web":
                machine.process.wait_until(lambda it=machine: "stopping" in it.process.log(), "the stop")  # type: ignore[misc]
            self.send(machine)
        for machine in machines:
            when_told(machine.name)

    def send(self, machine: Machine) -> None:
        """Send the signal to whom the platform sends it."""
        main = machine.process.popen.pid
        for pid in machine.process.session() if self.facts.to_every_process else [main]:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue

    def see_off(self, machines: list[Machine]) -> None:
        """Wait for the end of processes; kill them at the end of their window, which fails the test."""
        for machine in machines:
            left = machine.window - (time.monotonic() - machine.stopped)
            try:
                code = machine.process.popen.wait(max(left, 0))
            except subprocess.TimeoutExpired:
                os.killpg(machine.process.popen.pid, signal.SIGKILL)
                pytest.fail(f"{machine.name} was killed after {machine.window} s:\n{machine.process.log()}")
            assert code == 0, f"{machine.name} ended with {code}:\n{machine.process.log()}"
            machine.process.wait_until_gone()
            self.machines.remove(machine)


class Visitors:
    """People who ask for pages all the time, each of which queues a task."""

    def __init__(self, platform: Platform, number: int = 2) -> None:
        """Let so many of them in."""
        self.platform = platform
        self.names = itertools.count()
        self.served: list[str] = []
        self.failures: list[str] = []
        self.leaving = threading.Event()
        self.threads = [threading.Thread(target=self.visit) for _ in range(number)]

    def visit(self) -> None:
        """Ask, until it is time to leave."""
        while not self.leaving.wait(4 * PAUSE):
            with self.platform.router.route() as port:
                if port is None:
                    continue
                name = f"short-{next(self.names)}"
                try:
                    status = self.platform.ask(port, f"/queue/{name}/")
                except OSError as error:
                    self.failures.append(f"{name}: {error!r}")
                else:
                    (self.served if status == 200 else self.failures).append(name)

    def __enter__(self) -> "Visitors":
        """Let them begin."""
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Send them home."""
        self.leaving.set()
        for thread in self.threads:
            thread.join()


def most_connections(platform: Platform) -> Counter[str]:
    """Keep all processes busy for some time, and return how many connections each kind has held at once, at most."""
    found: Counter[str] = Counter()
    ask = "SELECT application_name, count(*) FROM pg_stat_activity WHERE application_name <> 'psql' GROUP BY 1"
    psql: Command = [servers.program("psql"), platform.addresses["DATABASE_URL"], "-AtF", " ", "-c", ask]
    leaving = threading.Event()

    def visit(port: int) -> None:
        while not leaving.is_set():
            platform.ask(port, "/busy/")

    with ThreadPoolExecutor(VISITORS) as pool:
        for port in itertools.islice(itertools.cycle(platform.router.ports), VISITORS):
            pool.submit(visit, port)
        try:
            steady = 0
            while steady < STEADY:
                lines = (line.split() for line in run(psql, platform.workplace.temporary, os.environ).splitlines())
                now = Counter({name: int(number) for name, number in (line for line in lines if len(line) == 2)})
                steady = 0 if now - found else steady + 1
                found |= now
        finally:
            leaving.set()
    return found
