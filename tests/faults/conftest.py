"""Fixtures of the fault tests, and the table that a full run of them writes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.combinations import Combination
from tests.faults.lab import Base, Lab
from tests.interpreters import for_python
from tests.projects import Environments, Workplace


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "promise(number): the promise of the worker that the test shows",
        "full: runs with --faults only",
    ):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long."""
    if not config.getoption("--faults"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)


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
                workplace = Workplace.of(bake(combination), for_python(combination.python), environments, folder)
                made[combination] = stack.enter_context(Base.of(combination, workplace))
            return made[combination]

        yield base


@pytest.fixture
def database() -> str:
    """The kind of database; a test can ask for another one."""
    return "postgresql"


@pytest.fixture
def lab(
    combination: Combination, kind: str, database: str, bases: Callable[[Combination], Base], tmp_path: Path
) -> Iterator[Lab]:
    """A lab for one test."""
    base = bases(combination)
    lab = Lab(base, kind, tmp_path, f"lab{base.made}", database)
    try:
        yield lab
    finally:
        lab.close()
