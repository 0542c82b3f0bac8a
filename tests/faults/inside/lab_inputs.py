"""Inputs that a worker must survive: what is queued, by a name that says what is odd about it.

Each has its name as its key in the ledger.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import lab_tasks
from lab_tasks import note, work

FOR_EVER = 10**6  #: seconds


# What is odd


class Repulsive:
    """Refuses to be printed."""

    def __repr__(self) -> NoReturn:
        """Raise."""
        raise RuntimeError("this object cannot be printed")

    __str__ = __repr__

    def work(self, key: str) -> str:
        """Be a task."""
        return str(work(key))


class Stubborn:
    """Never ends to be printed."""

    def __repr__(self) -> str:
        """Sleep."""
        time.sleep(FOR_EVER)
        return ""

    __str__ = __repr__


class Evasive:
    """Refuses to be compared, and to be true or false."""

    def __eq__(self, other: object) -> NoReturn:
        """Raise."""
        raise RuntimeError("this object cannot be compared")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> NoReturn:
        """Raise."""
        raise RuntimeError("this object is neither true nor false")


class Opens:
    """Calls something when it is unpickled, and is what that returns."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        """Remember it."""
        self.instructions = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave it as instructions."""
        return self.instructions


class Packs:
    """Calls something when it is pickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        """Remember it."""
        self.instructions = function, args

    def __reduce__(self) -> str:
        """Call it."""
        function, args = self.instructions
        function(*args)
        return "never looked at"


class Caller:
    """Can be called like a function, and refuses to be printed."""

    def __call__(self, key: str) -> str:
        """Be a task."""
        return str(work(key))

    def __repr__(self) -> NoReturn:
        """Raise."""
        raise RuntimeError("this task cannot be printed")


class Product:
    """A class that is itself the function of a task."""

    def __init__(self, key: str) -> None:
        """Be a task."""
        work(key)


class SilentError(Exception):
    """An exception that refuses to be printed."""

    def __str__(self) -> NoReturn:
        """Raise."""
        raise RuntimeError("this exception cannot be printed")

    __repr__ = __str__


class EndlessError(Exception):
    """An exception that never ends to be printed."""

    def __str__(self) -> str:
        """Sleep."""
        time.sleep(FOR_EVER)
        return ""


class FatalError(Exception):
    """An exception that ends whoever prints it."""

    def __str__(self) -> NoReturn:
        """Leave."""
        sys.exit(3)


class Base(BaseException):
    """What is an exception, and no Exception."""


def throw(name: str) -> NoReturn:
    """Raise what has this name."""
    raise {each.__name__: each for each in (KeyboardInterrupt, GeneratorExit, MemoryError, SilentError)}[name]


def die() -> None:
    """Be killed by the system."""
    os.kill(os.getpid(), signal.SIGKILL)


def packs_only_once() -> Any:
    """Return what cannot be pickled, where what leads here could."""
    return Packs(throw, "MemoryError")


def packs_for_ever() -> Any:
    """Return what never ends to be pickled."""
    return Packs(time.sleep, FOR_EVER)


def packs_and_exits() -> Any:
    """Return what ends the process that pickles it."""
    return Packs(os._exit, 1)


def deep(levels: int) -> list[Any]:
    """Return a list in a list in a list."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def count() -> Iterator[int]:
    """Generate."""
    yield from range(3)


RESULTS: dict[str, Callable[[], Any]] = {
    "result-is-a-generator": count,
    "result-is-a-lock": threading.Lock,
    "result-cannot-be-printed": Repulsive,
    "result-cannot-be-compared": Evasive,
    "result-is-very-deep": partial(deep, 100_000),
    "result-has-nul-and-a-surrogate": partial(str, "\0\udce9"),
    "packing-the-result-never-ends": partial(Packs, time.sleep, FOR_EVER),
    "packing-the-result-exits": partial(Packs, sys.exit, 3),
    "packing-the-result-leaves": partial(Packs, os._exit, 1),
    "packing-the-result-interrupts": partial(Packs, throw, "KeyboardInterrupt"),
    "opening-the-result-fails": partial(Opens, int, "not a number"),
    "opening-the-result-never-ends": partial(Opens, time.sleep, FOR_EVER),
    "opening-the-result-exits": partial(Opens, sys.exit, 3),
    "opening-the-result-leaves": partial(Opens, os._exit, 1),
}


