"""A former version of the template beside this one: `make bench ARGS="--beside 4fc3d7b"`.

Both are measured by turns, each with servers of its own, so that what else the machine does meets both.
"""

import json
import statistics
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench import FOLDER, Bench, Run
from benchmarks.drain import rate
from benchmarks.growth import growth
from benchmarks.idle import idle, memory
from benchmarks.report import COSTS, figure, ratio, row
from benchmarks.systems import SYSTEMS, System
from tests.combinations import TEMPLATE, TREE

RESULT = FOLDER / "beside.json"
KEYS = ["ours-redis", "ours-postgresql"]
NOW, THEN = "now", "then"
TASKS = 10_000
SIZES = [1_000, 100_000, 1_000_000]
AFTER = "memory (PSS) after these tasks, MiB"
MEASURES = ["tasks/s", AFTER, *COSTS]
Figures = dict[str, dict[str, dict[str, list[float]]]]  #: by system, measure and version, one for each round


def former(revision: str) -> Path:
    """Return the template as it was at a revision of git's, in a folder of its own."""
    git = ["git", "-C", str(TEMPLATE)]
    found = subprocess.run([*git, "rev-parse", f"{revision}^{{commit}}"], capture_output=True, text=True, check=True)
    folder = FOLDER / "former" / found.stdout.strip()
    if not folder.exists():
        archive, new = folder.with_suffix(".tar"), folder.with_suffix(".new")
        archive.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*git, "archive", f"--output={archive}", folder.name], check=True)
        with tarfile.open(archive) as packed:
            packed.extractall(new, filter="data")
        archive.unlink()
        new.rename(folder)
    return folder


@dataclass(frozen=True)
class Version:
    """One of the two."""

    bench: Bench
    processes: int  #: of a worker

    @classmethod
    def of(cls, template: Path, folder: Path, stack: ExitStack) -> "Version":
        """Prepare one; before there was a folder for the engine, a worker had two processes more."""
        folder.mkdir()
        has_agent = (template / TREE.name / "worker" / "cluster").is_dir()
        return cls(Bench(folder, stack, template), 4 if has_agent else 6)

    def run(self, system: System) -> Run:
        """Prepare a run of it."""
        return self.bench.run(replace(system, processes=self.processes))


def beside(revision: str, folder: Path, stack: ExitStack, rounds: int, share: int) -> None:
    """Measure both, tell of it, and keep the figures, also of a run that breaks."""
    templates = {NOW: TEMPLATE, THEN: former(revision)}
    versions = {name: Version.of(template, folder / name, stack) for name, template in templates.items()}
    systems = [system for system in SYSTEMS if system.key in KEYS]
    for version in versions.values():
        for system in systems:
            version.bench.base(system.broker)  # nothing of which is measured
    figures: Figures = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    growths: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    sizes = SIZES if share == 1 else SIZES[:-1]
    try:
        for number in range(rounds):
            order = list(versions) if number % 2 else list(reversed(versions))
            for system in systems:
                for name in order:
                    for measure, value in drained(versions[name].run(system), TASKS // share).items():
                        figures[system.key][measure][name].append(value)
            runs = {f"{system.key} {name}": versions[name].run(system) for name in order for system in systems}
            tasks, seconds = (200, 60.0) if share == 1 else (40, 10.0)
            for key, costs in idle(runs, folder, seconds, tasks, 5.0).items():
                for measure, value in costs.items():
                    figures[key.split()[0]][measure][key.split()[1]].append(value)
            print(f"round {number + 1} of {rounds} is done", flush=True)
        for system in systems:
            for name, version in versions.items():
                for what, costs_by_size in growth(version.bench, system, sizes).items():
                    growths[system.key][what][name] = costs_by_size
    finally:
        found = {"revision": revision, "rounds": rounds, "tasks": TASKS // share, "sizes": sizes}
        RESULT.write_text(json.dumps({**found, "figures": figures, "growth": growths}, indent=1) + "\n")
        print("\n".join(table(revision, figures, growths, sizes)), flush=True)


def drained(run: Run, number: int) -> dict[str, float]:
    """Return how many tasks a second there were, and what the worker takes after them."""
    run.call("-m", run.system.fill, "nothing", str(number), "0")
    with run.workers() as (worker,):
        return {"tasks/s": rate(run, worker, number), AFTER: sum(map(memory, worker.session())) / 1024}


def table(
    revision: str, figures: Figures, growths: dict[str, dict[str, dict[str, list[float]]]], sizes: list[int]
) -> Iterator[str]:
    """Yield the lines of what was found, with the ratios of the medians."""
    yield row("tasks wait in", "", "now", revision, "now / then")
    yield row(*["---"] * 5)
    for key, measures in figures.items():
        for measure in (name for name in MEASURES if name in measures):
            now, then = measures[measure].get(NOW, []), measures[measure].get(THEN, [])
            cells = [figure(values) if values else "-" for values in (now, then)]
            compared = ratio(now, then, 2) if then and statistics.median(then) else ""
            yield row(key.removeprefix("ours-"), measure, *cells, compared)
    for key, questions in growths.items():
        for what, costs in questions.items():
            cells = [" / ".join(f"{value:.1f}" for value in costs.get(name, [])) for name in (NOW, THEN)]
            last = ratio(costs.get(NOW, [])[-1:], costs.get(THEN, [])[-1:], 2)
            yield row(
                key.removeprefix("ours-"), f"ms to {what}, by {' / '.join(f'{it:,}' for it in sizes)}", *cells, last
            )
