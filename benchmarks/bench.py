"""What the measures share: servers, projects, and processes of a system."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

from benchmarks.systems import System
from scripts.examples import bake
from tests.combinations import TEMPLATE
from tests.faults.cells import BROKERS
from tests.faults.lab import Base
from tests.interpreters import for_combination
from tests.processes import Command, Process
from tests.projects import PRODUCTION, Environments, Workplace, uv_environment

INSIDE = Path(__file__).parent / "inside"
PEERS = TEMPLATE / "build" / "benchmarks" / "peers"
MIGRATED = "peers_migrated"  #: a database with the tables of the other queues
LOG_LINES = "%d %v "  #: how PostgreSQL begins those of its log: with the database and the transaction
MANY = 10  #: databases, of which PostgreSQL looks at each for what to vacuum
STATEMENTS = """
import os, sys, psycopg
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
    for statement in sys.argv[1:]:
        connection.execute(statement)
"""


@dataclass
class Bench:
    """Starts what a system needs when it is first asked for, and ends it all at the end."""

    folder: Path
    stack: ExitStack
    bases: dict[str, Base] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)  #: by broker, the databases of runs that have ended
    runs: int = 0
    has_peers: bool = False

    def base(self, broker: str) -> Base:
        """Return the servers and the project of a broker."""
        if broker not in self.bases:
            combination, folder = BROKERS[broker], self.folder / broker
            environments = Environments(self.folder / "environments")
            project = bake(combination.answers, folder / "baked")
            workplace = Workplace.of(project, for_combination(combination), environments, folder)
            self.bases[broker] = self.stack.enter_context(Base.of(combination, workplace))
            logged = f"ALTER SYSTEM SET log_line_prefix = '{LOG_LINES}'"
            self.execute(broker, f"CREATE DATABASE {MIGRATED}", logged, "SELECT pg_reload_conf()")
        return self.bases[broker]

    def execute(self, broker: str, *statements: str) -> None:
        """Run statements outside of any project's database."""
        base = self.bases[broker]
        base.workplace.run("python", "-c", STATEMENTS, *statements, environment=base.database)

    def python(self, system: System) -> Path:
        """Return the Python that has the packages of a system; those of the other queues are installed at once."""
        if not system.is_peer:
            return self.base(system.broker).workplace.python
        python = PEERS / "bin" / "python"
        if not self.has_peers:
            environment = uv_environment(Path(sys.executable))
            if not python.exists():
                subprocess.run([find_uv_bin(), "venv", "--quiet", PEERS], env=environment, check=True)
            install: Command = [find_uv_bin(), "pip", "install", "--quiet", "--python", python, "--group", "peers"]
            subprocess.run(install, env=environment, cwd=TEMPLATE, check=True)
            self.has_peers = True
        return python

    def database(self, system: System, folder: Path) -> Mapping[str, str]:
        """Return the variables for a database of its own, migrated."""
        base = self.base(system.broker)
        if not system.is_peer:
            return base.new_database(system.database, folder)
        migrated = base.at(MIGRATED)
        if not (mark := self.folder / system.broker / MIGRATED).exists():
            environment = self.environment(system, folder, migrated)
            migrate: Command = [self.python(system), "-m", "django", "migrate", "--verbosity=0"]
            subprocess.run(migrate, env=environment, check=True)
            mark.touch()
        base.made += 1
        base.sql(f"CREATE DATABASE lab{base.made} TEMPLATE {MIGRATED}")
        return base.at(f"lab{base.made}")

    def environment(self, system: System, folder: Path, database: Mapping[str, str]) -> Mapping[str, str]:
        """Return the environment of a system's processes."""
        base = self.base(system.broker)
        paths = [INSIDE] if system.is_peer else [INSIDE, base.workplace.path]
        return base.workplace.environment(
            {
                **PRODUCTION,
                **base.broker,
                **database,
                "BENCH_FOLDER": str(folder),
                "BENCH_SYSTEM": system.key,
                "DJANGO_SETTINGS_MODULE": system.module,
                "PYTHONPATH": os.pathsep.join(map(str, paths)),
                "Q_WORKERS": "2",
            }
        )

    def run(self, system: System) -> "Run":
        """Prepare a run of a system, with nothing of another run in it."""
        self.runs += 1
        folder = self.folder / f"run{self.runs}"
        folder.mkdir()
        database = self.database(system, folder)
        name = database["DATABASE_URL"].rpartition("/")[2] if system.database == "postgresql" else ""
        if name:
            self.forget(system.broker, name)
        return Run(self, system, folder, self.environment(system, folder, database), name)

    def forget(self, broker: str, name: str) -> None:
        """Drop the databases of runs before, except for the last few, once there are many."""
        names = self.left.setdefault(broker, [])
        if len(names) >= MANY:
            self.execute(broker, *(f"DROP DATABASE {old} WITH (FORCE)" for old in names[:-2]))
            del names[:-2]
        names.append(name)


@dataclass
class Run:
    """One system at work, in a folder with the times that its tasks note."""

    bench: Bench
    system: System
    folder: Path
    environment: Mapping[str, str]
    database: str  #: its name in PostgreSQL, "" elsewhere

    @property
    def place(self) -> Path:
        """Where its commands run."""
        return INSIDE if self.system.is_peer else self.bench.base(self.system.broker).workplace.path

    def call(self, *arguments: str, **variables: str) -> str:
        """Run a program of Python's, and return what it printed."""
        command: Command = [self.bench.python(self.system), *arguments]
        environment = {**self.environment, **variables}
        done = subprocess.run(command, cwd=self.place, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.system.key}: {done.stdout}{done.stderr}")
        return done.stdout

    @contextmanager
    def workers(self, clusters: int = 1) -> Iterator[list[Process]]:
        """Run its workers until the block ends."""
        python = self.bench.python(self.system)
        started: list[Process] = []
        try:
            for number, arguments in enumerate(self.system.workers * clusters):
                command: Command = [python, *arguments]
                started.append(Process(f"worker{number}", command, self.place, self.environment, self.folder))
            yield started
        finally:
            for process in started:
                process.kill()  # some would wait

    def ask(self, sql: str, **variables: str) -> int:
        """Return the number that a query of its database gives."""
        code = (
            "import os, psycopg, sys; connection = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True); "
            "print(connection.execute(sys.argv[1]).fetchone()[0])"
        )
        return int(self.call("-c", code, sql, **variables))

    def times(self, name: str, number: int = 1) -> tuple[float, ...]:
        """Return the times that were noted under a name once there are so many, () before."""
        path = self.folder / name
        data = path.read_bytes() if path.exists() else b""
        return struct.unpack(f"{len(data) // 8}d", data) if len(data) >= 8 * number else ()
