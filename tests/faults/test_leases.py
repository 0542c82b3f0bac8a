"""Promise 6: a task runs once unless its worker died, however long it takes and however many were prefetched."""

import signal
import time
from pathlib import Path

import pytest

from tests.faults.cells import ASTRAY, SAME, each_broker, race
from tests.faults.lab import FOR_EVER, OURS, Lab
from tests.servers import missing

SHORT = 3  #: seconds of a lease
ALL = {"LAB_AHEAD": "1000"}  #: lets a cluster fetch as many ahead as `queue_limit`, however long they will wait
RUN_OUT = "tasks whose lease has run out run again"
AGAIN = {"redis": SAME, "*": RUN_OUT}  # a task that has left the list in Redis does not come back: it can be lost only


@each_broker(6, upstream=AGAIN)
def test_a_task_of_five_leases_runs_once(lab: Lab) -> None:
    lab.lease = SHORT
    clusters = [lab.start(timeout=20), lab.start(timeout=20)]
    lab.enqueue("work", ("long", 5.0 * SHORT))
    lab.wait_done({"long"}, *clusters)
    assert lab.starts() == {"long": 1}, lab.report()


@each_broker(6, upstream=AGAIN)
def test_tasks_that_wait_for_leases_in_a_cluster_run_once(lab: Lab) -> None:
    lab.lease = SHORT
    keys = lab.enqueue_many("task", 24, 1.0)
    greedy = lab.start(queue_limit=1000, variables=ALL)
    lab.wait_started("task0")
    lab.wait_done(keys, greedy, lab.start())
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()


def run_fetched(lab: Lab, number: int) -> None:
    """One cluster fetches all, and another one watches for leases that run out."""
    lab.lease, lab.deadline = SHORT, 180
    keys = lab.enqueue_many("task", number, 0.02)
    greedy = lab.start(queue_limit=1000, variables=ALL)
    lab.wait_started("task0")
    lab.wait_done(keys, greedy, lab.start(queue_limit=1000, variables=ALL))
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()


@each_broker(6, upstream={"redis": SAME, "*": race(RUN_OUT)})
def test_some_hundred_fetched_tasks_run_once_each(lab: Lab) -> None:
    run_fetched(lab, 200)


@each_broker(6, full=True, upstream=AGAIN)
def test_a_thousand_fetched_tasks_run_once_each(lab: Lab) -> None:
    run_fetched(lab, 1000)


@each_broker(6, upstream={"redis": "what was fetched is lost", "sqs": ASTRAY, "*": SAME})
def test_a_dead_clusters_tasks_start_again_within_a_lease(lab: Lab) -> None:
    lab.lease = 10
    dead = lab.start()
    keys = lab.enqueue_many("task", 20, 0.5)
    lab.wait(lambda: len(lab.starts()) >= 2, "the start of some tasks", dead)
    next_one = lab.start()
    dead.signal(signal.SIGKILL)
    killed = time.monotonic()
    lab.wait_done(keys, next_one)
    assert time.monotonic() - killed < 2 * lab.lease + 20, lab.report()


@each_broker(6, upstream={"redis": "results are lost", "sqs": ASTRAY, "*": SAME})
def test_a_cluster_that_is_cut_off_leaves_its_waiting_tasks_to_others(lab: Lab) -> None:
    lab.lease = SHORT
    cut_off = lab.start(queue_limit=100, variables=ALL)
    keys = lab.enqueue_many("task", 30, 0.5)
    lab.wait(lambda: len(lab.ends()) >= 2, "the end of some tasks", cut_off)
    other = lab.start(past_links=True)
    lab.cut_all()
    lab.wait(lambda: keys <= lab.ends().keys(), "the end of all tasks", cut_off, other)
    lab.mend_all()
    lab.wait_done(keys, cut_off, other)
    assert lab.succeeded() == dict.fromkeys(keys, 1), lab.report()
    # What it had begun or ended, but could not report before its leases ran out, may run twice: some leases' worth.
    assert sum(lab.starts().values()) <= len(keys) + 2 * (2 * SHORT / 0.5), lab.report()


@each_broker(6, upstream={"sqs": ASTRAY, "*": SAME})
def test_a_cluster_whose_agent_was_frozen_loses_nothing(lab: Lab) -> None:
    lab.lease = SHORT
    frozen = lab.start(queue_limit=100, variables=ALL)
    keys = lab.enqueue_many("task", 30, 0.5)
    lab.wait(lambda: len(lab.ends()) >= 2, "the end of some tasks", frozen)
    agent = frozen.roles().of("agent" if lab.kind == OURS else "pusher")
    frozen.signal(signal.SIGSTOP, agent)
    other = lab.start()
    lab.wait(lambda: keys <= lab.ends().keys(), "the end of all tasks", frozen, other)
    frozen.signal(signal.SIGCONT, agent)
    lab.wait_done(keys, frozen, other)
    assert lab.succeeded() == dict.fromkeys(keys, 1), lab.report()
    assert frozen.stop() == 0, lab.report()


@each_broker(6)
def test_a_task_may_run_for_longer_than_its_cluster_lets_others(lab: Lab) -> None:
    cluster = lab.start(timeout=1)
    lab.enqueue("work", ("long", 6.0), timeout=FOR_EVER)
    lab.wait_done({"long"}, cluster)
    assert lab.starts() == {"long": 1}, lab.report()


@each_broker(6, upstream={"*": "the task fails with a TypeError"})
def test_a_task_may_have_a_limit_of_time_in_fractions_of_seconds(lab: Lab) -> None:
    cluster = lab.start()
    lab.enqueue("work", ("half", 0.1), timeout=1.5)
    lab.wait_done({"half"}, cluster)


@pytest.mark.full
@each_broker(6)
def test_a_cluster_that_was_frozen_and_is_told_to_stop_takes_nothing_from_the_new_owner(lab: Lab) -> None:
    lab.lease = SHORT
    frozen = lab.start(timeout=60)
    lab.enqueue("work", ("long", 20.0))
    lab.wait_started("long", alive=frozen)
    other = lab.start(timeout=60)
    frozen.signal(signal.SIGSTOP)
    lab.wait(lambda: lab.starts()["long"] == 2, "a start by the other one", other)
    time.sleep(2 * lab.lease)
    frozen.signal(signal.SIGCONT)
    frozen.stop_in_time()
    lab.wait_done({"long"}, other)
    assert lab.starts() == {"long": 2}, lab.report()
    assert lab.succeeded() == {"long": 1}, lab.report()
    other.stop_in_time()


FAKE_TIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.mark.full
@each_broker(6)
def test_a_cluster_whose_clock_is_ahead_is_idle_in_peace_and_takes_nothing_from_others(lab: Lab) -> None:
    if FAKE_TIME is None:
        missing("libfaketime (apt-get install faketime)")
    lab.deadline = 120
    lab.lease = SHORT
    busy = lab.start(timeout=60)
    lab.enqueue("work", ("long", 45.0))
    lab.wait_started("long", alive=busy)
    clock = {"LD_PRELOAD": str(FAKE_TIME), "FAKETIME": "+120s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    ahead = lab.start(timeout=60, variables=clock)
    lab.wait_done({"long"}, busy, ahead)
    assert lab.starts() == {"long": 1}, lab.report()
    busy.stop_in_time()
    lab.wait_done(lab.enqueue_many("task", 10), ahead)
    ahead.stop_in_time()
