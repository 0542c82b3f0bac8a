"""How many tasks a second workers take from a full queue: from the first that begins to the last that is saved."""

import subprocess
import time
from collections.abc import Callable

from benchmarks.bench import Bench, Run
from benchmarks.systems import System
from tests.processes import Command, Process, T

LIMIT = 45.0  #: seconds for tasks that take some five

# It is there, and connected, before the workers: its own start is not to count as time that a result took. It asks the
# database only once all tasks have ended.
WAIT_FOR = """
import os, psycopg, sys, time
query, number, ended = sys.argv[1], int(sys.argv[2]), os.path.join(os.environ["BENCH_FOLDER"], "ended")
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
    while not os.path.exists(ended) or os.path.getsize(ended) < 8 * number:
        time.sleep(0.02)
    while connection.execute(query).fetchone()[0] < number:
        time.sleep(0.02)
print(time.time())
"""


class NotEndedError(Exception):
    """A system has not ended its tasks in its time: that is a finding, and no reason to end the run."""


def wait(worker: Process, condition: Callable[[], T | None]) -> T:
    """Return the first answer that is true."""
    end = time.monotonic() + LIMIT

    def answer() -> T | None:
        found = condition()
        if not found and time.monotonic() > end:
            raise NotEndedError(worker.log())
        return found

    return worker.wait_until(answer, "all results")


def drain(bench: Bench, system: System, task: str, number: int, size: int = 0) -> float:
    """Fill a queue with tasks of so many bytes, start workers, and return the rate.

    A result counts once it is saved; of a system that keeps none, a task that has ended.
    """
    run = bench.run(system)
    run.call("-m", system.fill, task, str(number), str(size))
    return drained(run, number)


def drained(run: Run, number: int) -> float:
    """Start workers, and return the rate at which they take so many tasks that wait."""
    bench, system = run.bench, run.system
    if not system.saved:
        with run.workers() as workers:
            return rate(run, workers[0], number)
    command: Command = [bench.python(system), "-c", WAIT_FOR, system.saved, str(number)]
    with subprocess.Popen(command, cwd=run.place, env=run.environment, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            with run.workers() as workers:
                wait(workers[0], lambda: waiting.poll() is not None)
        finally:
            waiting.kill()
        end = float(waiting.stdout.read() if waiting.stdout else "")
    return number / (end - min(run.times("ran")))


def rate(run: Run, worker: Process, number: int) -> float:
    """Wait for so many tasks, and return how many a second there were."""
    name = "ended" if run.system.is_peer else "saved"
    end = max(wait(worker, lambda: run.times(name, number)))
    return number / (end - min(run.times("ran" if run.system.is_peer else "began")))


def all_there(worker: Process, system: System) -> None:
    """Wait for all processes of a worker."""
    worker.wait_until(lambda: len(worker.session()) >= system.processes, "all processes")


def clusters(bench: Bench, system: System, count: int, number: int) -> float:
    """Start so many clusters, fill the queue meanwhile they look, and return the rate.

    Were the queue full before, the first to be there would have emptied it when the last comes.
    """
    run = bench.run(system)
    with run.workers(count) as workers:
        for worker in workers:
            all_there(worker, system)
        run.call("-m", system.fill, "nothing", str(number), "0")
        return rate(run, workers[0], number)
