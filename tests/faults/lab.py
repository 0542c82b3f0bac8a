"""A laboratory: one project, its servers behind links that can be cut, clusters, and a ledger of what they ran."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import pytest

from tests import servers
from tests.combinations import Combination
from tests.processes import Command, Process, free_port, listens
from tests.projects import PRODUCTION, Workplace

T = TypeVar("T")

HERE = Path(__file__).parent
OURS, UPSTREAM = "ours", "upstream"
ADDRESS = re.compile(r"127\.0\.0\.1:(\d+)")
ROLES = {
    OURS: ("main", "agent", "workers"),
    UPSTREAM: ("main", "sentinel", "pusher", "monitor", "workers"),
}
LEASE = {OURS: 3, UPSTREAM: 6}  #: seconds; much below what a project has, since tests wait for it
FOR_EVER = 10**8  #: seconds that a task may take: three years
GRACE = 3  #: seconds that running tasks get at a stop
STOP_WITHIN = GRACE + 5.0 + 2.0  #: seconds: the grace, what giving back may take, and a machine that is busy
DEADLINE = {OURS: 60.0, UPSTREAM: 30.0}  #: seconds after which a wait gives up
COPY_DATABASE = """
import os, sys, psycopg
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
    connection.execute(sys.argv[1])
"""


class Link:
    """The way to a server, which can be cut and mended, frozen and thawed."""

    def __init__(self, name: str, target: int, folder: Path, word: str = "") -> None:
        """Lead to a port, as yet cut; see link.py for the word."""
        self.name, self.target, self.folder, self.word = name, target, folder, word
        self.port = free_port()
        self.process: Process | None = None

    def mend(self) -> None:
        """Let the server be reached again."""
        command: Command = [sys.executable, HERE / "link.py", str(self.port), str(self.target)]
        command = [*command, self.word] if self.word else command
        self.process = Process(self.name, command, self.folder, os.environ, self.folder)
        self.process.wait_until(lambda: listens(self.port), f"the port of {self.name}")

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        if self.process:
            self.process.kill()
            self.process = None

    def freeze(self) -> None:
        """Keep all connections, and let nothing through: neither data nor an error."""
        assert self.process
        self.process.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let everything through again, also what has piled up."""
        assert self.process
        self.process.popen.send_signal(signal.SIGCONT)

    @contextmanager
    def away(self, seconds: float) -> Iterator[None]:
        """Cut the link, and mend it again after so many seconds at least."""
        end = time.monotonic() + seconds
        self.cut()
        yield
        time.sleep(max(0.0, end - time.monotonic()))
        self.mend()


@dataclass(frozen=True)
class Roles:
    """The processes of a cluster by what they are: ours has main, agent and workers, upstream's others."""

    pids: Mapping[str, Sequence[int]]

    @property
    def workers(self) -> list[int]:
        """Return those that run tasks."""
        return self.of("workers")

    def of(self, role: str) -> list[int]:
        """Return those of a role; the workers are several."""
        return list(self.pids[role])

    def others(self) -> set[int]:
        """Return all but the main process."""
        return {pid for role, pids in self.pids.items() if role != "main" for pid in pids}


