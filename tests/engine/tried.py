"""Tasks that fail, and backoffs, for tests, which the worker imports."""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

SOON = 1.0  #: seconds


def note(folder: str, key: str, what: str) -> int:
    """Add a line about a task, and return how many there are."""
    path = Path(folder, key)
    with path.open("a") as file:
        file.write(f"{what} {time.time():.3f}\n")
    return len(path.read_text().splitlines())


def fail(folder: str, key: str, *classes: str) -> str:
    """Raise an exception of each of these classes, an attempt each, and then succeed."""
    number = note(folder, key, "start")
    if number <= len(classes):
        raise {"ValueError": ValueError, "KeyError": KeyError, "OSError": OSError}[classes[number - 1]](f"no {number}")
    return key


def die(folder: str, key: str) -> NoReturn:
    """End the worker, as the system does for want of memory."""
    note(folder, key, "start")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def sleep(folder: str, key: str) -> None:
    """Take longer than any limit."""
    note(folder, key, "start")
    time.sleep(600)


def be_deaf(folder: str, key: str) -> None:
    """Take longer than any limit, and hear of none."""
    note(folder, key, "start")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(600)


def return_a_lambda(folder: str, key: str) -> Callable[[], None]:
    """Return what cannot be kept."""
    note(folder, key, "start")
    return lambda: None


def note_end(task: Any) -> None:
    """Note what a hook is told."""
    note(task.args[0], f"hook of {task.args[1]}", f"{task.success} {task.result}")


def soon(exception: BaseException, result: Any) -> timedelta:
    """Wait for a moment."""
    return timedelta(seconds=SOON)


def stop(exception: BaseException, result: Any) -> None:
    """Try no more."""


def kill(exception: BaseException, result: Any) -> NoReturn:
    """End the worker that asks."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def after_two(exception: BaseException, result: Any) -> float | None:
    """Stop once two attempts have failed in different ways."""
    kinds = {error.exception_class_path for error in result.errors}
    return None if len(kinds) == result.attempts == 2 else SOON


def linger(folder: str, key: str) -> None:
    """Take a moment."""
    note(folder, key, "start")
    time.sleep(0.05)
