"""How soon a worker begins its first task after its start, and how soon it has ended after SIGTERM, when idle."""

import signal
import time

from benchmarks.bench import Bench
from benchmarks.systems import System

IDLE = 1.0  #: seconds between the task and the signal
PAUSE = 0.01  #: seconds between two looks


def start(bench: Bench, system: System) -> dict[str, float]:
    """Return the seconds of both."""
    run = bench.run(system)
    run.call("-m", system.fill, "note_the_time", "1", "0")
    begin = time.time()
    with run.workers() as (worker,):
        (ran,) = worker.wait_until(lambda: run.times("ran"), "the first task")
        time.sleep(IDLE)
        stop = time.time()
        worker.popen.send_signal(signal.SIGTERM)
        worker.popen.wait(60)
        while worker.session():
            time.sleep(PAUSE)
        return {"start to first task, s": ran - begin, "stop, s": time.time() - stop}
