"""How many tasks a second one web process queues: one at a time, and a thousand in one call."""

from benchmarks.bench import Bench
from benchmarks.systems import System


def enqueue(bench: Bench, system: System, way: str, number: int) -> float:
    """Queue tasks, and return the rate. They are not run, and the queue is emptied."""
    printed = bench.run(system).call("-m", "bench.enqueue", way, str(number))
    return float(printed.splitlines()[-1])  # behind the log
