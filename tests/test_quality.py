"""A project as it is baked passes its own linters and Django's checks for production, with its own configuration."""

import pytest

from tests.combinations import each_combination
from tests.projects import PRODUCTION, Workplace

LONGEST = 300  #: lines of a file of the engine that a reader is asked to read

once = pytest.mark.usefixtures("once_for_its_python")


def in_production(workplace: Workplace) -> dict[str, str]:
    """Return what settings ask for in production, with a database that nobody need serve."""
    return {**PRODUCTION, "DATABASE_URL": f"sqlite:///{workplace.temporary / 'database.sqlite3'}"}


@once
@each_combination
def test_python_is_formatted(workplace: Workplace) -> None:
    workplace.run("ruff", "format", "--check", ".")


@once
@each_combination
def test_python_is_free_of_lint(workplace: Workplace) -> None:
    workplace.run("ruff", "check", ".")


@once
@each_combination
def test_types_are_right(workplace: Workplace) -> None:
    # Projects with one environment share what mypy has found out about its packages.
    cache = workplace.python.parent.parent / "mypy_cache"
    workplace.run("mypy", "--cache-dir", str(cache), ".")


@once
@each_combination
def test_templates_are_free_of_lint(workplace: Workplace) -> None:
    workplace.run("djlint", "--check", "--lint", "core")


@once
@each_combination
def test_django_has_no_objection_to_production(workplace: Workplace) -> None:
    workplace.manage("check", "--deploy", "--fail-level", "WARNING", environment=in_production(workplace))


@once
@each_combination
def test_no_migration_is_missing(workplace: Workplace) -> None:
    # Without a name Django passes over apps that have no folder of migrations.
    own = [path.parent.name for path in workplace.path.glob("*/apps.py")]
    assert own
    for names in ([], own):
        workplace.manage("makemigrations", "--check", "--dry-run", *names, environment=in_production(workplace))


@once
@each_combination
def test_no_file_of_the_engine_is_too_long_to_be_read(workplace: Workplace) -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (workplace.path / "worker").rglob("*.py")}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
