"""Baked projects: their files, and what it takes to run their commands."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock
from uv import find_uv_bin

from tests.browser import HOST
from tests.processes import Command, Environment, run

#: What a platform sets in production, apart from the addresses of servers.
PRODUCTION: Mapping[str, str] = {
    "ALLOWED_HOSTS": HOST,
    "AWS_REGION": "eu-west-1",
    "SECRET_KEY": hashlib.sha256(b"a key that nobody need keep").hexdigest(),
}


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder, by their path in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of a folder."""
    return {name: path.read_bytes() for name, path in files(folder)}


def python_of(folder: Path) -> str:
    """Return the same text for projects that hold the same Python, and need the same packages.

    What lies in a hidden folder is a platform's, and no process of the project imports it.
    """
    found = hashlib.sha256()
    for name, path in files(folder):
        if name.startswith(".") and "/" in name:
            continue
        if path.suffix == ".py" or name in {"pyproject.toml", ".python-version"}:
            found.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def uv_environment(python: Path) -> Environment:
    """Return the environment in which uv uses this interpreter, and no environment of the tests' own."""
    own = {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"}
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    return {**inherited, "UV_PYTHON": str(python), "UV_PYTHON_DOWNLOADS": "never"}


class Environments:
    """Virtual environments, one for each pyproject.toml and interpreter, shared by all processes of a test run."""

    def __init__(self, folder: Path) -> None:
        """Keep them in this folder."""
        self.folder = folder

    def python(self, project: Path, interpreter: Path) -> Path:
        """Return the Python of the project's environment, which is made when it is first asked for."""
        content = (project / "pyproject.toml").read_bytes()
        folder = self.folder / hashlib.sha256(content + bytes(interpreter)).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not (folder / "pyproject.toml").exists():
                making = folder / "making"
                shutil.rmtree(making, ignore_errors=True)
                making.mkdir()
                (making / "pyproject.toml").write_bytes(content)
                sync: Command = [find_uv_bin(), "sync", "--quiet"]
                run(sync, making, {**uv_environment(interpreter), "UV_PROJECT_ENVIRONMENT": str(folder / "venv")})
                (making / "pyproject.toml").rename(folder / "pyproject.toml")
        return folder / "venv" / "bin" / "python"


@dataclass(frozen=True)
class Workplace:
    """A copy of a project in which commands may leave files, and the Python that has its packages."""

    path: Path
    python: Path
    temporary: Path

    @classmethod
    def of(cls, project: Path, interpreter: Path, environments: Environments, folder: Path) -> Self:
        """Copy a project to a path with a space, and see to its environment."""
        copy = folder / "a place" / project.name
        shutil.copytree(project, copy)
        temporary = folder / "temporary"
        temporary.mkdir()
        return cls(copy, environments.python(project, interpreter), temporary)

    def environment(self, variables: Mapping[str, str]) -> Environment:
        """Return variables and what any program needs, and nothing of the environment of the tests."""
        return {
            "HOME": str(self.temporary),
            "LANG": "C.UTF-8",
            "PATH": f"{self.python.parent}{os.pathsep}{os.defpath}",
            "TMPDIR": str(self.temporary),
            **variables,
        }

    def run(self, *command: str, environment: Mapping[str, str] = PRODUCTION, expect: int = 0) -> str:
        """Run one of the programs that the project has installed, and return what it printed."""
        return run([self.python.parent / command[0], *command[1:]], self.path, self.environment(environment), expect)

    def manage(self, *arguments: str, environment: Mapping[str, str] = PRODUCTION, expect: int = 0) -> str:
        """Run a command of manage.py."""
        return self.run("python", "manage.py", *arguments, environment=environment, expect=expect)


class Sharing:
    """Lets only the first of several projects that are alike go through a costly test."""

    def __init__(self, *, nothing: bool) -> None:
        """Share runs, or nothing."""
        self.nothing = nothing
        self._first: dict[tuple[Callable[..., object], str], str] = {}

    def first(self, test: Callable[..., object], likeness: str, name: str) -> str:
        """Return the name of the first project like this one in this test: its own name, if it is the first."""
        return name if self.nothing else self._first.setdefault((test, likeness), name)