@dataclass
class Base:
    """What the labs of one broker share: the servers, and a database that is migrated."""

    combination: Combination
    workplace: Workplace
    database: dict[str, str]
    broker: dict[str, str]
    versions: dict[str, str]
    made: int = 0

    @classmethod
    @contextmanager
    def of(cls, combination: Combination, workplace: Workplace) -> Iterator[Self]:
        """Start the servers."""
        with (
            servers.database("postgresql", workplace.temporary) as database,
            servers.broker(combination, workplace) as broker,
        ):
            versions = {
                "Python": workplace.run("python", "-c", "import platform; print(platform.python_version())").strip(),
                "Django": workplace.run("python", "-c", "import django; print(django.__version__)").strip(),
                **servers.versions("postgresql", combination.broker),
            }
            base = cls(combination, workplace, dict(database), dict(broker), versions)
            base.sql("CREATE DATABASE migrated")
            migrated = base.at("migrated")
            workplace.manage("release", environment={**PRODUCTION, **migrated, **broker})
            yield base

    def sql(self, statement: str) -> None:
        """Run a statement outside of any project's database."""
        self.workplace.run("python", "-c", COPY_DATABASE, statement, environment=self.database)

    def at(self, name: str) -> dict[str, str]:
        """Return the variables for a database of this name."""
        return {"DATABASE_URL": self.database["DATABASE_URL"].rpartition("/")[0] + f"/{name}"}

    def new_database(self, kind: str, folder: Path) -> dict[str, str]:
        """Return the variables for a database of its own."""
        self.made += 1
        if kind == "sqlite":
            variables = {"DATABASE_URL": f"sqlite:///{folder / 'database.sqlite3'}"}
            self.workplace.manage("release", environment={**PRODUCTION, **variables, **self.broker})
            return variables
        name = f"lab{self.made}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE migrated")
        return self.at(name)


