"""What the tests share."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest

from tests.broker_server import broker_server
from tests.processes import free_port, manage, running
from worker.processes import processes


@dataclass
class Site:
    """The whole site as it runs in production, with a database and a broker of its own."""

    url: str
    env: dict[str, str]
    processes: dict[str, Popen[bytes]]
    logs: Path


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables for real processes: a database, a broker and a folder for signs of life, all empty."""
    folder = tmp_path_factory.mktemp("site")
    for variables in broker_server(folder):
        env = {
            **variables,
            "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
            "DEBUG": "true",
            "PORT": str(free_port()),
            "TMPDIR": str(folder),
        }
        for command in ("migrate", "createcachetable"):
            done = manage(command, env=env)
            assert done.returncode == 0, done.stderr
        yield env


@pytest.fixture(scope="session")
def site(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run web and all workers."""
    folder = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        started = {
            process.name: stack.enter_context(running(process.name, environment, folder)) for process in processes()
        }
        yield Site(f"http://127.0.0.1:{environment['PORT']}", environment, started, folder)
