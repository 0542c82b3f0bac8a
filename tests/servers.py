"""Real servers on free ports of this machine, each as fresh as the test that uses it.

Each yields the variables by which a project finds it. A broker's is started by the function of its name.

`python -m tests.servers` installs the programs by apt where it may, and otherwise says which are missing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest

from tests.combinations import Combination
from tests.processes import Command, Environment, free_port, listens, run, started
from tests.projects import Workplace

Server = Callable[[Path], AbstractContextManager[Environment]]

#: By program.
PACKAGES = {
    "caddy": "caddy",
    "chromium": "chromium",
    "faketime": "faketime",
    "initdb": "postgresql",
    "pg_dump": "postgresql",
    "pg_restore": "postgresql",
    "pgbouncer": "pgbouncer",
    "postgres": "postgresql",
    "promtool": "prometheus",
    "psql": "postgresql",
    "redis-server": "redis-server",
}

# moto's own server closes the connection after each answer, where Amazon keeps it open, and so would hide what goes
# wrong when processes share one. And moto 5.2 hands a message out twice when two requests look for one at once, forgets
# one, or that it was deleted, when others are deleted at the same time, and counts all messages for each one whose age
# it looks at: with 2,000 of them, an answer took more than a second.
MOTO = """
import sys, threading, time
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sqs.models import Queue, SQSBackend
from waitress import serve

look, turn = SQSBackend.receive_message, threading.RLock()

def receive(backend, queue, count, seconds, *args):
    end = time.monotonic() + seconds
    while True:
        with turn:
            messages = look(backend, queue, count, 0, *args)
        if messages or time.monotonic() >= end:
            return messages
        time.sleep(0.02)

def in_turn(action):
    def act(*args, **options):
        with turn:
            return action(*args, **options)
    return act

SQSBackend.receive_message = receive
Queue.add_message, Queue.delete_message = in_turn(Queue.add_message), in_turn(Queue.delete_message)
SQSBackend.is_message_valid_based_on_retention_period = lambda backend, queue, message: True
serve(DomainDispatcherApplication(create_backend_app), host="127.0.0.1", port=int(sys.argv[1]), threads=32)
"""


def database(name: str, folder: Path) -> AbstractContextManager[Environment]:
    """Start a database server of this name."""
    server: Server = {"sqlite": sqlite, "postgresql": postgresql}[name]
    return server(folder)


def broker(combination: Combination, workplace: Workplace) -> AbstractContextManager[Environment]:
    """Start the server of the combination's broker."""
    if not combination.row["environment"]:
        return nullcontext({})  # it needs none
    if combination.broker not in BROKERS:
        missing(f"function {combination.broker}() in tests/servers.py")
    return BROKERS[combination.broker](workplace.temporary)


@contextmanager
def sqlite(folder: Path) -> Iterator[Environment]:
    """Need no server."""
    yield {"DATABASE_URL": f"sqlite:///{folder / 'database.sqlite3'}"}


@contextmanager
def postgresql(folder: Path) -> Iterator[Environment]:
    """Start PostgreSQL; as its own user where the tests run as root, which it refuses."""
    data = Path(tempfile.mkdtemp(prefix="postgresql-"))
    as_user: Command = []
    if os.getuid() == 0:
        shutil.chown(data, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    initdb: Command = [program("initdb"), "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", data]
    try:
        run([*as_user, *initdb], data, os.environ)
        port = free_port()  # not before, which takes seconds: another run's server would get it
        options: Command = ["-h", "127.0.0.1", "-k", data, "-p", str(port)]
        with (data / "postgresql.conf").open("a") as settings:
            settings.write("fsync = off\n")  # not as an option, which the benchmarks could not take back
        with started(
            "postgresql", [*as_user, program("postgres"), "-D", data, *options], data, os.environ, folder
        ) as it:
            it.wait_until(lambda: listens(port), "PostgreSQL's port")
            yield {"DATABASE_URL": f"postgres://postgres@127.0.0.1:{port}/postgres"}
            it.stop()
    finally:
        shutil.rmtree(data)


@contextmanager
def redis(folder: Path) -> Iterator[Environment]:
    """Start Redis, which keeps nothing on disk."""
    port = free_port()
    options: Command = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    with started("redis", [program("redis-server"), *options], folder, os.environ) as it:
        it.wait_until(lambda: listens(port), "Redis's port")
        yield {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}


@contextmanager
def sqs(folder: Path) -> Iterator[Environment]:
    """Start moto, which speaks SQS."""
    port = free_port()
    with started("sqs", [sys.executable, "-c", MOTO, str(port)], folder, os.environ) as it:
        it.wait_until(lambda: listens(port), "moto's port")
        yield {
            "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_ENDPOINT_URL_SQS": f"http://127.0.0.1:{port}",
        }


@contextmanager
def mongodb(folder: Path) -> Iterator[Environment]:
    """Start a MongoDB wire stand-in: SecantusDB, since no package source that the tests may use has MongoDB."""
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", ":memory:", "--standalone"]
    with started("mongodb", [Path(sys.executable).parent / "secantusd-py", *options], folder, os.environ) as it:
        it.wait_until(lambda: listens(port), "the port of the MongoDB wire stand-in")
        yield {"MONGODB_URL": f"mongodb://127.0.0.1:{port}"}


def versions(*names: str) -> Environment:
    """Return what the servers of these names are, and in which version; nothing for those that need none."""
    commands = {"postgresql": ["postgres", "PostgreSQL"], "redis": ["redis-server", "Redis"]}
    packages = {"mongodb": ["secantusdb", "MongoDB: a wire stand-in, SecantusDB"], "sqs": ["moto", "SQS: moto"]}
    found = {}
    for name in names:
        if name in commands:
            command, title = commands[name]
            printed = run([program(command), "--version"], Path.cwd(), os.environ)
            found[title] = re.search(r"\d+(\.\d+)+", printed)[0]  # type: ignore[index]
        elif name in packages:
            package, title = packages[name]
            found[title] = version(package)
    return found


BROKERS: dict[str, Server] = {server.__name__: server for server in (mongodb, redis, sqs)}


def program(name: str) -> Path:
    """Return the path of a server's program, or skip the test."""
    found = _find(name)
    if found is None:
        missing(f"{name} (apt-get install {PACKAGES[name]})")
    return found


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where all servers are promised."""
    if "CI" in os.environ:
        pytest.fail(f"not tested: there is no {what}", pytrace=False)
    pytest.skip(f"not tested: there is no {what}")


def _find(name: str) -> Path | None:
    # Debian keeps PostgreSQL's programs out of PATH, a folder for each version.
    folders = [*os.get_exec_path(), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    found = shutil.which(name, path=os.pathsep.join(folders))
    return Path(found) if found else None


def install() -> None:
    """Install the servers that are missing, or say which they are."""
    packages = sorted({package for name, package in PACKAGES.items() if _find(name) is None})
    if not packages:
        return
    apt = shutil.which("apt-get")
    if apt is None or os.getuid() != 0:
        print(f"Missing servers: install {', '.join(packages)}, or the tests that need them are skipped.")
        return
    print(f"Installing {', '.join(packages)} …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        subprocess.run([apt, "-qq", *command], env=environment, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    install()
