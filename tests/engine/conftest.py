"""What the tests of the engine share. They run inside a baked project: see pytest.ini."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from project import Site, free_port, manage, running
from worker.processes import processes


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for real processes, beside those that lead to the servers, and a database that is set up."""
    env = {
        "DEBUG": "true",
        "METRICS_TOKEN": secrets.token_urlsafe(),
        "PORT": str(free_port()),
        "TMPDIR": str(tmp_path_factory.mktemp("temporary")),
    }
    for command in ("migrate", "createcachetable"):
        done = manage(command, env=env)
        assert done.returncode == 0, done.stderr
    return env


@pytest.fixture(scope="session")
def django_db_setup(environment: dict[str, str]) -> None:
    """Use the database of the environment itself: what runs in threads and processes must see the same."""


@pytest.fixture(scope="session")
def site(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run web and all workers."""
    folder = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        started = {
            process.name: stack.enter_context(running(process.name, environment, folder)) for process in processes()
        }
        yield Site(f"http://127.0.0.1:{environment['PORT']}", environment, started, folder)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide an empty folder for signs of life."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path
