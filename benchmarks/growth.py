"""What grows with the number of waiting tasks and of kept results."""

import json

from benchmarks.bench import Bench
from benchmarks.systems import System


def growth(bench: Bench, system: System, sizes: list[int]) -> dict[str, list[float]]:
    """Return, by what is asked, the milliseconds with each number of tasks and results."""
    printed = bench.run(system).call("-m", "bench.growth", *map(str, sizes))
    found: dict[str, list[float]] = json.loads(printed.splitlines()[-1])
    return found
