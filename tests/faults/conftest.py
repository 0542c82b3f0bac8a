"""Fixtures of the fault tests, and a record of what a run of them has seen."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.combinations import Combination
from tests.faults.lab import Base, Lab
from tests.faults.table import keep
from tests.interpreters import for_combination
from tests.projects import Environments, Workplace

QUICK = {
    "test_kills",
    "test_signals",
    "test_inputs",
    "test_hooks",
}  #: what each change goes through; the rest runs with --faults


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "promise(number): the promise of the worker that the test shows",
        "full: runs with --faults only",
    ):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, and note for the table which cell of it each test fills."""
    if not config.getoption("--faults"):
        left_out = [item for item in items if item.get_closest_marker("promise") and not is_quick(item)]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("promise"):
            parameters: dict[str, Any] = dict(item.callspec.params)
            broker, kind = parameters.pop("combination").broker, parameters.pop("kind")
            cell = {"module": item.path.stem, "test": item.originalname, "broker": broker, "kind": kind}
            cell["parameters"] = " ".join(map(str, parameters.values()))
            item.user_properties.append(("cell", cell))


def is_quick(item: pytest.Item) -> bool:
    """Say whether a test belongs to the short form."""
    return item.path.stem in QUICK and not item.get_closest_marker("full")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the tests had to say, and keep what they have seen for the table."""
    outcomes = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
    reports = [report for outcome in outcomes for report in terminalreporter.getreports(outcome)]
    for report in reports:
        if (
            isinstance(report, pytest.TestReport)
            and report.passed
            and (said := dict(report.user_properties).get("said"))
        ):
            terminalreporter.line(str(said))
    is_one_of_many = hasattr(config, "workerinput")  # a process of pytest-xdist, whose reports go to the first one
    if config.getoption("--faults") and not config.option.collectonly and not is_one_of_many:
        path = keep(report for report in reports if isinstance(report, pytest.TestReport))
        terminalreporter.line(f"kept what was seen in {path}: `python -m tests.faults.table` writes it down")


@pytest.fixture(scope="session")
def bases(
    bake: Callable[[Combination], Path], environments: Environments, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Combination], Base]]:
    """The servers of each broker, and a project that finds them."""
    made: dict[Combination, Base] = {}
    with ExitStack() as stack:

        def base(combination: Combination) -> Base:
            if combination not in made:
                folder = tmp_path_factory.mktemp("base")
                workplace = Workplace.of(bake(combination), for_combination(combination), environments, folder)
                made[combination] = stack.enter_context(Base.of(combination, workplace))
            return made[combination]

        yield base


@pytest.fixture
def database() -> str:
    """The kind of database; a test can ask for another one."""
    return "postgresql"


@pytest.fixture
def variables() -> dict[str, str]:
    """What all processes of the project find in their environment; a test can ask for something."""
    return {}


@pytest.fixture
def lab(
    combination: Combination,
    kind: str,
    database: str,
    variables: dict[str, str],
    bases: Callable[[Combination], Base],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Iterator[Lab]:
    """A lab for one test."""
    base = bases(combination)
    record_property("on", base.versions)
    lab = Lab(base, kind, tmp_path, f"lab{base.made}", database, variables)
    try:
        yield lab
    finally:
        lab.close()
