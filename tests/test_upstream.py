"""Each fault that worker/ mends still shows in the version that projects have: where it does not, the mend may go."""

import re
from collections.abc import Iterator

from tests import servers
from tests.combinations import COMBINATIONS, TEMPLATE, TREE, Combination, each
from tests.processes import run
from tests.projects import Workplace

SCRIPTS = sorted((TEMPLATE / "docs/upstream").glob("*.py"))
PAGE = (TEMPLATE / "docs/upstream.md").read_text()
of_redis = [it for it in COMBINATIONS if it.broker == "redis"][:1]


def names(_: Combination) -> Iterator[tuple[str]]:
    """Yield the names of the scripts."""
    return ((path.stem,) for path in SCRIPTS)


@each("script", names, of_redis)
def test_the_fault_still_shows(combination: Combination, script: str, workplace: Workplace) -> None:
    path = TEMPLATE / "docs/upstream" / f"{script}.py"
    with (
        servers.redis(workplace.temporary)
        if "REDIS_URL" in path.read_text()
        else servers.sqlite(workplace.temporary) as environment
    ):
        printed = run([workplace.python, path], workplace.temporary, workplace.environment(environment), seconds=60)
    assert "The fault is there: " in printed


def test_each_script_is_short_and_stands_in_the_page_with_a_mend_that_is_there() -> None:
    rows = re.findall(r"^\| .* \[(\w+)\.py\]\(upstream/\1\.py\) \| (.*?) \|", PAGE, re.MULTILINE)
    assert sorted(name for name, _ in rows) == [path.stem for path in SCRIPTS]
    for name, mend in rows:
        for file in re.findall(r"`(worker/[\w/]+\.py)`", mend):
            assert (TREE / file).exists(), f"{name}: there is no {file}"
    for path in SCRIPTS:
        header, _, code = path.read_text().partition('# ///\n"""')
        assert "# dependencies = " in header
        assert code.count("\n") < 30, path.name


def test_the_page_and_the_scripts_name_the_versions_that_projects_have() -> None:
    pinned = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?==([\d.]+)"', (TREE / "pyproject.toml").read_text()))
    for name in ("django-q2", "django-prodserver"):
        assert f"## {name} {pinned[name]}\n" in PAGE
    for path in SCRIPTS:
        for name, number in re.findall(r'"(django-[\w-]+)(?:\[\w+\])?==([\d.]+)"', path.read_text()):
            assert pinned[name] == number, path.name
