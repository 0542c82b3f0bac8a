"""What a worker costs that has nothing to do, and how soon it begins a task that comes then."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.asked import Asked, asked, watch
from benchmarks.bench import Run
from benchmarks.cpu import cpu
from benchmarks.drain import all_there
from tests.processes import Process

WARM = 20  #: tasks before one counts: the first connects the process that queues it, and imports in a worker


def idle(runs: dict[str, Run], folder: Path, seconds: float, tasks: int, settle: float) -> dict[str, dict[str, float]]:
    """Return costs by system and name: of a worker with two processes that run tasks; all of its own are counted.

    It is looked at so many seconds after it has had something to do, and for so many seconds.
    The systems, each with servers of its own, idle at the same time: so it takes no longer with more of them.
    """
    with ExitStack() as stack:
        workers: dict[str, Process] = {}
        for key, run in runs.items():
            watch(run)
            (workers[key],) = stack.enter_context(run.workers())
        for key, worker in workers.items():
            all_there(worker, runs[key].system)
        with ThreadPoolExecutor() as pool:
            latencies = pool.map(lambda key: latency(runs[key], tasks, workers[key], folder / "turn"), runs)
        found = {key: late(seconds) for key, seconds in zip(runs, latencies, strict=True)}
        time.sleep(settle)
        before = {key: (asked(run), cpu(workers[key].session()), time.monotonic()) for key, run in runs.items()}
        time.sleep(seconds)
        for key, run in runs.items():
            found[key] |= cost(run, workers[key].session(), *before[key])
    return found


def cost(run: Run, pids: list[int], before: Asked, spent: float, begin: float) -> dict[str, float]:
    """Return what has been spent since a beginning."""
    passed, found = time.monotonic() - begin, asked(run).since(before)
    return {
        "transactions/s": found.transactions / passed,
        "Redis commands/s": max(found.commands - 1, 0) / passed,  # the look before
        "CPU, % of a core": (cpu(pids) - spent) / passed * 100,
        "memory (PSS), MiB": sum(map(memory, pids)) / 1024,
    }


def late(latencies: list[float]) -> dict[str, float]:
    """Return the usual one and the worst hundredth."""
    return {
        "latency p50, ms": statistics.median(latencies) * 1000,
        "latency p99, ms": statistics.quantiles(latencies, n=100)[98] * 1000,
    }


def latency(run: Run, tasks: int, worker: Process, turn: Path) -> list[float]:
    """Queue tasks one at a time, by turns with other systems, and return the seconds after which each began."""
    run.call("-m", "bench.one_by_one", str(WARM + tasks), str(turn))
    began = worker.wait_until(lambda: run.times("ran", WARM + tasks), "all tasks")
    return [start - come for come, start in zip(run.times("queued"), began, strict=True)][WARM:]


def memory(pid: int) -> int:
    """Return a process's share of memory, in kB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