def give(key: str) -> Any:
    """Return the result of this name."""
    note("start", key)
    result = RESULTS[key]()
    note("end", key)
    return result


def recurse(levels: int = 0) -> int:
    """Call itself for ever."""
    return recurse(levels + 1) + 1


def raises(error: BaseException) -> Callable[[], NoReturn]:
    """Return a function that raises this."""

    def function() -> NoReturn:
        raise error

    return function


def a_circle() -> NoReturn:
    """Raise an error that is its own cause, by another one."""
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


ERRORS: dict[str, Callable[[], Any]] = {
    "raises-what-cannot-be-printed": raises(SilentError()),
    "raises-what-never-ends-to-be-printed": raises(EndlessError()),
    "raises-what-exits-when-printed": raises(FatalError()),
    "raises-SystemExit": raises(SystemExit(3)),
    "raises-SystemExit-with-an-object": raises(SystemExit(Repulsive())),
    "raises-KeyboardInterrupt": raises(KeyboardInterrupt()),
    "raises-GeneratorExit": raises(GeneratorExit()),
    "raises-StopIteration": raises(StopIteration()),
    "raises-BaseException": raises(Base("neither an error nor an exit")),
    "raises-MemoryError": raises(MemoryError()),
    "raises-RecursionError": recurse,
    "raises-a-group": raises(BaseExceptionGroup("two", [ValueError("one"), KeyboardInterrupt()])),
    "raises-a-circle": a_circle,
    "raises-ten-megabytes": raises(ValueError("x" * 10_000_000)),
    "raises-nul-and-a-surrogate": raises(ValueError("\0\udce9")),
    "raises-with-an-object": raises(ValueError(Repulsive())),
    "raises-at-an-odd-place": raises(SyntaxError("odd", ("file", "no number", "no offset", "text"))),  # type: ignore[arg-type]
}


def err(key: str) -> Any:
    """Raise the error of this name."""
    note("start", key)
    ERRORS[key]()


# Tasks that do to their process what a task should not


def fork(key: str) -> str:
    """Return in two processes."""
    if os.fork():
        note("start", key)
        time.sleep(0.5)  # the other one, if it were to take a task, has time to do so
        note("end", key)
    return key


def fork_and_linger(key: str) -> str:
    """Leave a process behind that has all descriptors of this one."""
    note("start", key)
    if os.fork() == 0:
        time.sleep(120)
        os._exit(0)
    note("end", key)
    return key


def close_descriptors(key: str) -> str:
    """Close everything that is open."""
    note("start", key)
    os.closerange(3, 4096)
    return key


def close_streams(key: str) -> str:
    """Close stdout and stderr."""
    note("start", key)
    os.close(1)
    os.close(2)
    return key


def refuse_signals(key: str) -> None:
    """Ignore what would end it, and never end."""
    note("start", key)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(FOR_EVER)


def stop_the_group(key: str) -> str:
    """Stop its own group, as one does who means that of a program that was started without one."""
    note("start", key)
    os.killpg(os.getpgid(0), signal.SIGTERM)
    return key


def kill_the_group(key: str) -> None:
    """Kill its own group."""
    note("start", key)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def take_the_alarm(key: str) -> str:
    """Use the alarm for its own ends, and let it ring once this task is over."""
    note("start", key)
    signal.signal(signal.SIGALRM, lambda *_: note("alarm", key))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    note("end", key)
    return key


def leave_a_transaction(key: str) -> str:
    """Begin a transaction, and leave it open."""
    from django.db import transaction

    transaction.set_autocommit(False)
    return str(lab_tasks.write_a_row(key))


def leave_a_broken_connection(key: str) -> str:
    """Close the connection to the database behind Django's back."""
    from django.db import connection

    lab_tasks.write_a_row(key)
    connection.connection.close()
    return key


