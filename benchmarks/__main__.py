"""`python -m benchmarks` measures by turns, and writes docs/performance.md; `--help` names the options."""

import argparse
import os
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.drain import drain
from benchmarks.enqueue import enqueue
from benchmarks.growth import growth
from benchmarks.idle import idle
from benchmarks.systems import REALISTIC, SYSTEMS
from tests.combinations import CHOICES

ENQUEUE = ["ours-redis", "django-q2-best-redis", "ours-postgresql", "django-q2-best-postgresql"]
IDLE = ["ours-redis", "django-q2-best-redis", "ours-postgresql", "django-q2-best-postgresql"]

GROWTH = ["ours-redis", "ours-postgresql"]
SIZES = [1_000, 100_000, 1_000_000]


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds of a third of the tasks; writes no page")
    parser.add_argument("brokers", nargs="*", metavar="broker", default=CHOICES["broker"])
    options = parser.parse_args()
    rounds, share = (2, 3) if options.quick else (options.rounds, 1)
    systems = {system.key: system for system in SYSTEMS if system.broker in options.brokers}
    figures: report.Figures = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, ExitStack() as stack:
        bench = Bench(Path(temporary), stack)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for key, system in systems.items():
                figures["drain"][key].append(drain(bench, system, "nothing", system.tasks // share))
                if key in REALISTIC:
                    figures["work"][key].append(drain(bench, system, "work", 400 // share))
            for key in filter(systems.__contains__, ENQUEUE):
                figures["one"][key].append(enqueue(bench, systems[key], "one", 2000 // share))
                if key.startswith("ours"):
                    figures["thousand"][key].append(enqueue(bench, systems[key], "thousand", 6000 // share))
        for key in filter(systems.__contains__, IDLE):
            for name, value in idle(bench, systems[key], 60 / share, 100 // share).items():
                figures[name][key].append(value)
        sizes = [number // (10 if options.quick else 1) for number in SIZES]
        for key in filter(systems.__contains__, GROWTH):
            for name, values in growth(bench, systems[key], sizes).items():
                figures[f"{report.GROWTH}{name}"][key] = values
        versions = {name: value for base in bench.bases.values() for name, value in base.versions.items()}
    seen = report.Seen(f"{datetime.now(UTC):%Y-%m-%d}", rounds, os.cpu_count() or 0, sizes, versions, figures)
    print(report.tables(seen))
    if options.brokers == CHOICES["broker"] and not options.quick:
        report.write(seen)


main()
