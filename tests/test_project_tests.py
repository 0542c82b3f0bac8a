"""The project's own tests pass: by the steps of its GitHub workflow, and by the command that its README names."""

import os
import re
import sys
import time
from pathlib import Path

from uv import find_uv_bin

from tests import servers
from tests.combinations import CHOICES, COMBINATIONS, Combination, each, version
from tests.processes import Environment, run
from tests.projects import Workplace, uv_environment
from tests.workflows import addresses, only_job, run_steps

SECONDS = 30  #: that `make test` may take, once its packages are there


def newest(broker: str) -> Combination:
    """Return the broker's first combination with the newest Django that runs on this Python."""
    usable = [each for each in COMBINATIONS if each.broker == broker and each.python <= sys.version_info[:2]]
    return max(usable, key=lambda combination: version(combination.django_version))


def all_passed(printed: str) -> bool:
    """Say whether pytest has passed tests, and skipped none."""
    return bool(re.search(r"\b[1-9]\d* passed", printed)) and not re.search(r"\b[1-9]\d* skipped", printed)


@each("", lambda combination: iter([()]), [newest(broker) for broker in CHOICES["broker"]])
def test_its_workflow_passes(combination: Combination, workplace: Workplace, interpreter: Path) -> None:
    job = only_job(workplace.path)
    with servers.database("postgresql", workplace.temporary) as database:
        assert job["env"].keys() == addresses(job).keys() == database.keys()  # in the place of containers
        environment = {**uv_environment(interpreter), **database, "TMPDIR": str(workplace.temporary)}
        printed = run_steps(job, workplace.path, environment, workplace.temporary)
    assert "make lint" in printed
    assert all_passed(printed["make test"]), printed["make test"]


@each("", lambda combination: iter([()]), [newest(broker) for broker in CHOICES["broker"]])
def test_make_test_takes_seconds_where_nothing_is_set(
    combination: Combination, workplace: Workplace, interpreter: Path
) -> None:
    uv = os.pathsep.join([str(Path(find_uv_bin()).parent), os.environ["PATH"]])
    environment: Environment = {**uv_environment(interpreter), "PATH": uv, "TMPDIR": str(workplace.temporary)}
    run(["make", "install"], workplace.path, environment)
    begun = time.monotonic()
    printed = run(["make", "test"], workplace.path, environment)
    assert time.monotonic() - begun < SECONDS
    assert all_passed(printed), printed
