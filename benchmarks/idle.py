"""What a worker costs that has nothing to do, and how soon it begins a task that comes then."""

import os
import statistics
import time
from pathlib import Path

from benchmarks.bench import Bench, Run
from benchmarks.systems import System
from tests.processes import Process

TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
SETTLE = 12.0  #: seconds after which a worker is idle; PostgreSQL counts what came before within ten


def idle(bench: Bench, system: System, seconds: float, tasks: int) -> dict[str, float]:
    """Return costs by name: of a worker with two processes, all of which are counted."""
    run = bench.run(system)
    with run.workers() as (worker,):
        worker.wait_until(lambda: len(worker.session()) >= 6, "all processes")
        time.sleep(SETTLE)
        latencies = latency(run, tasks, worker)
        time.sleep(SETTLE)
        pids = worker.session()
        before, spent, begin = run.ask(TRANSACTIONS), cpu(pids), time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - begin
        transactions = run.ask(TRANSACTIONS) - before - 1  # the look itself
        return {
            "latency p50, ms": statistics.median(latencies) * 1000,
            "latency p99, ms": statistics.quantiles(latencies, n=100)[98] * 1000,
            "transactions/s": transactions / passed,
            "CPU, % of a core": (cpu(pids) - spent) / passed * 100,
            "memory (PSS), MiB": sum(map(memory, pids)) / 1024,
        }


def latency(run: Run, tasks: int, worker: Process) -> list[float]:
    """Queue tasks one at a time, and return the seconds after which each began."""
    run.call("-m", "bench.one_by_one", str(tasks))
    began = worker.wait_until(lambda: run.times("ran", tasks), "all tasks")
    return [start - come for come, start in zip(run.times("queued"), began, strict=True)]


def cpu(pids: list[int]) -> float:
    """Return the seconds of CPU that processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Return a process's share of memory, in kB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
