"""Tasks that keep a ledger outside of django-q2: a line when a task starts, and one when it ends."""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn


def note(event: str, key: str) -> None:
    """Add a line, whole and at once, whoever else does."""
    ledger = os.open(os.environ["LAB_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{event} {key} {os.getpid()} {time.time():.3f}\n".encode())
    os.close(ledger)


def work(key: str, seconds: float = 0.0) -> str:
    """Take so many seconds."""
    note("start", key)
    time.sleep(seconds)
    note("end", key)
    return key


def work_when_due(key: str, due: str) -> str:
    """Note for which time a schedule has queued this."""
    note("start", key)
    note("due", f"{key}@{due}")
    note("end", key)
    return key


def write_a_row(key: str) -> str:
    """Write to the project's database."""
    from django.contrib.auth.models import Group

    note("start", key)
    Group.objects.create(name=key)
    note("end", key)
    return key


def leave(key: str) -> NoReturn:
    """End the worker at once."""
    note("start", key)
    os._exit(1)


def be_killed(key: str) -> None:
    """Die as one that the system kills, for want of memory say."""
    note("start", key)
    os.kill(os.getpid(), signal.SIGKILL)


def take_all_along(key: str) -> None:
    """Kill the whole cluster, as the system does where it kills all of a container's processes for one."""
    note("start", key)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def eat(key: str) -> NoReturn:
    """Take all memory that there is, and a lot at most where nothing limits it."""
    note("start", key)
    eaten = [b"x" * 4_000_000 for _ in range(256)]
    raise ValueError(f"nothing has stopped this task at {len(eaten) * 4} MB")


def burn(key: str, seconds: float) -> str:
    """Keep a processor busy."""
    note("start", key)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    note("end", key)
    return key


def call_exit(key: str) -> NoReturn:
    """Leave as a script would."""
    note("start", key)
    sys.exit(3)


def fail(key: str) -> NoReturn:
    """Raise an exception."""
    note("start", key)
    raise ValueError("this task always fails")


def sleep_for_ever(key: str) -> None:
    """Exceed every limit, in Python."""
    note("start", key)
    while True:
        time.sleep(1)


def be_stuck(key: str) -> None:
    """Exceed every limit in C, where no Python handler of a signal can run."""
    note("start", key)
    re.fullmatch("(a+)+b", "a" * 60)


def sleep_in_c(key: str) -> None:
    """Sleep in C until a signal comes, and again."""
    note("start", key)
    while True:
        ctypes.CDLL(None).sleep(60)


def return_a_lambda(key: str) -> Callable[[], None]:
    """Return what cannot be pickled."""
    note("start", key)
    return lambda: None


class Trap:
    """What can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave instructions that fail."""
        return int, ("not a number",)


def return_a_trap(key: str) -> Trap:
    """Return what cannot be unpickled."""
    note("start", key)
    return Trap()


class Argument:
    """An argument of a class of this module, which a test can let vanish."""


def take(key: str, argument: "Argument") -> str:
    """Take an argument of a class."""
    return work(key)


if "LAB_WITHOUT_ARGUMENT" in os.environ:  # as after a deployment that has renamed it
    del Argument
