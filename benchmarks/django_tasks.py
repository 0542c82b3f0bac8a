"""Django's tasks: how many a second are queued by `.enqueue()`, and drained; and how late those are that wait."""

import statistics
from dataclasses import replace

from benchmarks.bench import Bench
from benchmarks.drain import drained, wait
from benchmarks.systems import FILL, System

SECONDS = 10.0  #: over which the moments at which tasks are due are spread


def through_tasks(bench: Bench, system: System, number: int) -> tuple[float, float]:
    """Queue tasks from one process, start workers, and return both rates."""
    run = bench.run(replace(system, fill=FILL))
    printed = run.call("-m", FILL, "nothing", str(number), "0")
    return float(printed.splitlines()[-1]), drained(run, number)  # behind the log


def delay(bench: Bench, system: System, number: int) -> list[float]:
    """Queue tasks that are due later, while workers idle, and return by how many milliseconds they were late.

    It is the least, the median, the worst hundredth and the most.
    """
    run = bench.run(system)
    with run.workers() as workers:
        run.call("-m", FILL, "be_due", str(number), str(SECONDS))
        late = sorted(wait(workers[0], lambda: run.times("late", number)))
    found = [late[0], statistics.median(late), statistics.quantiles(late, n=100)[98], late[-1]]
    return [seconds * 1000 for seconds in found]
