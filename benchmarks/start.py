"""How soon a worker begins its first task after its start, what it takes then, and how soon it has ended when idle."""

import signal
import time

from benchmarks.bench import Bench
from benchmarks.drain import wait
from benchmarks.idle import memory
from benchmarks.systems import System

IDLE = 1.0  #: seconds between the task and the signal
PAUSE = 0.01  #: seconds between two looks


def start(bench: Bench, system: System) -> list[float]:
    """Return the seconds of both, and between them the memory of all processes, in MiB."""
    run = bench.run(system)
    run.call("-m", system.fill, "nothing" if system.is_peer else "note_the_time", "1", "0")
    begin = time.time()
    with run.workers() as workers:
        (ran, *_) = wait(workers[0], lambda: run.times("ran"))
        time.sleep(IDLE)
        taken = sum(memory(pid) for worker in workers for pid in worker.session()) / 1024
        stop = time.time()
        for worker in workers:
            worker.popen.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.popen.wait(60)
            while worker.session():
                time.sleep(PAUSE)
        return [ran - begin, taken, time.time() - stop]
