"""The baked project in whose folder the tests run: its commands, and its processes, waited for by what they do."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import IO

PROJECT = Path.cwd()
HERE = Path(__file__).resolve().parent
DEADLINE = 60.0  #: seconds that a condition may take to come true


@dataclass
class Site:
    """The whole site as it runs in production."""

    url: str
    env: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]]
    logs: Path


def variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process of the project: it also finds what the tests let it run."""
    return {**os.environ, **env, "PYTHONPATH": os.pathsep.join([*filter(None, [env.get("PYTHONPATH")]), str(HERE)])}


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Return as soon as the condition holds; fail if it does not in time."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {DEADLINE:.0f} s"
        time.sleep(0.1)


def free_port() -> int:
    """Return a port that nobody listens on, below those that the system gives to connections by itself."""
    while True:
        port = SystemRandom().randrange(10_000, 30_000)
        with suppress(OSError), socket.create_server(("", port)):
            return port


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when somebody listens on the port; fail if the process ends before."""

    def listening() -> bool:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listening, f"a server on port {port}")


def manage(
    *args: str, env: Mapping[str, str], stdout: int | IO[str] = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a management command and return how it ended."""
    return subprocess.run(
        [sys.executable, "manage.py", *args],
        cwd=PROJECT,
        env=variables(env),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@contextmanager
def running(name: str, env: Mapping[str, str], folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of PRODUCTION_PROCESSES until the block ends, once its health check has passed."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", *(command or ("prodserver", name))],
            cwd=PROJECT,
            env=variables(env),
            stdout=output,
            stderr=output,
            process_group=0,  # in the session of the tests, which ends with them
        )

    def healthy() -> bool:
        assert process.poll() is None, f"{name} ended with {process.returncode}:\n{log.read_text()}"
        return manage("health_check", name, env=env).returncode == 0

    try:
        wait_for(healthy, f"health of {name}")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{name} did not end:\n{log.read_text()}") from None
