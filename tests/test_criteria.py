"""Each criterion of .github/CRITERIA.md is met by tests and pages that are there, or says why it does not apply."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.combinations import TEMPLATE

PAGE = TEMPLATE / ".github" / "CRITERIA.md"
ROW = re.compile(r"^\| (?!criterion|---)(.+?) \| (.+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/\S+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\(([^)#]+)(?:#([^)]+))?\)")


@cache
def collected(path: Path) -> set[str]:
    """Return the tests that pytest collects from a file."""
    body = ast.parse(path.read_text()).body if path.is_file() and path.name.startswith("test_") else []
    return {it.name for it in body if isinstance(it, ast.FunctionDef) and it.name.startswith("test_")}


@cache
def headings(path: Path) -> set[str]:
    """Return the anchors that GitHub and Sphinx give the headings of a page."""
    found = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", it.lower()).replace(" ", "-") for it in found}


def absent(answer: str) -> list[str]:
    """Return what an answer names that is not there."""
    tests = [(path, name) for path, name in NAMED.findall(answer) if name not in collected(TEMPLATE / path)]
    pages = []
    for link, anchor in LINK.findall(answer):
        page = PAGE.parent / link
        if not page.is_file() or (anchor and anchor not in headings(page)):
            pages.append(f"{link}#{anchor}")
    return [*map("::".join, tests), *pages]


def test_each_criterion_is_met_by_what_is_there() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) == PAGE.read_text().count("\n| ") - 2 * PAGE.read_text().count("\n| criterion |")
    assert {criterion: absent(answer) for criterion, answer in rows if absent(answer)} == {}
    without = [criterion for criterion, answer in rows if not NAMED.search(answer) and not LINK.search(answer)]
    assert [it for it in without if f"| {it} | Does not apply: " not in PAGE.read_text()] == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("`tests/test_run.py::test_no_such`", ["tests/test_run.py::test_no_such"]),
        ("`tests/test_no_such.py::test_it`", ["tests/test_no_such.py::test_it"]),
        ("[a](../docs/no-such.md)", ["../docs/no-such.md#"]),
        ("[a](../docs/start.md#no-such)", ["../docs/start.md#no-such"]),
        ("[a](../docs/start.md#run-it), `tests/test_criteria.py::test_a_slip_is_seen`", []),
    ],
)
def test_a_slip_is_seen(answer: str, said: list[str]) -> None:
    assert absent(answer) == said
