"""How many tasks a second workers take from a full queue: from the first that begins to the last that is saved."""

from benchmarks.bench import Bench
from benchmarks.systems import System

WAIT_FOR = """
import os, psycopg, sys, time
connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
while connection.execute(sys.argv[1]).fetchone()[0] < int(sys.argv[2]):
    time.sleep(0.02)
print(time.time())
"""


def drain(bench: Bench, system: System, task: str, number: int) -> float:
    """Fill a queue, start workers, and return the rate.

    A result counts once it is saved and its task acknowledged; of a system that keeps none, a task that has ended.
    """
    run = bench.run(system)
    run.call("-m", system.fill, task, str(number))
    with run.workers() as workers:
        if system.saved:
            workers[0].wait_until(lambda: run.times("ended", number), f"{number} tasks")
            end = float(run.call("-c", WAIT_FOR, system.saved, str(number)))
        else:
            name = "ended" if system.is_peer else "saved"
            end = max(workers[0].wait_until(lambda: run.times(name, number), f"{number} results"))
    begin = min(run.times("ran" if system.is_peer else "began"))
    return number / (end - begin)
