"""The project's own tests pass, by the command that its README names."""

import os
import re
import sys
from pathlib import Path

from uv import find_uv_bin

from tests import servers
from tests.combinations import CHOICES, COMBINATIONS, Combination, each, version
from tests.processes import run
from tests.projects import Workplace, uv_environment


def newest(broker: str) -> Combination:
    """Return the broker's first combination with the newest Django that runs on this Python."""
    usable = [each for each in COMBINATIONS if each.broker == broker and each.python <= sys.version_info[:2]]
    return max(usable, key=lambda combination: version(combination.django_version))


@each("", lambda combination: iter([()]), [newest(broker) for broker in CHOICES["broker"]])
def test_make_test_passes(combination: Combination, workplace: Workplace, interpreter: Path) -> None:
    with servers.broker(combination, workplace) as found:
        uv = os.pathsep.join([str(Path(find_uv_bin()).parent), os.environ["PATH"]])
        environment = {**uv_environment(interpreter), **found, "PATH": uv, "TMPDIR": str(workplace.temporary)}
        printed = run(["make", "test"], workplace.path, environment)
    assert re.search(r"\b[1-9]\d* passed", printed), printed
    assert not re.search(r"\b[1-9]\d* skipped", printed), printed
