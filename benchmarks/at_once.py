"""How many tasks a second a worker takes that wait 100 ms, a hundred of them at once, and the memory that it needs."""

from benchmarks.bench import Bench
from benchmarks.drain import wait
from benchmarks.idle import memory
from benchmarks.systems import System

FIRST = 400  #: tasks before one counts: meanwhile processes and threads are made


def at_once(bench: Bench, system: System, number: int) -> tuple[float, float]:
    """Return both: from the first tasks that have ended to the last, and of all processes after that.

    Here the tasks of other queues count once they have ended, also where a result is saved then.
    """
    run = bench.run(system)
    run.call("-m", system.fill, "wait", str(number), "0")
    with run.workers() as workers:
        name = "ended" if system.is_peer else "saved"
        times = sorted(wait(workers[0], lambda: run.times(name, number)))
        first = min(FIRST, number // 2)
        pids = [pid for worker in workers for pid in worker.session()]
        return (number - first) / (times[-1] - times[first - 1]), sum(map(memory, pids)) / 1024
