"""Fills a queue by `.enqueue()`, and prints how many a second: `python -m bench.enqueue_tasks TASK NUMBER`.

With a third argument that is not 0, they are due at random moments of so many seconds, once all are queued.
"""

import random
import sys
import time
from datetime import UTC, datetime
from typing import Any

import django

WARM = 20  #: tasks before one that is due: the first connects, and imports in a worker
MARGIN = 2.0  #: seconds from when all should be queued until the first is due


def main() -> None:
    """Queue tasks."""
    django.setup()
    from bench import django_tasks

    task, number, seconds = getattr(django_tasks, sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    if seconds:
        delay(task, django_tasks.nothing, number, seconds)
        return
    task.enqueue()  # connects
    begin = time.perf_counter()
    for _ in range(number - 1):
        task.enqueue()
    print((number - 1) / (time.perf_counter() - begin))


def delay(task: Any, nothing: Any, number: int, seconds: float) -> None:
    """Queue tasks that are due later, those first that are due first, and none when it is due already."""
    begin = time.time()
    for _ in range(WARM):
        nothing.enqueue()
    now, moments = time.time(), random.Random(1)  # noqa: S311  # the same for all systems
    first = now + MARGIN + 2 * (now - begin) / WARM * number
    for due in sorted(first + moments.uniform(0, seconds) for _ in range(number)):
        task.using(run_after=datetime.fromtimestamp(due, UTC)).enqueue(due)
    if time.time() > first:
        raise SystemExit("Queuing has taken so long that tasks were due already.")


main()