class Driver:
    """A process that does what a test asks of Django, by a way that is never cut."""

    def __init__(self, lab: "Lab", name: str = "driver", variables: Mapping[str, str] = {}) -> None:
        """Start it, with other variables if need be."""
        self.errors = lab.folder / f"{name}.err"
        # Over MongoDB a request may take a third of a lease, which is short here, and servers for tests are slow.
        settings = {"retry": 60} if lab.kind == OURS else {}
        with self.errors.open("wb") as errors:
            self.popen = subprocess.Popen(
                [lab.base.workplace.python, HERE / "inside" / "lab_driver.py"],
                cwd=lab.base.workplace.path,
                env={**lab.environment(settings), **lab.direct, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._read()

    def call(self, what: str, **arguments: Any) -> Any:
        """Call a function of lab_driver.py, and return its answer; fail the test if it raises."""
        assert self.popen.stdin
        self.popen.stdin.write(json.dumps({"call": what, "with": arguments}) + "\n")
        self.popen.stdin.flush()
        answer = self._read()
        if "error" in answer:
            pytest.fail(f"{what}: {answer['error']}")
        return answer["answer"]

    def _read(self) -> Any:
        assert self.popen.stdout
        line = self.popen.stdout.readline()
        if not line:
            pytest.fail(f"the driver has ended:\n{self.errors.read_text()}")
        return json.loads(line)

    def end(self) -> None:
        """End it."""
        assert self.popen.stdin
        assert self.popen.stdout
        self.popen.stdin.close()
        self.popen.stdout.close()
        self.popen.kill()
        self.popen.wait()


class Worker(Protocol):
    """What a lab needs of a worker, as processes or as a container."""

    name: str

    def ended(self) -> int | None:
        """Return the exit code, None while it runs."""

    def log(self) -> str:
        """Return the end of what it has printed."""


class Cluster(Process):
    """The processes of a worker."""

    lab: "Lab"
    size: int

    def roles(self) -> Roles:
        """Return the processes, once all of them are there and have been reported."""
        return self.lab.wait(self.known_roles, f"all processes of {self.name}", self)

    def known_roles(self) -> Roles | None:
        """Return the processes if what was last reported of them is still so."""
        roles = self.reported_roles()
        if roles is None or len(roles.workers) != self.size:
            return None
        return roles if roles.others() == self.living() else None

    def living(self) -> set[int]:
        """Return its own processes but for the main process."""
        found = set(children(self.popen.pid))
        return found if self.lab.kind == OURS else found.union(*map(children, found))

    def reported_roles(self) -> Roles | None:
        """Return what was last reported of its processes: ours by a file of the main process, upstream's to all."""
        if self.lab.kind == UPSTREAM:
            found = (each for each in self.lab.call("stats") if each["main"] == self.popen.pid)
        else:
            found = (each for each in self.lab.signs() if each["main"] == self.popen.pid)
        for each in found:
            roles = {role: each[role] for role in ROLES[self.lab.kind]}
            return Roles({role: pids if isinstance(pids, list) else [pids] for role, pids in roles.items()})
        return None

    def is_alone(self) -> bool:
        """Say whether all processes are there, and none that tasks have started."""
        roles = self.known_roles()
        return roles is not None and set(self.session()) == {self.popen.pid, *roles.others()}

    def has_replaced(self, worker: int) -> bool:
        """Say whether another one works in the place of this worker."""
        return worker not in self.roles().workers

    def signal(self, number: signal.Signals, pids: list[int] | None = None) -> None:
        """Send a signal to some of its processes, or to all."""
        for pid in self.session() if pids is None else pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_a_worker(self, chance: random.Random) -> bool:
        """Kill one of those that live; say whether there was one."""
        if (roles := self.reported_roles()) is None:
            return False
        living = sorted(self.living() - roles.others().difference(roles.workers))
        self.signal(signal.SIGKILL, [chance.choice(living)] if living else [])
        return bool(living)

    def kill_workers(self, seconds: float, chance: random.Random, every: float = 0.2) -> int:
        """Kill one after another for so many seconds, and return how many were."""
        end, kills = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            assert self.popen.poll() is None, self.lab.report()
            kills += self.kill_a_worker(chance)
            time.sleep(every)
        return kills

    def wait_for_exit(self) -> int:
        """Return the exit code; fail the test if it does not come, or comes and leaves processes behind."""
        self.lab.wait(lambda: self.popen.poll() is not None, f"the end of {self.name}", None)
        self.lab.wait(lambda: not self.session(), f"the end of all processes of {self.name}", None)
        return self.popen.wait()

    def stop_in_time(self) -> None:
        """Tell the main process to stop; fail the test if it ends otherwise than with 0, or not in time.

        What tasks have started may outlive the cluster; its own processes may not.
        """
        roles, begun = self.reported_roles(), time.monotonic()
        self.signal(signal.SIGTERM, [self.popen.pid])
        self.lab.wait(lambda: self.popen.poll() is not None, f"the end of {self.name}")
        code, took = self.popen.wait(), time.monotonic() - begun
        own = roles.others() if roles else set(self.session())
        self.lab.wait(lambda: not own.intersection(self.session()), f"the end of all processes of {self.name}")
        assert code == 0, f"it ended with {code} after {took:.1f} s\n{self.lab.report()}"
        assert took < STOP_WITHIN, f"it took {took:.1f} s to stop\n{self.lab.report()}"

    def ended(self) -> int | None:
        """Return the exit code of the main process, None while it runs."""
        return self.popen.poll()

    def whole_log(self) -> str:
        """Return all that it has printed."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")


def children(parent: int) -> list[int]:
    """Return the living children of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, of = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(of) == parent and state != "Z":
                found.append(int(folder.name))
    return found


def memory(pid: int) -> int:
    """Return the kilobytes that a process takes, what it shares with others divided by their number."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@dataclass
class Lab:
    """One project, for one test."""

    base: Base
    kind: str
    folder: Path
    name: str
    database: str = "postgresql"
    extra: Mapping[str, str] = field(default_factory=dict)  #: variables that all processes of the project get
    lease: int = 0
    direct: dict[str, str] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    clusters: list[Cluster] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make a database of its own, and a way to each server."""
        self.ledger = self.folder / "ledger"
        self.ledger.touch()
        (self.folder / "tmp").mkdir()
        database = self.base.new_database(self.database, self.folder)
        self.direct = {**database, **self.base.broker}
        self.linked = {**self._link("database", database), **self._link("broker", self.base.broker)}
        if "database" in self.links:
            self.links.setdefault("broker", self.links["database"])  # where the queue is in the database
        self.deadline, self.lease = DEADLINE[self.kind], LEASE[self.kind]
        self.driver = Driver(self)

    def _link(self, name: str, variables: Mapping[str, str]) -> dict[str, str]:
        def port(match: re.Match[str]) -> str:
            if name not in self.links:
                self.links[name] = Link(name, int(match[1]), self.folder)
                self.links[name].mend()
            return f"127.0.0.1:{self.links[name].port}"

        return {variable: ADDRESS.sub(port, value) for variable, value in variables.items()}

    def close(self) -> None:
        """End all that was started."""
        for cluster in self.clusters:
            cluster.signal(signal.SIGCONT)
            cluster.kill()
        for link in set(self.links.values()):
            link.cut()
        self.driver.end()

    def variables(self, cluster: Mapping[str, Any], **others: str) -> dict[str, str]:
        """Return what the project is told by its environment."""
        settings = {
            "retry": self.lease,
            "save_limit": 100_000,  # keep all results
            **({"timeout": LEASE[UPSTREAM] - 1} if self.kind == UPSTREAM else {}),
            **cluster,
        }
        return {
            **PRODUCTION,
            **self.linked,
            "DJANGO_SETTINGS_MODULE": "lab_settings" if self.kind == OURS else "lab_upstream_settings",
            "LAB_CLUSTER": json.dumps(settings),
            "LAB_LEDGER": str(self.ledger),
            "LAB_NAME": self.name,
            "Q_GRACE": str(GRACE),
            "Q_TIMEOUT": "25",  # it would be Q_GRACE
            **self.extra,
            **others,
        }

    def environment(self, cluster: Mapping[str, Any], **variables: str) -> dict[str, str]:
        """Return the environment of a process of the project."""
        own = {
            "PYTHONPATH": os.pathsep.join([str(HERE / "inside"), str(self.base.workplace.path)]),
            "TMPDIR": str(self.folder / "tmp"),
        }
        return dict(self.base.workplace.environment({**self.variables(cluster), **own, **variables}))

    # Clusters

    def start(
        self,
        *,
        wait: bool = True,
        workers: int = 2,
        past_links: bool = False,
        through: Command = (),
        variables: Mapping[str, str] = {},
        **cluster: Any,
    ) -> Cluster:
        """Start a cluster, with other settings of Q_CLUSTER or variables, or through another command, if need be."""
        python = self.base.workplace.python
        command: dict[str, Command] = {
            OURS: [python, "manage.py", "prodserver", "worker"],
            UPSTREAM: [python, "-m", "django", "qcluster", "--skip-checks"],
        }
        variables = {"Q_WORKERS": str(workers), **(self.direct if past_links else {}), **variables}
        environment = self.environment(cluster, **variables)
        name = f"worker{len(self.clusters) + 1}"
        made = Cluster(name, [*through, *command[self.kind]], self.base.workplace.path, environment, self.folder)
        made.lab, made.size = self, workers
        self.clusters.append(made)
        if wait:
            made.roles()
        return made

    def workers(self) -> Sequence[Worker]:
        """Return all workers that were started."""
        return self.clusters

    # Servers

    def cut_all(self) -> None:
        """Cut off all servers."""
        for link in set(self.links.values()):
            link.cut()

    def mend_all(self) -> None:
        """Let all servers be reached again."""
        for link in set(self.links.values()):
            link.mend()

    # Tasks

    def call(self, what: str, **arguments: Any) -> Any:
        """Call a function of lab_driver.py."""
        return self.driver.call(what, **arguments)

    def enqueue(self, func: str, *calls: tuple[Any, ...], **options: Any) -> list[str]:
        """Queue a task of lab_tasks.py for each tuple of arguments, of which the first is its key in the ledger."""
        ids: list[str] = self.call("enqueue", func=f"lab_tasks.{func}", calls=calls, options=options)
        return ids

    def enqueue_many(self, prefix: str, number: int, seconds: float = 0.0) -> set[str]:
        """Queue as many tasks, and return their keys."""
        keys = [f"{prefix}{index}" for index in range(number)]
        self.enqueue("work", *((key, seconds) for key in keys))
        return set(keys)

    def schedule(self, name: str, seconds_ago: float) -> float:
        """Schedule a task for each minute, the first time so long ago, and return that time."""
        due: float = self.call(
            "schedule",
            name=name,
            func="lab_tasks.work_when_due",
            args=f"'{name}',",
            intended_date_kwarg="due",
            seconds_ago=seconds_ago,
            schedule_type="I",
        )
        return due

    def is_healthy(self) -> bool:
        """Ask the project's own probe how the worker on this host is."""
        return not self.problem()

    def problem(self) -> str:
        """Return what the project's own probe says is wrong with the worker on this host, "" if nothing is."""
        command: Command = [self.base.workplace.python, "manage.py", "health_check", "worker"]
        cwd, environment = self.base.workplace.path, self.environment({})
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr if done.returncode else ""

    def signs(self) -> list[dict[str, Any]]:
        """Return the signs of life of our main processes on this host."""
        found = []
        for path in (self.folder / "tmp").glob("*/*"):
            with suppress(OSError, ValueError):  # no file of a main process, or it is gone
                sign = json.loads(path.read_text())
                if isinstance(sign, dict) and {"main", "agent", "workers", "late"} <= sign.keys():
                    found.append(sign)
        return found

    @contextmanager
    def locked(self, table: str, mode: str = "ACCESS EXCLUSIVE") -> Iterator[None]:
        """Let another session of the database hold a table, by default so that nobody else can read or write it."""
        holder = Driver(self, f"holder-of-{table}")
        try:
            holder.call("lock", table=table, mode=mode)
            yield
        finally:
            holder.end()

    @contextmanager
    def locked_row(self, name: str) -> Iterator[None]:
        """Let another session of the database hold the result of a task."""
        holder = Driver(self, "holder-of-a-row")
        try:
            holder.call("lock_row", name=name)
            yield
        finally:
            holder.end()

    @contextmanager
    def slow(self, table: str, seconds: int) -> Iterator[None]:
        """Let each statement that inserts into a table of PostgreSQL take so many seconds."""
        self.call("slow_down", table=table, seconds=seconds)
        try:
            yield
        finally:
            self.call("slow_down", table=table, seconds=0)

    def entries(self) -> list[list[str]]:
        """Return the lines of the ledger, in words."""
        return [line.split() for line in self.ledger.read_text().splitlines()]

    def events(self, event: str) -> list[str]:
        """Return the keys of all events of this kind, in their order."""
        return [line[1] for line in self.entries() if line[0] == event]

    def pids(self) -> set[int]:
        """Return the processes that have run a task."""
        return {int(line[2]) for line in self.entries()}

    def starts(self) -> Counter[str]:
        """Return how often each task has started."""
        return Counter(self.events("start"))

    def ends(self) -> Counter[str]:
        """Return how often each task has ended."""
        return Counter(self.events("end"))

    def rows(self) -> list[dict[str, Any]]:
        """Return the results that are in the database."""
        found: list[dict[str, Any]] = self.call("rows")
        return found

    def succeeded(self) -> Counter[str]:
        """Return how often each key stands as a result of a success."""
        return Counter(row["result"] for row in self.rows() if row["success"])

    def failed(self) -> list[dict[str, Any]]:
        """Return the results of failures."""
        return [row for row in self.rows() if not row["success"]]

    # Waiting

    def wait(self, condition: Callable[[], T | None], what: str | Callable[[], str], *alive: Worker | None) -> T:
        """Return the first answer that is true; fail if it does not come, or if one of these clusters ends before.

        What is waited for may be a function that says what of it is missing.
        """
        end = time.monotonic() + self.deadline
        while True:
            ended = [worker for worker in alive if worker and worker.ended() is not None]
            if answer := condition():
                return answer
            if ended or time.monotonic() > end:
                what = what() if callable(what) else what
                reason = f"before {what}, {ended[0].name} ended" if ended else f"{what} did not come"
                pytest.fail(f"{reason}\n{self.report()}")
            time.sleep(0.05)

    def wait_started(self, *keys: str, alive: Worker | None = None) -> None:
        """Wait until tasks have started."""
        self.wait(lambda: set(keys) <= self.starts().keys(), f"the start of {keys}", alive)

    def wait_counted(self, number: int, *alive: Worker) -> None:
        """Wait until as many successes are saved, and the broker has forgotten all tasks: for too many to list."""
        self.wait(lambda: self.call("counts")["succeeded"] >= number, f"{number} results", *alive)
        self.wait(lambda: self.call("queued") == 0, "an empty queue", *alive)

    def wait_done(self, keys: set[str], *alive: Worker) -> None:
        """Wait until tasks have ended, their results are saved, and the broker has forgotten them."""
        self.wait(lambda: keys <= self.ends().keys(), f"the end of {len(keys)} tasks", *alive)
        self.wait(lambda: keys <= self.succeeded().keys(), f"the results of {len(keys)} tasks", *alive)
        self.wait(lambda: self.call("queued") == 0, "an empty queue", *alive)

    def report(self) -> str:
        """Return all that helps to understand a failure."""
        logs = [f"-- {worker.name} ({worker.ended()}):\n{worker.log()}" for worker in self.workers()]
        return "\n".join([f"-- starts: {self.starts()}\n-- ends: {self.ends()}", *logs])


class Mixture:
    """Work of all kinds, for a lab in which things go wrong: hooks, chains, schedules, large arguments and results."""

    LINKS, LARGE = 5, 150_000  #: bytes, of which no broker's message has too many

    def __init__(self, lab: Lab, number: int) -> None:
        """Queue so many tasks with hooks, and some of the others."""
        self.lab = lab
        self.hooked = {f"hooked{index}" for index in range(number)}
        for key in sorted(self.hooked):
            lab.enqueue("work", (key, 0.01), task_name=key, hook="lab_tasks.hook")
        self.chains = [f"chain{index}" for index in range(number // 8)]
        for name in self.chains:
            lab.call("chain", links=[["lab_tasks.work", [key, 0.01]] for key in self.links(name)], options={})
        self.loads = {f"load{index}" for index in range(number // 2)}
        lab.call("enqueue_loads", calls=dict.fromkeys(sorted(self.loads), self.LARGE), size=self.LARGE, seconds=0.01)
        self.schedules = {f"schedule{index}" for index in range(number // 8)}
        for name in sorted(self.schedules):
            lab.schedule(name, 1.0)

    def links(self, name: str) -> list[str]:
        """Return the keys of a chain's links, in their order."""
        return [f"{name}-{index}" for index in range(self.LINKS)]

    @property
    def keys(self) -> set[str]:
        """Return the keys of all tasks, those of chains and schedules included."""
        links = {key for name in self.chains for key in self.links(name)}
        return self.hooked | self.loads | self.schedules | links

    def called(self) -> set[str]:
        """Return the tasks whose hook was called."""
        return {event.partition(":")[0] for event in self.lab.events("hook")}

    def cut_off(self, *clusters: Cluster) -> set[str]:
        """Return the tasks whose worker was killed in the middle of their hook, as the logs of these clusters say."""
        logs = (cluster.whole_log() for cluster in clusters)
        return {key for log in logs for key in re.findall(r"The hook of (\w+) has failed", log)}

    def failed(self) -> list[dict[str, Any]]:
        """Return failures, but for times of schedules that may be missed, where the queue is not in their database."""
        together = self.lab.base.combination.broker == "orm"
        killed = re.compile(r"The schedule schedule\d+ cannot be queued: The worker died \(SIGKILL\)")
        return [row for row in self.lab.failed() if together or not killed.match(row["result"])]

    def check(self, *alive: Cluster) -> None:
        """All is done and saved, each hook was called or is named, and each chain went in its order."""
        lab, keys = self.lab, self.keys
        lab.wait(lambda: keys <= lab.ends().keys(), lambda: f"the end of {keys - lab.ends().keys()}", *alive)
        lab.wait(lambda: keys <= lab.succeeded().keys(), "the results of all kinds of tasks", *alive)
        lab.wait(lambda: self.hooked <= self.called() | self.cut_off(*alive), "all hooks", *alive)
        for name in self.chains:
            ends = list(dict.fromkeys(key for key in lab.events("end") if key.startswith(f"{name}-")))
            assert ends == self.links(name), f"{name} went astray: {ends}\n{lab.report()}"
        once = self.hooked | self.loads
        found = {key: count for key, count in lab.succeeded().items() if key in once and count > 1}
        assert not found, f"saved more than once: {found}\n{lab.report()}"
