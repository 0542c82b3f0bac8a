"""The cluster's processes: what becomes of the others when one of them dies or is stuck."""

import sys

import pytest

from tests.processes import DEADLINE, manage

GONE = """
import os, time
from worker import cluster

{gone}

cluster.{process}, cluster.HAND_BACK = gone, 0.5
cluster.Cluster().start()
raise SystemExit(cluster.Cluster.supervise())
"""
ORPHAN = """
import os, sys, time
from worker.cluster import die_with

sys.platform = {platform!r}
parent, (reader, writer) = os.getpid(), os.pipe()
if os.fork():
    os.read(reader, 1)
    os._exit(0)
die_with(parent)
os.write(writer, b"1")
time.sleep({deadline})
print("The child is still there", flush=True)
"""


@pytest.mark.parametrize(
    ("process", "gone", "problem"),
    [
        ("pusher", "def gone(*_): os._exit(1)", "the pusher has died"),
        ("monitor", "def gone(*_): os._exit(1)", "the monitor has died"),
        ("pusher", "def gone(*args): args[2].pusher_beat.value = -99; time.sleep(99)", "the pusher is stuck"),
    ],
)
def test_a_cluster_that_cannot_go_on_ends_with_1(
    process: str, gone: str, problem: str, environment: dict[str, str]
) -> None:
    done = manage("shell", "--no-imports", "-c", GONE.format(process=process, gone=gone), env=environment)
    assert (done.returncode, f"cannot go on: {problem}." in done.stdout) == (1, True), done.stdout


@pytest.mark.parametrize("platform", [sys.platform, "another"])
def test_a_process_dies_with_its_parent(platform: str, environment: dict[str, str]) -> None:
    code = ORPHAN.format(platform=platform, deadline=DEADLINE)
    done = manage("shell", "--no-imports", "-c", code, env=environment)  # returns once nobody can write any more
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
