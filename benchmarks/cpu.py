"""What processes have used of the CPU: those of a worker, and those of its servers."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from benchmarks.asked import info
from benchmarks.bench import Run
from tests.faults.lab import children

POSTMASTER = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)"
OWN, ENDED = slice(11, 13), slice(13, 15)  #: of /proc/PID/stat behind the name: the process', and its ended children's


def ticks(pid: int, fields: slice) -> int:
    """Return the ticks of a process, in user mode and in the kernel."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, stat[fields]))


def seconds(ticks: int) -> float:
    """Return the seconds of so many ticks."""
    return ticks / os.sysconf("SC_CLK_TCK")


def cpu(pids: Iterable[int]) -> float:
    """Return the seconds that processes have used."""
    return seconds(sum(ticks(pid, OWN) for pid in pids))


def cpu_of_server(pid: int) -> float:
    """Return the seconds that a server and all of its children have used, the ended ones too.

    The children come first: one that ends meanwhile is then among the ended ones of its parent.
    """
    used = 0
    for child in children(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            used += ticks(child, OWN)
    return seconds(used + ticks(pid, OWN) + ticks(pid, ENDED))


def servers(run: Run) -> dict[str, int]:
    """Return the first process of each server that a run asks, by name."""
    found = {"PostgreSQL": run.ask(POSTMASTER)}
    broker = run.bench.base(run.system.broker).broker
    if "REDIS_URL" in broker:
        found["Redis"] = info(broker["REDIS_URL"], "server")["process_id"]
    return found
