"""The engine's own tests, tests/engine, pass inside a project of each broker, and worker/ is as clean as the rest.

They run by the project's interpreter, in its folder and with none of the tests' own variables, on a server of the
broker and on each database that the broker's queue may be in.
"""

import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from tests import servers
from tests.combinations import CHOICES, COMBINATIONS, TEMPLATE, Combination, databases, each
from tests.processes import Command, started
from tests.projects import Sharing, Workplace
from tests.test_project_tests import newest

ENGINE = TEMPLATE / "tests" / "engine"
MINUTES = 25  #: that the tests of one broker on one database may take
COUNTED = "redis"  #: over which `make test-all` counts how much of worker/ they run: below 90 % they fail

of_each_broker = [newest(broker) for broker in CHOICES["broker"]]


@each("database", lambda combination: ((name,) for name in databases(combination)), of_each_broker)
def test_the_engine_keeps_its_promises(
    combination: Combination, database: str, workplace: Workplace, sharing: Sharing
) -> None:
    is_counted = combination.broker == COUNTED and sharing.nothing  # it takes a third longer
    counted = ["--cov", f"--cov-config={ENGINE / 'coveragerc'}"] if is_counted else []
    run_tests(combination, database, workplace, ENGINE, *counted)


def run_tests(combination: Combination, database: str, workplace: Workplace, *arguments: str | Path) -> None:
    """Run tests of the engine on servers of their own."""
    with (
        servers.database(database, workplace.temporary) as tables,
        servers.broker(combination, workplace) as queue,
    ):
        own = {"COVERAGE_FOLDER": str(workplace.temporary), "DEBUG": "true", "PYTHONDONTWRITEBYTECODE": "1"}
        environment = workplace.environment({**tables, **queue, **own})
        command: Command = [workplace.python, "-m", "pytest", *map(str, arguments)]
        with started("engine", command, workplace.path, environment, workplace.temporary) as it:
            code: int | None = None
            with suppress(subprocess.TimeoutExpired):
                code = it.popen.wait(MINUTES * 60)
        assert code == 0, f"ended with {code}:\n{it.out.read_text()}{it.err.read_text()}"


other_django = [
    next(it for it in COMBINATIONS if it.broker == tested.broker and it.django_version != tested.django_version)
    for tested in of_each_broker
]


@each("", lambda combination: iter([()]), other_django)
def test_tasks_are_those_of_django_with_the_other_django_too(combination: Combination, workplace: Workplace) -> None:
    run_tests(combination, "sqlite", workplace, ENGINE / "test_tasks.py", ENGINE / "test_task_results.py")


@each("", lambda combination: iter([()]), of_each_broker)
def test_the_engine_is_free_of_lint(combination: Combination, workplace: Workplace) -> None:
    # By the project's own rules, but for what leaves worker/ out.
    with_it = workplace.temporary / "pyproject.toml"
    text = (workplace.path / "pyproject.toml").read_text()
    mypy = r'\[\[tool.mypy.overrides\]\]\nmodule = "worker.\*"\nignore_errors = true\n'
    changed = re.sub(rf'extend-exclude = .*\n|,worker(?="\n)|{mypy}', "", text)
    assert changed.count("\n") == text.count("\n") - 4
    with_it.write_text(changed)
    workplace.run("ruff", "format", "--check", "--config", str(with_it), "worker")
    workplace.run("ruff", "check", "--config", str(with_it), "worker")
    templates = workplace.temporary / "templates"  # djlint reads the nearest file of settings, whichever it is told
    shutil.copytree(workplace.path / "worker" / "templates", templates)
    workplace.run("djlint", "--check", "--lint", str(templates))
    workplace.run("mypy", "--config-file", str(with_it), "--ignore-missing-imports", "worker")