def leave_a_process(key: str) -> str:
    """Leave a program behind, with the descriptors that it inherits."""
    import subprocess

    note("start", key)
    subprocess.Popen(["sleep", "120"])  # noqa: S607
    note("end", key)
    return key


def leave_the_folder(key: str) -> str:
    """Go to a folder, and remove it."""
    import tempfile

    note("start", key)
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    note("end", key)
    return key


def start_a_thread_that_fails(key: str) -> str:
    """Let a thread raise, and another one leave as a script would."""
    note("start", key)
    for function in (raises(ValueError("in a thread")), raises(SystemExit(3))):
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()
    note("end", key)
    return key


# All of them: a function, what follows the key in the task's arguments, and options of async_task()

Input = tuple[Any, tuple[Any, ...], dict[str, Any]]
TASK = "lab_tasks.work"
TAKE = "lab_tasks.take"
LONG = "x" * 10_000


def of_options(options: dict[str, dict[str, Any]]) -> dict[str, Input]:
    """Return inputs that differ in an option only."""
    return {name: (TASK, (), each) for name, each in options.items()}


def of_functions(functions: dict[str, Any]) -> dict[str, Input]:
    """Return inputs that differ in their function only."""
    return {name: (function, (), {}) for name, function in functions.items()}


def of_arguments(arguments: dict[str, Any]) -> dict[str, Input]:
    """Return inputs that differ in an argument only."""
    return {name: (TAKE, (argument,), {}) for name, argument in arguments.items()}


