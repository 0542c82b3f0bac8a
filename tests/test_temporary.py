"""A test run leaves no file behind, whatever the programs that it starts leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.combinations import TEMPLATE
from tests.processes import Environment, run


def test_a_run_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    tests = ["-n", "1", "tests/test_answers.py::test_texts_may_be_as_long_as_it_is_said"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment: Environment = {**inherited, "TMPDIR": str(temporary)}
    printed = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests], TEMPLATE, environment)
    assert "1 passed" in printed
    assert list(temporary.iterdir()) == []


def test_a_program_that_would_leave_files_elsewhere_is_not_started() -> None:
    with pytest.raises(RuntimeError, match="without TMPDIR"):
        subprocess.run([sys.executable, "-V"], env={"PATH": os.defpath}, check=False)
