"""How many tasks a second one web process queues, and how often a second two processes can call one with no queue."""

from benchmarks.bench import Bench
from benchmarks.systems import System


def enqueue(bench: Bench, system: System, way: str, number: int) -> float:
    """Queue tasks, and return the rate. They are not run, and the queue is emptied."""
    printed = bench.run(system).call("-m", "bench.enqueue", way, str(number))
    return float(printed.splitlines()[-1])  # behind the log


def ceiling(bench: Bench, system: System, number: int) -> float:
    """Call the realistic task in two processes, and return the rate: no two workers can be faster."""
    printed = bench.run(system).call("-m", "bench.ceiling", str(number))
    return float(printed.splitlines()[-1])
