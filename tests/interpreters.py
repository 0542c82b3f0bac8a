"""The Python interpreters of this machine, one for each version."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.combinations import CONTEXT, TREE, Combination, version

# Those that the template itself speaks of; others are used where they are found.
PROMISED = {version(row["python"]) for row in CONTEXT["_djangos"].values()} | {
    version((TREE / ".python-version").read_text())
}
ASK = "import os, sys; print(*sys.version_info[:2]); print(os.path.realpath(sys.executable))"


@functools.cache
def interpreters() -> dict[tuple[int, ...], Path]:
    """Return the interpreter of each version, the one that runs the tests first."""
    folders = [Path(folder) for folder in os.get_exec_path()]
    candidates = [
        Path(sys.executable),
        *(path for folder in folders for path in sorted(folder.glob("python3.[1-9][0-9]"))),
        *sorted(Path.home().glob(".pyenv/versions/*/bin/python")),
    ]
    found: dict[tuple[int, ...], Path] = {}
    for candidate in candidates:
        # A shim of pyenv answers with an error where its version is not switched on.
        answer = subprocess.run([candidate, "-c", ASK], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            numbers, path = answer.stdout.splitlines()
            found.setdefault(tuple(map(int, numbers.split())), Path(path))
    return {numbers: path for numbers, path in found.items() if numbers >= min(PROMISED)}


def for_combination(combination: Combination) -> Path:
    """Return the interpreter that runs the tests if it is new enough, else the oldest that is, or skip the test."""
    found = new_enough(combination.python)
    if not found:
        needed = ".".join(map(str, combination.python))
        pytest.skip(f"not tested: Django {combination.django_version}, which needs Python {needed} or newer")
    return found


def new_enough(oldest: tuple[int, ...]) -> Path | None:
    """Return the interpreter that runs the tests if it is new enough, else the oldest that is, or None."""
    found = {numbers: path for numbers, path in interpreters().items() if numbers >= oldest}
    return found.get(sys.version_info[:2]) or (found[min(found)] if found else None)
