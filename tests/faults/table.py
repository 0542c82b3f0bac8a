"""The table of what was shown: promise by broker, with the outcome of upstream's worker beside ours."""

from pathlib import Path

import pytest

from tests.combinations import CHOICES, TEMPLATE
from tests.faults.lab import OURS, UPSTREAM

PATH = TEMPLATE / "docs" / "reliability-table.md"
HEAD = """\
<!-- Written by `make test-faults`. -->

What each worker does, test by test: ✓ it passes, ✗ it does not. Behind the stroke stands the outcome of
django-q2's own worker and broker where these are known to fail, and the last column says how they do.

"""


class Table:
    """Gathers outcomes."""

    def __init__(self) -> None:
        """Begin empty."""
        self.outcomes: dict[tuple[int, str], dict[tuple[str, str], list[bool]]] = {}
        self.reasons: dict[tuple[int, str], dict[str, None]] = {}
        self.said: list[str] = []

    def add(self, report: pytest.TestReport, outcome: str) -> None:
        """Note the outcome of a test, if it is one of ours."""
        properties = dict(getattr(report, "user_properties", []))
        if "cell" not in properties or (report.when != "call" and outcome not in {"failed", "error"}):
            return
        promise, name, broker, kind = properties["cell"]
        row = (promise, name)
        passed = outcome in {"passed", "xpassed"} or (
            kind == UPSTREAM and outcome == "failed" and "XPASS" in report.longreprtext
        )
        self.outcomes.setdefault(row, {}).setdefault((broker, kind), []).append(passed)
        if kind == UPSTREAM and not passed:
            reason = str(getattr(report, "wasxfail", "")).removeprefix("reason: ").removeprefix("django-q2 1.11.1: ")
            self.reasons.setdefault(row, {})[reason] = None
        if "said" in properties and report.when == "call":
            self.said.append(properties["said"])

    def lines(self) -> list[str]:
        """Return the table as Markdown."""
        brokers = CHOICES["broker"]
        lines = [
            f"| promise | test | {' | '.join(brokers)} | django-q2 1.11.1 |",
            f"| ---{' | ---' * (len(brokers) + 2)} |",
        ]
        for row in sorted(self.outcomes):
            cells = " | ".join(self.cell(row, broker) for broker in brokers)
            reasons = "; ".join(filter(None, self.reasons.get(row, {})))
            lines.append(f"| {row[0]} | {row[1].removeprefix('test_').replace('_', ' ')} | {cells} | {reasons} |")
        return lines

    def cell(self, row: tuple[int, str], broker: str) -> str:
        """Return the outcomes over a broker: ours, and upstream's."""
        marks = []
        for kind in (OURS, UPSTREAM):
            if found := self.outcomes[row].get((broker, kind)):
                marks.append("✓" if all(found) else "✗")
        return " / ".join(marks) or " "

    def write(self) -> Path:
        """Write the table."""
        PATH.parent.mkdir(exist_ok=True)
        said = [f"- {line}" for line in self.said]
        PATH.write_text(HEAD + "\n".join([*self.lines(), "", *said]).rstrip() + "\n")
        return PATH.relative_to(TEMPLATE)
