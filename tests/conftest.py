"""Fixtures: a combination's project as it is baked, and a copy in which it can be run."""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_cookies.plugin import Cookies

from tests.clients import Site, serve
from tests.combinations import COMBINATIONS, TEMPLATE, Combination
from tests.interpreters import PROMISED, for_combination, interpreters
from tests.projects import Environments, Sharing, Workplace, python_of

NOT_TESTED = "not tested: "
collect_ignore = ["engine"]  # which runs inside baked projects: see test_engine.py


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share-nothing", action="store_true", help="run costly tests for each combination, alike or not")
    parser.addoption(
        "--faults", action="store_true", help="run the long fault tests too, and those of upstream's worker"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let all temporary files go with the tests, also those that other programs leave; --basetemp keeps the tests'.

    cookiecutter 2.7 leaves each hook that it has rendered, uv its locks, and SecantusDB its data.
    """
    sys.addaudithook(refuse_to_lose_files)
    if not hasattr(config, "workerinput"):  # this process starts the others, which inherit the variable
        folder = tempfile.mkdtemp(prefix="tests-")
        Path(folder).chmod(0o711)  # PostgreSQL's user must get through
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        config.add_cleanup(lambda: shutil.rmtree(folder))


def refuse_to_lose_files(event: str, details: tuple[Any, ...]) -> None:
    """Refuse to start a program that would put its temporary files elsewhere."""
    if event == "subprocess.Popen" and details[3] is not None and "TMPDIR" not in details[3]:
        raise RuntimeError(f"{details[0]} is started without TMPDIR: see tests.processes.bare()")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not tested, and why."""
    reports = terminalreporter.getreports("skipped") + terminalreporter.getreports("failed")
    reasons = Counter(
        str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).rpartition(NOT_TESTED)[2]
        for report in reports
        if NOT_TESTED in str(report.longrepr)
    )
    absent = [".".join(map(str, numbers)) for numbers in sorted(PROMISED - interpreters().keys())]
    terminalreporter.section("what was not tested")
    for reason, number in reasons.items():
        terminalreporter.line(f"{number} tests: {reason.strip()}")
    if absent:
        terminalreporter.line(f"Python {', '.join(absent)}: not found in PATH or ~/.pyenv/versions")
    if not reasons and not absent:
        terminalreporter.line("nothing: all servers and interpreters are here")


@pytest.fixture(scope="session")
def bake(cookies_session: Cookies) -> Callable[[Combination], Path]:
    """Bake a combination, once."""
    baked: dict[Combination, Path] = {}

    def bake(combination: Combination) -> Path:
        if combination not in baked:
            result = cookies_session.bake(extra_context=combination.answers, template=str(TEMPLATE))
            assert result.exception is None, result.exception
            baked[combination] = result.project_path
        return baked[combination]

    return bake


@pytest.fixture
def project(combination: Combination, bake: Callable[[Combination], Path]) -> Path:
    """The project as it is baked; tests only read it."""
    return bake(combination)


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    """Virtual environments that all processes of this test run share."""
    own = tmp_path_factory.getbasetemp()
    return Environments((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "environments")


@pytest.fixture
def interpreter(combination: Combination) -> Path:
    """The interpreter for the project's environment."""
    return for_combination(combination)


@pytest.fixture
def workplace(project: Path, interpreter: Path, environments: Environments, tmp_path: Path) -> Workplace:
    """A copy of the project, in which it can be run."""
    return Workplace.of(project, interpreter, environments, tmp_path)


@pytest.fixture(scope="session")
def sharing(request: pytest.FixtureRequest) -> Sharing:
    """What was run already in this process, which runs all tests of an environment."""
    return Sharing(nothing=request.config.getoption("--share-nothing"))


@pytest.fixture
def once_for_its_python(
    request: pytest.FixtureRequest, project: Path, combination: Combination, sharing: Sharing
) -> None:
    """Skip the test if it has seen a project with the same Python, byte for byte, and the same parameters."""
    grouped = request.node.nodeid.endswith(f"@{combination.environment}")
    assert grouped or "PYTEST_XDIST_WORKER" not in os.environ, (
        "pytest-xdist has not kept the environment's tests together"
    )
    parameters = {name: str(value) for name, value in request.node.callspec.params.items() if name != "combination"}
    first = sharing.first(request.function, f"{python_of(project)}{parameters}", str(combination))
    if first != str(combination):
        pytest.skip(f"shares the run of {first}")


@pytest.fixture(scope="session")
def site(
    request: pytest.FixtureRequest,
    bake: Callable[[Combination], Path],
    environments: Environments,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Run web, with some pages of the tests' own, alone with the servers that it needs."""
    combination = next(
        it for it in COMBINATIONS if (it.broker, it.hosting, it.django_version) == ("redis", "docker", request.param)
    )
    folder = tmp_path_factory.mktemp("site")
    workplace = Workplace.of(bake(combination), for_combination(combination), environments, folder)
    with serve(workplace, folder) as site:
        yield site
