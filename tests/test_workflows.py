"""GitHub workflows, the projects' and the template's own, as actionlint judges them."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.combinations import COMBINATIONS, TEMPLATE, Combination
from tests.processes import Command, run

PROGRAMS = Path(sys.executable).parent
WORKFLOW = ".github/workflows/ci.yml"


def judge(workflows: Iterable[Path], folder: Path, expect: int = 0) -> str:
    """Have actionlint judge workflows, and shellcheck the scripts in them."""
    command: Command = [PROGRAMS / "actionlint", "-shellcheck", PROGRAMS / "shellcheck", *workflows]
    return run(command, folder, {"PATH": os.defpath}, expect)


def test_actionlint_has_no_objection_to_the_workflow_of_a_project(
    bake: Callable[[Combination], Path], tmp_path: Path
) -> None:
    # Of the answers, a workflow knows only the broker.
    of_each_broker = {combination.broker: combination for combination in COMBINATIONS}
    judge([bake(combination) / WORKFLOW for combination in of_each_broker.values()], tmp_path)


def test_actionlint_has_no_objection_to_the_templates_own_workflows() -> None:
    judge((TEMPLATE / ".github/workflows").glob("*.yml"), TEMPLATE)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-2404", "label"),
        ("timeout-minutes:", "timeout:", "unexpected key"),
        ("contents: read", "contents: reed", "permission"),
        ("services:", "services: ${{ servces.all }}\n    _services:", "servces"),
        ("- run: make lint", "- run: make lint\n        uses: actions/checkout@v6", "uses"),
        ("- run: make lint", "- run: cd $HOME; make $TARGET", "SC2086"),
        ("ports:", "port:", "port"),
    ],
)
def test_actionlint_sees_a_slip(
    old: str, new: str, said: str, bake: Callable[[Combination], Path], tmp_path: Path
) -> None:
    text = (bake(COMBINATIONS[0]) / WORKFLOW).read_text()
    assert old in text
    broken = tmp_path / "ci.yml"
    broken.write_text(text.replace(old, new))
    assert said in judge([broken], tmp_path, expect=1)
