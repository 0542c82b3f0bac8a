"""How many tasks a second workers take from a full queue: from the first that begins to the last that is saved."""

import subprocess

from benchmarks.bench import Bench, Run
from benchmarks.systems import System
from tests.processes import Command, Process

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


def drain(bench: Bench, system: System, task: str, number: int, size: int = 0) -> float:
    """Fill a queue with tasks of so many bytes, start workers, and return the rate.

    A result counts once it is saved and its task acknowledged; of a system that keeps none, a task that has ended.
    """
    run = bench.run(system)
    run.call("-m", system.fill, task, str(number), str(size))
    if not system.saved:
        with run.workers() as workers:
            return rate(run, workers[0], number)
    command: Command = [bench.python(system), "-c", WAIT_FOR, system.saved, str(number)]
    with subprocess.Popen(command, cwd=run.place, env=run.environment, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            with run.workers() as workers:
                workers[0].wait_until(lambda: waiting.poll() is not None, f"{number} results")
        finally:
            waiting.kill()
        end = float(waiting.stdout.read() if waiting.stdout else "")
    return number / (end - min(run.times("ran")))


def rate(run: Run, worker: Process, number: int) -> float:
    """Wait for so many tasks, and return how many a second there were."""
    name = "ended" if run.system.is_peer else "saved"
    end = max(worker.wait_until(lambda: run.times(name, number), f"{number} results"))
    return number / (end - min(run.times("ran" if run.system.is_peer else "began")))


def clusters(bench: Bench, system: System, count: int, number: int) -> float:
    """Start so many clusters, fill the queue meanwhile they look, and return the rate.

    Were the queue full before, the first to be there would have emptied it when the last comes.
    """
    run = bench.run(system)
    with run.workers(count) as workers:
        for worker in workers:
            worker.wait_until(lambda worker=worker: len(worker.session()) >= 6, "all processes")  # type: ignore[misc]
        run.call("-m", system.fill, "nothing", str(number), "0")
        return rate(run, workers[0], number)
