"""`python -m benchmarks` measures by turns, and writes docs/performance.md; `--help` names the options."""

import argparse
import os
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.parts import Measures
from benchmarks.systems import SYSTEMS
from tests.combinations import CHOICES


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of a sixth of the tasks; writes no page")
    parser.add_argument("--data", type=Path, help="a file to keep the figures in, also of a run that writes no page")
    parser.add_argument("--part", action="append", default=[], metavar="name", help="take only this part; repeatable")
    parser.add_argument("brokers", nargs="*", metavar="broker", default=CHOICES["broker"])
    options = parser.parse_args()
    rounds, share = (1, 6) if options.quick else (options.rounds, 1)
    systems = {system.key: system for system in SYSTEMS if system.broker in options.brokers}
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, ExitStack() as stack:
        bench = Bench(Path(temporary), stack)
        measures = Measures(bench, systems, rounds, share)
        try:
            measures.run(options.part)
        finally:  # what was found before a part has failed is not to be lost
            versions = {name: value for base in bench.bases.values() for name, value in base.versions.items()}
            day = f"{datetime.now(UTC):%Y-%m-%d}"
            seen = report.Seen(day, rounds, os.cpu_count() or 0, measures.sizes, versions, measures.figures)
            if options.data:
                options.data.write_text(report.data(seen))
    print(report.tables(seen))
    if options.brokers == CHOICES["broker"] and not options.quick and not options.part:
        report.write(seen)


main()
