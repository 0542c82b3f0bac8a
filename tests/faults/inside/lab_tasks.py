"""Tasks that keep a ledger outside of django-q2: a line when a task starts, and one when it ends."""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
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


def work_a_moment(key: str) -> str:
    """Take a moment: for calls that cannot say how long."""
    return work(key, 0.05)


def work_when_due(key: str, due: str) -> str:
    """Note for which time a schedule has queued this."""
    note("start", key)
    note("due", f"{key}@{due}".replace(" ", "T"))
    note("end", key)
    return key


def carry(key: str, load: bytes, size: int, seconds: float = 0.0) -> str:
    """Take a load along, and return a text of so many characters, of which all but the key is blank."""
    note("start", key)
    assert load.count(b"x") == len(load), "the load is damaged"
    time.sleep(seconds)
    note("end", key)
    return key.ljust(size)


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
    """Kill the others of the cluster, as the system does where it kills all of a container's processes for one.

    From inside, a container's first process cannot be killed: the main process ends by itself, for want of its agent.
    """
    note("start", key)
    main = os.getppid()
    with open(f"/proc/{main}/task/{main}/children") as children:
        others = {int(pid) for pid in children.read().split()} - {os.getpid()}
    for pid in others:
        os.kill(pid, signal.SIGKILL)
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


def fail_twice(key: str) -> str:
    """Fail at the first two attempts."""
    note("start", key)
    lines = open(os.environ["LAB_LEDGER"]).read().splitlines()  # noqa: SIM115 (read at once)
    if sum(line.startswith(f"start {key} ") for line in lines) < 3:
        raise ValueError("this task fails twice")
    note("end", key)
    return key


def fail_first(key: str, number: int, seconds: float = 0.0, sign: str = "") -> str:
    """Fail at so many attempts, each after so many seconds, or once there is a file as a sign."""
    note("start", key)
    time.sleep(seconds)
    while sign and not os.path.exists(sign):
        time.sleep(0.05)
    lines = open(os.environ["LAB_LEDGER"]).read().splitlines()  # noqa: SIM115 (read at once)
    if sum(line.startswith(f"start {key} ") for line in lines) <= number:
        note("failed", key)
        raise ValueError("this task fails at first")
    note("end", key)
    return key


def kill_who_asks(exception: BaseException, result: Any) -> None:
    """Be a backoff that ends its worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def use_a_pool(key: str) -> str:
    """Let two further processes work."""
    import multiprocessing

    note("start", key)
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, range(-10, 0)) == list(range(10, 0, -1))
    note("end", key)
    return key


def leave_a_thread(key: str) -> str:
    """Leave a thread behind that is no daemon."""
    import threading

    note("start", key)
    threading.Thread(target=time.sleep, args=(600,)).start()
    note("end", key)
    return key


def spoil_pickle(key: str) -> str:
    """Let nothing be unpickled any more."""
    import pickle

    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise RuntimeError("pickle is spoilt")

    note("start", key)
    pickle.loads = refuse
    note("end", key)
    return key


def write_everywhere(key: str) -> str:
    """Write to all descriptors."""
    note("start", key)
    note("end", key)
    for descriptor in range(3, 64):
        with suppress(OSError):
            os.write(descriptor, b"garbage")
    return key


def allow_small_files_only(key: str) -> str:
    """Let writes be cut short."""
    import resource

    note("start", key)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    note("end", key)
    return key.ljust(200_000)


def leave_all_files_open(key: str) -> str:
    """Open files until there can be no more, and keep them."""
    note("start", key)
    note("end", key)
    with suppress(OSError):
        while True:
            left_open.append(os.dup(1))
    return key


left_open: list[int] = []


def leave_a_loop_running(key: str) -> str:
    """Leave an event loop as Playwright does, whose start() goes on in it until stop() is called."""
    import asyncio

    note("start", key)
    asyncio._set_running_loop(asyncio.new_event_loop())  # noqa: SLF001
    note("end", key)
    return key


def lose_the_database(key: str) -> str:
    """Let this process, and no other, look for the database where there is none."""
    from django.db import connection

    note("start", key)
    connection.close()
    connection.settings_dict["PORT"] = "1"
    note("end", key)
    return key


# Hooks. They get the row of a task, or what would be one, whose name is the key in the ledger.


def hook(task: Any) -> None:
    """Note that it was called."""
    note("hook", f"{task.name}:{task.attempt_count}")


def hook_that_looks(task: Any) -> None:
    """Note what another connection to the database knows of the attempt, and whether a transaction is under way."""
    from django.db import connection

    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT attempt_count FROM django_q_task WHERE id = %s", [task.id])
        found = cursor.fetchone()
    other.close()
    note("hook", f"{task.name}:{task.attempt_count}:{found and found[0]}:{connection.in_atomic_block}")


def hook_that_fails(task: Any) -> None:
    """Raise."""
    hook(task)
    raise ValueError("this hook always fails")


def hook_that_exits(task: Any) -> None:
    """Leave as a script would."""
    hook(task)
    sys.exit(3)


def hook_that_interrupts(task: Any) -> None:
    """Raise what is no Exception."""
    hook(task)
    raise KeyboardInterrupt


def hook_that_leaves(task: Any) -> None:
    """End the process at once."""
    hook(task)
    os._exit(1)


def hook_that_never_ends(task: Any) -> None:
    """Exceed every limit."""
    hook(task)
    time.sleep(10**6)


def hook_that_violates_a_constraint(task: Any) -> None:
    """Let the database refuse a row, and go on; in a transaction that would be over with that."""
    from django.contrib.auth.models import Group
    from django.db import IntegrityError

    hook(task)
    for _ in range(2):
        try:
            Group.objects.create(name=f"group of {task.name}")
        except IntegrityError:
            note("refused", task.name)
    Group.objects.get(name=f"group of {task.name}")
    note("went-on", task.name)


def hook_that_violates_a_constraint_and_fails(task: Any) -> None:
    """Let the database refuse a row, and raise what it says."""
    from django.contrib.auth.models import Group

    hook(task)
    for _ in range(2):
        Group.objects.create(name=f"group of {task.name}")


def hook_that_leaves_a_transaction(task: Any) -> None:
    """Begin a transaction, and neither commit it nor roll it back."""
    from django.db import transaction

    hook(task)
    transaction.set_autocommit(False)


def hook_that_saves(task: Any) -> None:
    """Save the row once more, as hooks do that note something in it."""
    hook(task)
    task.save()
