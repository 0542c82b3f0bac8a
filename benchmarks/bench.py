"""What the measures share: servers, projects, and processes of a system."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

from benchmarks.systems import PYTHONS, System
from scripts.examples import bake
from tests.combinations import TEMPLATE
from tests.faults.cells import BROKERS
from tests.faults.lab import Base
from tests.interpreters import for_combination, new_enough
from tests.processes import Command, Process
from tests.projects import PRODUCTION, Environments, Workplace, uv_environment

INSIDE = Path(__file__).parent / "inside"
FOLDER = TEMPLATE / "build" / "benchmarks"  #: what stays from run to run
LOG_LINES = "%d %v "  #: how PostgreSQL begins those of its log: with the database and the transaction
TEMPLATE_DATABASE = "migrated"  #: the one that a base has made
MANY = 10  #: databases that are made at a time; the old ones go, for PostgreSQL looks at each for what to vacuum
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
    template: Path = TEMPLATE
    bases: dict[str, Base] = field(default_factory=dict)
    spare: dict[tuple[str, str], list[str]] = field(default_factory=dict)  #: databases, by broker and template
    used: dict[str, list[str]] = field(default_factory=dict)  #: those of runs, by broker
    runs: int = 0
    installed: set[str] = field(default_factory=set)  #: packages of other queues, by their names in PYTHONS

    def base(self, broker: str) -> Base:
        """Return the servers and the project of a broker."""
        if broker not in self.bases:
            combination, folder = BROKERS[broker], self.folder / broker
            environments = Environments(self.folder / "environments")
            project = bake(combination.answers, folder / "baked", self.template)
            workplace = Workplace.of(project, for_combination(combination), environments, folder)
            self.bases[broker] = self.stack.enter_context(Base.of(combination, workplace))
            durable = "ALTER SYSTEM SET fsync = on"  # which the tests do without
            logged = f"ALTER SYSTEM SET log_line_prefix = '{LOG_LINES}'"
            self.execute(broker, durable, logged, "SELECT pg_reload_conf()")
        return self.bases[broker]

    def execute(self, broker: str, *statements: str) -> None:
        """Run statements outside of any project's database."""
        base = self.bases[broker]
        base.workplace.run("python", "-c", STATEMENTS, *statements, environment=base.database)

    def python(self, system: System) -> Path:
        """Return the Python that has the packages of a system; those of the other queues are installed together."""
        if not (packages := system.packages):
            return self.base(system.broker).workplace.python
        python = FOLDER / packages / "bin" / "python"
        if packages not in self.installed:
            environment = uv_environment(new_enough(PYTHONS[packages]) or Path(sys.executable))
            if not python.exists():
                subprocess.run([find_uv_bin(), "venv", "--quiet", FOLDER / packages], env=environment, check=True)
            install: Command = [find_uv_bin(), "pip", "install", "--quiet", "--python", python, "--group", packages]
            subprocess.run(install, env=environment, cwd=TEMPLATE, check=True)
            self.installed.add(packages)
        return python

    def database(self, system: System, folder: Path) -> Mapping[str, str]:
        """Return the variables for a database of its own, migrated."""
        base = self.base(system.broker)
        if system.database == "sqlite":
            return self.file(base, folder)
        if not system.is_peer:
            return base.at(self.fresh(system.broker, TEMPLATE_DATABASE))
        migrated = f"{system.packages.replace('-', '_')}_migrated"
        if not (mark := self.folder / system.broker / migrated).exists():
            self.execute(system.broker, f"CREATE DATABASE {migrated}")
            environment = self.environment(system, folder, base.at(migrated))
            migrate: Command = [self.python(system), "-m", "django", "migrate", "--verbosity=0"]
            subprocess.run(migrate, env=environment, check=True)
            mark.touch()
        return base.at(self.fresh(system.broker, migrated))

    def fresh(self, broker: str, template: str) -> str:
        """Return the name of a database that is a copy of a template."""
        spare, used = self.spare.setdefault((broker, template), []), self.used.setdefault(broker, [])
        if not spare:
            spare += [f"{template}_{self.runs}_{number}" for number in range(MANY)]
            dropped = [f"DROP DATABASE {name} WITH (FORCE)" for name in used]
            used.clear()
            self.execute(broker, *dropped, *(f"CREATE DATABASE {name} TEMPLATE {template}" for name in spare))
        used.append(spare.pop())
        return used[-1]

    def file(self, base: Base, folder: Path) -> Mapping[str, str]:
        """Return the variables for a SQLite database, a copy of the first."""
        first = self.folder / "migrated.sqlite3"
        if not first.exists():
            made = base.new_database("sqlite", folder)["DATABASE_URL"].removeprefix("sqlite:///")
            shutil.copy(made, first)
        shutil.copy(first, folder / "database.sqlite3")
        return {"DATABASE_URL": f"sqlite:///{folder / 'database.sqlite3'}"}

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
                "BENCH_SYSTEM": system.queue,
                "DJANGO_SETTINGS_MODULE": system.module,
                "PYTHONPATH": os.pathsep.join(map(str, paths)),
                "Q_WORKERS": str(system.workers_at_once),
            }
        )

    def run(self, system: System) -> "Run":
        """Prepare a run of a system, with nothing of another run in it."""
        self.runs += 1
        folder = self.folder / f"run{self.runs}"
        folder.mkdir()
        database = self.database(system, folder)
        name = database["DATABASE_URL"].rpartition("/")[2] if system.database == "postgresql" else ""
        return Run(self, system, folder, self.environment(system, folder, database), name)


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
