"""Promises 1 to 6 at once: everything goes wrong, again and again, and all is done at the end."""

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Cluster, Lab, Mixture

SEED = int(os.environ.get("CHAOS_SEED", "1"))
# A kill is an attempt that failed: about one attempt in twenty here, so that with the three of a generated project some
# task in thousands has bad luck each time. That such a one is set aside is shown by test_poison.
MAX_ATTEMPTS = 10
SOON = {"Q_QUIET": "1"}  #: lets a worker look at schedules each second


class Supervisor:
    """Starts the worker again whenever it has ended, as a platform does."""

    def __init__(self, lab: Lab) -> None:
        """Start it."""
        self.lab = lab
        self.cluster: Cluster = lab.start(variables=SOON, max_attempts=MAX_ATTEMPTS)

    def look(self) -> None:
        """Start it again if need be; nothing of the one before may be left."""
        if self.cluster.popen.poll() is not None:
            self.cluster.wait_for_exit()
            self.cluster = self.lab.start(wait=False, variables=SOON, max_attempts=MAX_ATTEMPTS)

    def is_whole(self) -> bool:
        """Say whether all processes are there, and start them again if need be."""
        self.look()
        return self.cluster.known_roles() is not None

    def kill_one(self, chance: random.Random) -> bool:
        """Kill one of its processes, unless it is still starting: nobody would ever get to work."""
        if self.cluster.reported_roles() is None:
            return False
        self.cluster.signal(signal.SIGKILL, [chance.choice(self.cluster.session() or [self.cluster.popen.pid])])
        return True


def go_through(lab: Lab, number: int, outages: int, seconds: float, record: Callable[[str, object], None]) -> None:
    """Kill a process every second, tell all to stop every ten, and cut off broker and database some times."""
    chance = random.Random(SEED)  # noqa: S311 (chaos that can be repeated)
    mixture = Mixture(lab, max(16, number // 20))
    keys = {f"task{index}" for index in range(number)}
    lab.enqueue("work", *((key, chance.uniform(0, 0.2)) for key in sorted(keys)))
    supervisor = Supervisor(lab)
    begun = time.monotonic()
    acts: list[tuple[float, str]] = []
    kills = stops = 0

    def plan(act: str, after: float) -> None:
        acts.append((time.monotonic() + after, act))

    plan("kill", 1)
    plan("stop", 5)
    for index in range(outages):
        plan("cut", (index + 1) * seconds / (outages + 1))
    while not lab.ends().keys() >= keys | mixture.keys:
        assert time.monotonic() - begun < 180 + seconds * 10, lab.report()
        supervisor.look()
        due = [act for act in acts if act[0] <= time.monotonic()]
        for act in due:
            acts.remove(act)
            match act[1]:
                case "kill":
                    kills += supervisor.kill_one(chance)
                    plan("kill", 1)
                case "stop":
                    supervisor.cluster.signal(signal.SIGTERM)
                    stops += 1
                    plan("stop", 10)
                case "cut":
                    lab.cut_all()
                    plan("mend", 2)
                case "mend":
                    lab.mend_all()
        time.sleep(0.05)
    lab.cut_all()
    lab.mend_all()
    lab.deadline = 120

    def all_saved() -> bool:
        supervisor.look()
        return bool(lab.call("counts")["succeeded"] >= number and lab.call("queued") == 0)

    lab.wait(all_saved, "all results")
    mixture.check()
    assert not mixture.failed(), mixture.failed()
    saved = lab.succeeded()
    assert {key: saved[key] for key in keys} == dict.fromkeys(keys, 1), lab.report()
    lab.wait(supervisor.is_whole, "a worker that is whole")  # the last kill may have had its effect after all was done
    supervisor.cluster.signal(signal.SIGTERM)
    assert supervisor.cluster.wait_for_exit() == 0, lab.report()
    assert not any(cluster.session() for cluster in lab.clusters)
    twice = [key for key, count in lab.ends().items() if count > 1]
    record(
        "said",
        f"{lab.base.combination.broker}: {number} tasks, {kills} kills, {stops} stops, {outages} outages, "
        f"{len(lab.clusters)} starts of the worker: {len(twice)} tasks ran to their end more than once, "
        f"{sum(count > 1 for count in lab.starts().values())} were begun more than once",
    )


@each_broker(2)
def test_two_hundred_tasks_survive_chaos(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    go_through(lab, 200, 1, 10, record_property)


@pytest.mark.full
@each_broker(2)
def test_two_thousand_tasks_survive_chaos(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    go_through(lab, 2000, 3, 150, record_property)
