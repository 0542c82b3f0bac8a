"""All promises, for long: nothing grows under a steady load. SOAK_SECONDS says for how long, 600 if nothing."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Cluster, Lab

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
PER_SECOND = 20


def measure(lab: Lab, cluster: Cluster) -> dict[str, int]:
    """Return what could grow."""
    pids = cluster.session()
    memory = sum(
        int(line.split()[1])
        for pid in pids
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
    return {
        "memory in kB": memory,
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        "processes": len(pids),
        "connections": lab.call("connections"),
        "rows": sum(lab.call("counts").values()),
        "queued": lab.call("queued"),
    }


@pytest.mark.full
@each_broker(6)
def test_nothing_grows_under_a_steady_load(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    cluster = lab.start(save_limit=250)
    begin = time.monotonic()
    sent = 0
    warm: dict[str, int] = {}
    while (passed := time.monotonic() - begin) < SECONDS:
        while sent < passed * PER_SECOND:
            lab.enqueue_many(f"round{sent}-", PER_SECOND)
            sent += PER_SECOND
        if not warm and passed > SECONDS / 5:
            warm = measure(lab, cluster)
        assert cluster.popen.poll() is None, lab.report()
        time.sleep(0.1)
    lab.wait(lambda: len(lab.events("end")) == sent and lab.call("queued") == 0, "the end of all tasks", cluster)
    lab.wait(lambda: sum(lab.call("counts").values()) <= 250, "no more results than are kept", cluster)
    end = measure(lab, cluster)
    record_property("said", f"{lab.base.combination.broker}: after {SECONDS:.0f} s, {sent} tasks: {warm} became {end}")
    assert end["memory in kB"] < warm["memory in kB"] * 1.15 + 5_000, (warm, end)
    assert end["descriptors"] <= warm["descriptors"] + 4, (warm, end)
    assert end["connections"] <= warm["connections"] + 1, (warm, end)
    assert end["processes"] == warm["processes"], (warm, end)
    assert warm["queued"] < 5 * PER_SECOND, (warm, end)
    assert set(lab.starts().values()) == {1}
