"""What one task costs: CPU, and what is asked of the servers."""

from benchmarks.asked import asked, watch
from benchmarks.bench import Bench
from benchmarks.idle import cpu
from benchmarks.systems import System

WARM = 50  #: tasks before the CPU is looked at: what importing costs is not a task's


def each(bench: Bench, system: System, number: int) -> dict[str, float]:
    """Drain a queue, and return costs by name: of saving a result and acknowledging its task, too."""
    run = bench.run(system)
    watch(run)
    run.call("-m", system.fill, "nothing", str(number), "0")
    before = asked(run)
    with run.workers() as (worker,):
        worker.wait_until(lambda: run.times("saved", WARM), "the first results")
        spent, done = cpu(worker.session()), len(run.times("saved"))
        worker.wait_until(lambda: run.times("saved", number), "all results")
        spent = cpu(worker.session()) - spent
        found = asked(run).since(before)
    costs = {
        "PostgreSQL queries": found.queries,
        "transactions": found.transactions,
        "bytes of WAL": found.wal,
        "Redis commands": found.commands,
        "bytes to Redis": found.bytes_in,
        "bytes from Redis": found.bytes_out,
    }
    per_task = {name: count / number for name, count in costs.items()}
    return per_task | {"CPU of the worker, ms": spent / max(number - done, 1) * 1000}
