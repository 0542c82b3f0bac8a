"""A GitHub workflow, read and run on this machine."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.processes import run

Job = dict[str, Any]


def only_job(project: Path) -> Job:
    """Return the job of the project's workflow."""
    (job,) = yaml.safe_load((project / ".github/workflows/ci.yml").read_text())["jobs"].values()
    found: Job = job
    return found


def published(job: Job) -> set[int]:
    """Return the ports of the runner that lead to the job's services."""
    return {int(port.partition(":")[0]) for service in job["services"].values() for port in service["ports"]}


def addresses(job: Job) -> dict[str, str]:
    """Return the variables of a job that lead to its services."""
    return {name: value for name, value in job["env"].items() if urlsplit(value).port in published(job)}


def run_steps(job: Job, checkout: Path, environment: Mapping[str, str], runner: Path) -> dict[str, str]:
    """Run the steps of a job as GitHub does, in a folder that is checked out, and return what each has printed.

    The runner has pipx, and what it installs is found first. `environment` takes the place of the job's own.
    """
    programs, installed = runner / "programs", runner / "pipx" / "bin"
    programs.mkdir()
    (programs / "pipx").symlink_to(Path(sys.executable).parent / "pipx")
    variables = {
        **environment,
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "PATH": os.pathsep.join([str(installed), str(programs), environment["PATH"]]),
        "PIPX_BIN_DIR": str(installed),
        "PIPX_HOME": str(runner / "pipx"),
    }
    printed = {}
    for step in job["steps"]:
        if "uses" in step:
            assert step["uses"].startswith("actions/checkout@"), "nothing here stands in for this action"
            continue
        assert step.keys() == {"run"}, "a key that is not understood here"
        printed[step["run"]] = run(
            ["bash", "-e", "-c", step["run"]], checkout, variables, seconds=job["timeout-minutes"] * 60
        )
    return printed
