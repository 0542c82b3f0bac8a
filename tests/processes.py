"""Programs that run while a test looks on, and commands that end by themselves."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom
from typing import TypeVar

import pytest

T = TypeVar("T")
Command = Sequence[str | Path]
Environment = Mapping[str, str]

DEADLINE = 90.0  #: seconds after which a wait gives up; far more than anything takes on a machine that is not stuck
PAUSE = 0.05  #: seconds between two looks


def run(command: Command, cwd: Path, environment: Environment, expect: int = 0, seconds: float = 600) -> str:
    """Run a command to its end, and return what it printed; fail the test if it ends otherwise than expected."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{shown(command)} did not end within {seconds:.0f} s:\n{(error.output or b'').decode()}")
    if done.returncode != expect:
        pytest.fail(f"{shown(command)} ended with {done.returncode}, not {expect}:\n{done.stdout}")
    return done.stdout


def bare(**variables: str) -> Environment:
    """Return these variables and what any program needs: where others are, and where its temporary files may be."""
    return {"PATH": os.defpath, "TMPDIR": tempfile.gettempdir(), **variables}


def succeeds(command: Command, cwd: Path, environment: Environment, seconds: float = 60) -> bool:
    """Say whether a command ends with 0."""
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=seconds
    )
    return done.returncode == 0


def shown(command: Command) -> str:
    """Return a command as one would type it."""
    return " ".join(Path(part).name if Path(part).is_absolute() else str(part) for part in command)


def free_port() -> int:
    """Return a port on which nobody listens, below those that the system hands out by itself."""
    while True:
        port = SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


class Process:
    """A program in a session of its own, with its output in files."""

    def __init__(self, name: str, command: Command, cwd: Path, environment: Environment, logs: Path) -> None:
        """Start it."""
        self.name, self.is_gone = name, False
        self.out, self.err = logs / f"{name}.out", logs / f"{name}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait_until(self, condition: Callable[[], T | None], what: str) -> T:
        """Return the first answer that is true; fail the test if the program ends before, or it takes too long."""
        end = time.monotonic() + DEADLINE
        while True:
            running = self.popen.poll() is None
            if answer := condition():
                return answer
            if not running:
                pytest.fail(f"{self.name} ended with {self.popen.returncode} before {what}:\n{self.log()}")
            if time.monotonic() > end:
                pytest.fail(f"{what} did not come within {DEADLINE:.0f} s:\n{self.log()}")
            time.sleep(PAUSE)

    def wait_until_gone(self) -> None:
        """Wait until nothing is left of its session; fail the test if something stays."""
        end = time.monotonic() + DEADLINE
        while self.session():
            if time.monotonic() > end:
                pytest.fail(f"{self.name} has left processes behind: {self.session()}\n{self.log()}")
            time.sleep(PAUSE)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the main process, and return its exit code."""
        self.popen.send_signal(number)
        try:
            return self.popen.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} did not end after {number.name}:\n{self.log()}")

    def session(self) -> list[int]:
        """Return the processes that live in its session; once all have ended, its number may be a stranger's."""
        if self.is_gone:
            return []
        found = [pid for pid, session in _sessions() if session == self.popen.pid]
        self.is_gone = not found and self.popen.poll() is not None
        return found

    def kill(self) -> None:
        """End whatever is left of it."""
        for pid in self.session():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()

    def log(self) -> str:
        """Return the end of what it has printed."""
        return "\n".join(path.read_text(errors="replace")[-5000:] for path in (self.out, self.err))


def _sessions() -> Iterator[tuple[int, int]]:
    """Yield each process that is more than a name, and its session."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                yield int(folder.name), int(session)


@contextmanager
def started(
    name: str, command: Command, cwd: Path, environment: Environment, logs: Path | None = None
) -> Iterator[Process]:
    """Start a program, and leave nothing of it behind."""
    process = Process(name, command, cwd, environment, logs or cwd)
    try:
        yield process
    finally:
        process.kill()


def listens(port: int) -> bool:
    """Say whether somebody listens on a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
