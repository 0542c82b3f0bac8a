"""Promise 1: a worker that is told to stop does so in time, and gives back what it has not done."""

import re
import signal

import pytest

from tests.faults.cells import ASTRAY, SAME, each_broker, race
from tests.faults.lab import Cluster, Lab

HANGS = "the main process waits for ever for the dead sentinel (#346)"


def tell(cluster: Cluster, name: str, whom: str) -> None:
    """Send a signal as the platforms do."""
    number = signal.Signals[name]
    match whom:
        case "main":
            cluster.signal(number, [cluster.popen.pid])
        case "all":
            cluster.signal(number)
        case "twice":
            cluster.signal(number, [cluster.popen.pid])
            cluster.signal(number)


WAYS = [(name, whom) for name in ("SIGTERM", "SIGINT") for whom in ("main", "all", "twice")]


@pytest.mark.full
@each_broker(
    1,
    names="name,whom",
    values=WAYS,
    upstream={"SIGTERM-all": race(HANGS), "SIGTERM-twice": race(HANGS), "*": SAME},
)
def test_an_idle_worker_stops_with_0(lab: Lab, name: str, whom: str) -> None:
    cluster = lab.start()
    tell(cluster, name, whom)
    assert cluster.wait_for_exit() == 0, lab.report()


def stop_a_busy_worker(lab: Lab, name: str, whom: str) -> None:
    """Two tasks run, and ten wait, when the signal comes."""
    lab.lease = 300  # whoever waits for a lease to run out comes too late
    cluster = lab.start()
    lab.enqueue("work", ("long", 60), task_name="the-long-one")
    lab.enqueue("work", ("short", 1.5))
    lab.wait_started("long", "short")
    waiting = lab.enqueue_many("waiting", 10)
    tell(cluster, name, whom)
    assert cluster.wait_for_exit() == 0, lab.report()
    assert lab.ends() == {"short": 1}, lab.report()
    assert re.search(r"the-long-one.*cut off|cut off.*the-long-one", cluster.whole_log()), lab.report()
    again = lab.start()
    lab.wait(lambda: lab.starts()["long"] == 2, "a second start of what was cut off", again)
    lab.wait(lambda: lab.succeeded().keys() >= waiting | {"short"}, "the results of the others", again)
    assert lab.starts() == {**dict.fromkeys(waiting, 1), "short": 1, "long": 2}, lab.report()


@each_broker(1, upstream={"*": f"{HANGS}, or what runs is lost"})
def test_a_busy_worker_ends_what_it_can_and_gives_back_the_rest(lab: Lab) -> None:
    stop_a_busy_worker(lab, "SIGTERM", "all")


@pytest.mark.full
@each_broker(
    1,
    names="name,whom",
    values=[way for way in WAYS if way != ("SIGTERM", "all")],
    upstream={"*": "what is cut off is not given back, nor named"},
)
def test_it_does_so_at_any_signal_however_it_is_sent(lab: Lab, name: str, whom: str) -> None:
    stop_a_busy_worker(lab, name, whom)


@each_broker(1, upstream={"sqs": ASTRAY, "*": SAME})
def test_a_worker_that_is_told_to_stop_while_it_starts_takes_no_task(lab: Lab) -> None:
    keys = lab.enqueue_many("task", 5)
    early = lab.start(wait=False)
    lab.wait(early.session, "a process", early)
    early.signal(signal.SIGTERM)
    early.wait_for_exit()
    lab.wait_done(keys, lab.start())
    assert set(lab.starts().values()) == {1}, lab.report()
