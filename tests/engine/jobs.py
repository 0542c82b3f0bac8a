"""Tasks for the tests, which the workers import."""
# mypy: disable-error-code="untyped-decorator, no-any-return"

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.models import Group
from django.core.cache import cache
from django.db.models import TextChoices
from django.utils.safestring import mark_safe
from worker.django_tasks import signals
from worker.tasks import exponential, task

soon = exponential(first=0, jitter=0)


class OddError(Exception):
    """An exception of the project's own."""


@task
def add(*numbers: int, **more: int) -> int:
    return sum(numbers) + sum(more.values())


@task
async def add_later(*numbers: int, **more: int) -> int:
    await asyncio.sleep(0.01)
    return sum(numbers) + sum(more.values()) + await Group.objects.filter(name="nobody").acount()


async def plain_later(*numbers: int) -> int:
    await asyncio.sleep(0.01)
    return sum(numbers)


@task(takes_context=True)
def tell(context: Any, number: int) -> list[Any]:
    result = context.task_result
    return [result.id, context.attempt, str(result.status), result.args, len(result.worker_ids), number]


@task(takes_context=True, max_attempts=3, backoff=soon)
def third_time(context: Any) -> list[Any]:
    if context.attempt < 3:
        raise OddError(f"attempt {context.attempt}")
    return [context.attempt, [error.exception_class_path for error in context.task_result.errors]]


@task(max_attempts=2, backoff=soon)
def fail(text: str) -> None:
    raise OddError(text)


@task(max_attempts=3, backoff=lambda exception, result: 600)
def fail_for_long() -> None:
    raise OddError("not yet")


class SilentError(Exception):
    """An exception that cannot be printed."""

    def __str__(self) -> str:
        """Raise."""
        raise RuntimeError("nothing to tell")


@task(max_attempts=1)
def fail_silently() -> None:
    raise SilentError


@task(max_attempts=1)
def leave() -> None:
    sys.exit("left")


@task(max_attempts=1)
def interrupt() -> None:
    raise KeyboardInterrupt


@task(max_attempts=1)
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(max_attempts=1)
def return_lock() -> Any:
    return threading.Lock()


@task(max_attempts=1)
def return_iterator() -> Iterator[int]:
    return iter([1])


@task(max_attempts=1)
def return_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@task(max_attempts=1)
def return_half() -> list[str]:
    return ["half \ud800"]


@task(takes_context=True)
def look_up(context: Any) -> list[Any]:
    result = context.task_result
    result.refresh()
    found = [result, *map(result.task.get_result, (result.id, result.id[:32]))]
    return [[str(each.status), each.attempts] for each in found]


@task(max_attempts=1)
def nest() -> None:
    raise ValueError(ValueError("deep"))


@task
def same(value: Any) -> Any:
    return value


@task
def pair() -> tuple[int, dict[str, tuple[int, ...]]]:
    return 1, {"a": (2, 3)}


class Kind(TextChoices):  # type: ignore[misc] # its types are not here
    """What a column holds, say."""

    PAID = "paid"


@task
def choose() -> list[Any]:
    return [Kind.PAID, {1: mark_safe("<b>")}]


@task
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@task(timeout=1, max_attempts=1)
def overrun() -> None:
    time.sleep(30)


@task(timeout=1, max_attempts=1)
async def overrun_later() -> None:
    await asyncio.sleep(30)


@task
def call_others(number: int) -> int:
    return add(number, 1)


@task(queue_name="default")
def named_as_options(group: str, timeout: int, cluster: str, q_options: str) -> list[Any]:
    return [group, timeout, cluster, q_options]


def wait_until(name: str, seconds: float) -> None:
    """Wait until a test has set something in the cache."""
    end = time.monotonic() + seconds
    while not cache.get(name) and time.monotonic() < end:
        time.sleep(0.05)


@task
def wait_for(name: str) -> str:
    wait_until(name, 30)
    return "let go"


def note(signal: str, sender: Any, task_result: Any) -> None:
    """Remember what a receiver in a worker has been told."""
    if task_result.task.name in {"add", "third_time", "fail", "die"}:
        told = cache.get(f"told-{task_result.id}") or []
        said = (signal, sender.__name__, str(task_result.status), task_result.attempts, len(task_result.errors))
        cache.set(f"told-{task_result.id}", [*told, said], 300)


def started(sender: Any, task_result: Any, **_: Any) -> None:
    note("started", sender, task_result)


def finished(sender: Any, task_result: Any, **_: Any) -> None:
    note("finished", sender, task_result)


def broken(sender: Any, task_result: Any, **_: Any) -> None:
    if task_result.args == [7]:
        raise ValueError("broken")
    if task_result.args == [8]:
        raise SystemExit("broken")


signals.task_started.connect(broken)
signals.task_started.connect(started)
signals.task_finished.connect(broken)
signals.task_finished.connect(finished)
