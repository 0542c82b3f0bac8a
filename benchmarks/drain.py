"""How many tasks a second a cluster of two workers takes from a full queue, with every result saved."""

import os
import statistics
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults.lab import OURS, UPSTREAM, Base
from tests.processes import Command, Process
from tests.projects import PRODUCTION

INSIDE = Path(__file__).parent / "inside"
SETTINGS = {OURS: "bench_settings", UPSTREAM: "bench_upstream_settings"}
WORKERS = 2


@dataclass(frozen=True)
class System:
    """A worker over a broker: ours as it is generated, or django-q2's with the best of its settings."""

    base: Base
    kind: str

    def environment(self, folder: Path, database: Mapping[str, str]) -> Mapping[str, str]:
        """Return the environment of its processes."""
        return self.base.workplace.environment(
            {
                **PRODUCTION,
                **self.base.broker,
                **database,
                "BENCH_FOLDER": str(folder),
                "DJANGO_SETTINGS_MODULE": SETTINGS[self.kind],
                "PYTHONPATH": os.pathsep.join([str(INSIDE), str(self.base.workplace.path)]),
                "Q_WORKERS": str(WORKERS),
            }
        )

    def drain(self, task: str, number: int, folder: Path) -> float:
        """Fill a queue, start a cluster, and return tasks a second: from the first that begins to the last saved."""
        folder.mkdir(parents=True)
        environment = self.environment(folder, self.base.new_database("postgresql", folder))
        python = self.base.workplace.python
        fill = Process(
            "fill", [python, "-m", "bench.fill", task, str(number)], self.base.workplace.path, environment, folder
        )
        if fill.popen.wait():
            raise RuntimeError(fill.log())
        command: dict[str, Command] = {
            OURS: [python, "manage.py", "prodserver", "worker"],
            UPSTREAM: [python, "-m", "django", "qcluster", "--skip-checks"],
        }
        cluster = Process("worker", command[self.kind], self.base.workplace.path, environment, folder)
        try:
            saved = cluster.wait_until(lambda: times(folder / "saved", number), f"{number} results")
        finally:
            cluster.kill()  # django-q2's may not stop
        return number / (max(saved) - min(times(folder / "began", 1)))


def times(path: Path, number: int) -> tuple[float, ...]:
    """Return the times in a file once there are so many, () before."""
    data = path.read_bytes() if path.exists() else b""
    return struct.unpack(f"{len(data) // 8}d", data) if len(data) >= 8 * number else ()


@dataclass(frozen=True)
class Figures:
    """What some rounds have found."""

    values: list[float]

    def __str__(self) -> str:
        """Return the median, and the spread."""
        return f"{statistics.median(self.values):,.0f} ({min(self.values):,.0f}-{max(self.values):,.0f})"


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Return the median of the ratios of rounds, and the spread."""
    values = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"
