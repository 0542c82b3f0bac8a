"""`python -m benchmarks` measures by turns, and writes docs/performance.md; `--help` names the options."""

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.bench import FOLDER, Bench
from benchmarks.beside import beside
from benchmarks.parts import PARTS, Measures
from benchmarks.systems import QUICK, SYSTEMS
from tests.combinations import CHOICES


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of few tasks and systems; writes no page")
    parser.add_argument("--data", type=Path, default=FOLDER / "figures.json", help="where all figures are kept")
    parser.add_argument("--part", action="append", default=[], choices=PARTS, help="take only this one; repeatable")
    parser.add_argument("--write", action="store_true", help="with --part: write its tables into the page, dated")
    parser.add_argument("--beside", metavar="revision", help="compare with a former version of git's; writes no page")
    parser.add_argument("brokers", nargs="*", metavar="broker", help="of these brokers only")
    options = parser.parse_args()
    rounds, share = (1, 6) if options.quick else (options.rounds, 1)
    brokers = options.brokers or CHOICES["broker"]
    is_part = bool(options.brokers or options.quick or options.part)
    if options.write and (options.brokers or options.quick or not options.part):
        parser.error("--write goes with --part alone, since a table in the page has all of its systems.")
    keys = QUICK if options.quick and not options.brokers else [system.key for system in SYSTEMS]
    systems = {system.key: system for system in SYSTEMS if system.key in keys and system.broker in brokers}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or servers and workers would outlive it
    options.data.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, ExitStack() as stack:
        if options.beside:
            beside(options.beside, Path(temporary), stack, rounds, share)
            return
        measures = Measures(Bench(Path(temporary), stack), systems, rounds, share)
        try:
            measures.run(options.part, lambda: options.data.write_text(report.data(measures.seen)))
        finally:  # what was found before a part has failed is not to be lost
            print(report.tables(measures.seen), flush=True)
    if options.write or not is_part:
        report.write(measures.seen, is_part=is_part)


main()
