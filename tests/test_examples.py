"""What lies in examples/ is what the template bakes: run `make examples` after a change of the template."""

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.combinations import TEMPLATE
from tests.projects import tree


def load(path: Path) -> ModuleType:
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def content(example: Path) -> dict[str, bytes]:
    """Return what is, or would be, committed of an example: not what is left from a run of it."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listing, cwd=example, text=True).split("\0")[:-1]
    return {name: (example / name).read_bytes() for name in names if (example / name).exists()}


@pytest.fixture(scope="module")
def examples() -> ModuleType:
    """The script by which `make examples` bakes."""
    return load(TEMPLATE / "scripts" / "examples.py")


def test_examples_are_what_the_template_bakes(examples: ModuleType, tmp_path: Path) -> None:
    for name in examples.EXAMPLES:
        baked = tree(examples.bake(examples.EXAMPLES[name], tmp_path / name))
        committed = content(TEMPLATE / "examples" / name)
        assert {path for path in baked.keys() | committed.keys() if baked.get(path) != committed.get(path)} == set(), (
            name
        )


def test_every_example_comes_from_the_script(examples: ModuleType) -> None:
    assert {path.name for path in (TEMPLATE / "examples").iterdir() if path.is_dir()} == set(examples.EXAMPLES)