INPUTS: dict[str, Input] = {
    **of_options(
        {
            "name-has-a-lone-surrogate": {"task_name": "import-caf\udce9.pdf"},
            "name-has-nul": {"task_name": "a\0b"},
            "name-is-very-long": {"task_name": LONG},
            "name-is-long-in-bytes": {"task_name": "é" * 100},
            "name-is-a-number": {"task_name": 5},
            "name-is-bytes": {"task_name": b"name"},
            "name-cannot-be-printed": {"task_name": Repulsive()},
            "group-has-a-lone-surrogate": {"group": "caf\udce9"},
            "group-has-nul": {"group": "a\0b"},
            "group-is-very-long": {"group": LONG},
            "group-is-a-number": {"group": 5},
            "group-cannot-be-printed": {"group": Repulsive()},
            "hook-is-very-long": {"hook": f"lab_tasks.{LONG}"},
            "hook-has-nul": {"hook": "lab_tasks.ho\0ok"},
            "hook-has-a-lone-surrogate": {"hook": "lab_tasks.caf\udce9"},
            "hook-is-a-number": {"hook": 5},
            "hook-is-not-there": {"hook": "lab_tasks.gone"},
            "hook-cannot-be-imported": {"hook": "lab_broken.hook"},
            "hook-exits-at-import": {"hook": "lab_exits.hook"},
            "hook-cannot-be-printed": {"hook": Caller()},
            "cached-is-a-word": {"cached": "soon"},
            "cached-cannot-be-printed": {"cached": Repulsive()},
            "timeout-is-a-word": {"timeout": "soon"},
            "timeout-is-negative": {"timeout": -5},
            "timeout-is-huge": {"timeout": 10**12},
            "timeout-is-infinite": {"timeout": float("inf")},
            "timeout-is-no-number": {"timeout": float("nan")},
            "timeout-cannot-be-printed": {"timeout": Repulsive()},
            "iter-count-is-a-word": {"iter_count": "many", "group": "words", "cached": True},
            "chain-is-a-word": {"chain": "abc", "group": "word"},
            "chain-is-a-number": {"chain": 5, "group": "number"},
            "save-cannot-be-compared": {"save": Evasive()},
        }
    ),
    **of_functions(
        {
            "func-is-none": None,
            "func-is-empty": "",
            "func-has-no-dots": "work",
            "func-is-not-there": "lab_tasks.gone",
            "func-is-a-number": 5,
            "func-is-bytes": b"lab_tasks.work",
            "func-is-a-dictionary": {"lab_tasks": "work"},
            "func-has-nul": "lab_tasks\0.work",
            "func-has-a-lone-surrogate": "lab_tasks.caf\udce9",
            "func-is-very-long": f"lab_tasks.{LONG}",
            "func-is-a-module": "lab_tasks",
            "func-is-no-function": "lab_inputs.INPUTS",
            "func-cannot-be-imported": "lab_broken.work",
            "func-exits-at-import": "lab_exits.work",
            "func-is-not-given-away": "lab_odd.work",
            "func-takes-no-argument": "lab_inputs.count",
            "func-is-a-class": Product,
            "func-is-a-partial": partial(work, seconds=0.0),
            "func-is-a-method-of-what-cannot-be-printed": Repulsive().work,
            "func-is-an-object-that-cannot-be-printed": Caller(),
        }
    ),
    **of_arguments(
        {
            "argument-opens-to-a-lock": Opens(threading.Lock),
            "argument-cannot-be-printed": Repulsive(),
            "argument-never-ends-to-be-printed": Stubborn(),
            "argument-cannot-be-compared": Evasive(),
            "argument-is-deep": deep(150),
            "argument-has-nul-and-a-surrogate": "\0\udce9",
            "argument-packs-only-once": Opens(packs_only_once),
            "argument-packs-for-ever": Opens(packs_for_ever),
            "argument-exits-when-packed-again": Opens(packs_and_exits),
            "opening-the-argument-fails": Opens(int, "not a number"),
            "opening-the-argument-raises-what-cannot-be-printed": Opens(throw, "SilentError"),
            "opening-the-argument-interrupts": Opens(throw, "KeyboardInterrupt"),
            "opening-the-argument-exits": Opens(sys.exit, 3),
            "opening-the-argument-leaves": Opens(os._exit, 1),
            "opening-the-argument-kills": Opens(die),
            "opening-the-argument-never-ends": Opens(time.sleep, FOR_EVER),
        }
    ),
    # Of a function that is not imported where it is queued, or it would be refused there.
    "keyword-is-unknown": ("colorsys.rgb_to_hsv", (), {"unknown": Repulsive()}),
    **{name: ("lab_inputs.give", (), {}) for name in RESULTS},
    **{name: ("lab_inputs.err", (), {}) for name in ERRORS},
    **of_functions(
        {
            "returns-in-two-processes": "lab_inputs.fork",
            "leaves-a-copy-of-its-process": "lab_inputs.fork_and_linger",
            "closes-all-descriptors": "lab_inputs.close_descriptors",
            "closes-its-streams": "lab_inputs.close_streams",
            "refuses-signals": "lab_inputs.refuse_signals",
            "stops-its-group": "lab_inputs.stop_the_group",
            "kills-its-group": "lab_inputs.kill_the_group",
            "takes-the-alarm": "lab_inputs.take_the_alarm",
            "leaves-a-transaction": "lab_inputs.leave_a_transaction",
            "leaves-a-broken-connection": "lab_inputs.leave_a_broken_connection",
            "leaves-a-program": "lab_inputs.leave_a_process",
            "leaves-its-folder": "lab_inputs.leave_the_folder",
            "leaves-a-thread": "lab_tasks.leave_a_thread",
            "starts-threads-that-fail": "lab_inputs.start_a_thread_that_fails",
        }
    ),
}

#: Payloads that are signed as they should be, and hold something else than a task.
PAYLOADS: dict[str, Any] = {
    "a-list": [1, 2],
    "nothing": None,
    "an-empty-dictionary": {},
    "no-function": {"id": "a" * 32, "name": "no-function"},
    "an-odd-id": {"id": Repulsive(), "name": "odd", "func": TASK, "args": ("odd-id",), "kwargs": {}},
    "a-long-id": {"id": LONG, "name": "long", "func": TASK, "args": ("long-id",), "kwargs": {}},
    "arguments-that-are-none": {"id": "b" * 32, "name": "none", "func": TASK, "args": 5, "kwargs": None},
}
