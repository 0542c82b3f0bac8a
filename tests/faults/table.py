"""The tables in docs/reliability.md: what each test has shown over each broker, upstream's worker beside ours.

Each run with --faults, of all tests or of some, leaves what it has seen in build/faults. `python -m tests.faults.table`
writes the tables from the latest run of each test that is there; delete the folder to forget them.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.combinations import CHOICES, TEMPLATE
from tests.faults.cells import VERSION
from tests.faults.lab import OURS, UPSTREAM

PAGE = TEMPLATE / "docs" / "reliability.md"
RUNS = TEMPLATE / "build" / "faults"
BEGIN, END = "<!-- what follows is written by `make test-faults` -->", "<!-- what was written ends -->"
NOT_RUN = "not run"
LEGEND = f"""\
Before the stroke stands this worker, behind it that of {VERSION} with its own broker, where the two can be compared:
✓ it passed, ✗ it did not, and "2 of 3" where it did not each time, or with each signal, process or kind of task that
the test goes through. "n/a" means that the test does not concern the broker."""


@dataclass
class Seen:
    """What one run has seen of a test in one cell."""

    module: str
    test: str
    parameters: str
    broker: str
    kind: str
    passed: bool
    reason: str = ""
    said: str = ""
    on: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        """What a later run of the same is known by."""
        return self.module, self.test, self.parameters, self.broker, self.kind

    @classmethod
    def of(cls, report: pytest.TestReport) -> "Seen | None":
        """Return what a report says, None if it is not of a test of faults that was gone through."""
        properties: dict[str, Any] = dict(report.user_properties)
        if "cell" not in properties or (report.skipped and not hasattr(report, "wasxfail")):
            return None
        if report.when != "call" and not report.failed:
            return None
        passed = report.passed or "[XPASS(strict)]" in report.longreprtext
        reason = str(getattr(report, "wasxfail", "")).removeprefix("reason: ").removeprefix(f"{VERSION}: ")
        said = properties.get("said", "") if report.passed else ""
        return cls(**properties["cell"], passed=passed, reason=reason, said=said, on=properties.get("on", {}))


def keep(reports: Iterable[pytest.TestReport]) -> Path | None:
    """Keep what a run has seen, and return the file."""
    seen = [asdict(found) for report in reports if (found := Seen.of(report))]
    if not seen:
        return None
    RUNS.mkdir(parents=True, exist_ok=True)
    path = RUNS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
    path.write_text(json.dumps(seen, indent=1, ensure_ascii=False))
    return path


class Cells:
    """A pytest plugin that gathers the cells there are: what no run has covered must be seen too."""

    def __init__(self) -> None:
        """Begin with none."""
        self.found: dict[str, dict[str, set[tuple[str, str]]]] = {}  #: (broker, kind) by test by module
        self.titles: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take what was collected."""
        for item in session.items:
            cell = dict(item.user_properties).get("cell")
            if isinstance(cell, dict) and isinstance(item, pytest.Function):
                tests = self.found.setdefault(cell["module"], {})
                tests.setdefault(cell["test"], set()).add((cell["broker"], cell["kind"]))
                title = (item.module.__doc__ or "").partition("\n")[0]
                self.titles[cell["module"]] = title

    def place(self, module: str) -> int:
        """Return the first promise that a module's title names; those come last that name none."""
        number = re.search(r"\d+", self.titles[module].partition(":")[0])
        return int(number[0]) if number else sys.maxsize


def mark(outcomes: list[bool]) -> str:
    """Return how a cell's tests went."""
    if not outcomes:
        return NOT_RUN
    if len(set(outcomes)) > 1:
        return f"{sum(outcomes)} of {len(outcomes)}"
    return "✓" if outcomes[0] else "✗"


def tables(cells: Cells, seen: list[Seen]) -> Iterator[str]:
    """Yield the lines of a table for each module of tests."""
    brokers = CHOICES["broker"]
    for module, tests in sorted(cells.found.items(), key=lambda found: (cells.place(found[0]), cells.titles[found[0]])):
        yield from (f"### {cells.titles[module].removesuffix('.')}", "")
        yield f"| [tests/faults/{module}.py](../tests/faults/{module}.py) | {' | '.join(brokers)} | {VERSION} |"
        yield f"| ---{' | ---' * (len(brokers) + 1)} |"
        for test, found in tests.items():
            of_test = [each for each in seen if (each.module, each.test) == (module, test)]
            columns = []
            for broker in brokers:
                kinds = [kind for kind in (OURS, UPSTREAM) if (broker, kind) in found]
                marks = [
                    mark([each.passed for each in of_test if (each.broker, each.kind) == (broker, kind)])
                    for kind in kinds
                ]
                columns.append(" / ".join(marks if set(marks) != {NOT_RUN} else [NOT_RUN]) if marks else "n/a")
            reasons = dict.fromkeys(each.reason for each in of_test if each.kind == UPSTREAM and each.reason)
            sentence = test.removeprefix("test_").replace("_", " ")
            yield f"| {sentence} | {' | '.join(columns)} | {'; '.join(reasons)} |"
        yield ""


def written(cells: Cells, runs: list[Path]) -> str:
    """Return what stands between the marks."""
    latest = {each.key: each for run in runs for each in (Seen(**one) for one in json.loads(run.read_text()))}
    seen = [*latest.values()]
    on = sorted({f"{name} {version}" for each in seen for name, version in each.on.items()})
    first, last = runs[0].stem[:10], runs[-1].stem[:10]
    when = f"on {first}" if first == last else f"between {first} and {last}"
    runs_ = "One run" if len(runs) == 1 else f"{len(runs)} runs"
    head = (
        f"{runs_} of all tests or of some of them, {when}, with {', '.join(on)}. A cell shows the latest run of each."
    )
    lines = [head, "", LEGEND, "", *tables(cells, seen)]
    said = [f"- {each.test.removeprefix('test_').replace('_', ' ')}: {each.said}" for each in seen if each.said]
    if said:
        lines += ["### What the long tests have said", "", *said, ""]
    return "\n".join(lines)


def main() -> None:
    """Write the tables."""
    runs = sorted(RUNS.glob("*.json"))
    if not runs:
        sys.exit(f"There are no runs in {RUNS.relative_to(TEMPLATE)}: run `make test-faults` first.")
    cells = Cells()
    with redirect_stdout(StringIO()) as printed:
        if pytest.main(["--collect-only", "--faults", "-n", "0", "tests/faults"], plugins=[cells]):
            sys.exit(printed.getvalue())
    page = PAGE.read_text()
    between = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    PAGE.write_text(between.sub(lambda _: f"\n{written(cells, runs)}\n", page))
    print(f"wrote {PAGE.relative_to(TEMPLATE)} from {len(runs)} runs")


if __name__ == "__main__":
    main()
