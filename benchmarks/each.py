"""What one task costs: CPU, and what is asked of the servers."""

import time

from benchmarks.asked import asked, watch
from benchmarks.bench import Bench, Run
from benchmarks.cpu import cpu, cpu_of_server, servers
from benchmarks.systems import System
from tests.processes import Process

WARM = 50  #: tasks before the CPU is looked at: what importing costs is not a task's
RECEIPT = 0.1  #: seconds in which the last tasks are acknowledged, once their results are saved


def each(bench: Bench, system: System, number: int) -> dict[str, float]:
    """Return costs of one task by name: of saving its result and acknowledging it, too.

    A queue of so many is drained to count, and one four times as long for the CPU, of which servers need little: that
    one without the log by which PostgreSQL's queries are counted, since it costs the server more, the more it is asked.
    """
    return asks(bench, system, number) | spends(bench, system, 4 * number)


def wait(run: Run, worker: Process, number: int) -> None:
    """Wait until so many tasks are acknowledged."""
    worker.wait_until(lambda: run.times("saved", number), "all results")
    worker.wait_until(lambda: time.time() - max(run.times("saved")) > RECEIPT, "the last receipts")


def asks(bench: Bench, system: System, number: int) -> dict[str, float]:
    """Return what one task asks of the servers."""
    run = bench.run(system)
    watch(run)
    run.call("-m", system.fill, "nothing", str(number), "0")
    before = asked(run)
    with run.workers() as (worker,):
        wait(run, worker, number)
        found = asked(run).since(before)
    costs = {
        "PostgreSQL queries": found.queries,
        "transactions": found.transactions,
        "bytes of WAL": found.wal,
        "Redis commands": found.commands,
        "bytes to Redis": found.bytes_in,
        "bytes from Redis": found.bytes_out,
    }
    return {name: count / number for name, count in costs.items()}


def spends(bench: Bench, system: System, number: int) -> dict[str, float]:
    """Return the milliseconds of CPU that one task takes of the worker and of each server."""
    run = bench.run(system)
    run.call("-m", system.fill, "nothing", str(number), "0")
    pids = servers(run)
    with run.workers() as (worker,):

        def used() -> dict[str, float]:
            return {"the worker": cpu(worker.session())} | {name: cpu_of_server(pid) for name, pid in pids.items()}

        worker.wait_until(lambda: run.times("saved", WARM), "the first results")
        before, done = used(), len(run.times("saved"))
        wait(run, worker, number)
        after = used()
    return {f"CPU of {name}, ms": (after[name] - before[name]) / max(number - done, 1) * 1000 for name in after}
