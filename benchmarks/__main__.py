"""`python -m benchmarks` measures and prints Markdown; `--help` names the options."""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.drain import Figures, System, ratio
from scripts.examples import bake
from tests.faults.cells import BROKERS
from tests.faults.lab import OURS, UPSTREAM, Base
from tests.interpreters import for_combination
from tests.projects import Environments, Workplace

#: Tasks of a run by broker and worker: some servers here are stand-ins, and slow.
NUMBERS = {"orm": (6000, 1200), "redis": (6000, 2000), "sqs": (300, 300), "mongodb": (500, 500)}


def main() -> None:
    """Measure each broker in turn, and the workers by turns."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--task", choices=["nothing", "work"], default="nothing")
    parser.add_argument("brokers", nargs="*", metavar="broker", default=list(BROKERS))
    options = parser.parse_args()
    print("| broker | ours, tasks/s | django-q2, tasks/s | ratio |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        environments = Environments(Path(temporary) / "environments")
        for broker in options.brokers:
            folder = Path(temporary) / broker
            with ExitStack() as stack:
                combination = BROKERS[broker]
                project = bake(combination.answers, folder / "baked")
                workplace = Workplace.of(project, for_combination(combination), environments, folder)
                base = stack.enter_context(Base.of(combination, workplace))
                rates: dict[str, list[float]] = {OURS: [], UPSTREAM: []}
                for number in range(options.rounds):
                    for kind, size in zip((OURS, UPSTREAM), NUMBERS[broker], strict=True):
                        run = folder / f"{kind}{number}"
                        rates[kind].append(System(base, kind).drain(options.task, size, run))
                found = [str(Figures(rates[kind])) for kind in (OURS, UPSTREAM)]
                print(f"| {broker} | {' | '.join(found)} | {ratio(rates[OURS], rates[UPSTREAM])} |", flush=True)


main()
