"""Promises 2 and 9: large arguments and results pass, survive kills, and do not fill the memory."""

import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Lab, memory
from tests.faults.test_inputs import LIMITS, check_goes_on

MEGABYTE = 1_000_000
MOST = 600_000  #: kilobytes of each process but the workers, where 480 MB of arguments wait
SMALL_MESSAGES = {"sqs", "mongodb"}  #: which take no message of that size


@pytest.mark.full
@each_broker(4)
def test_a_result_of_150_mb_is_saved_or_refused_and_holds_up_nobody(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start(max_attempts=1, ack_failures=False)
    ids = lab.call("enqueue_loads", calls={"huge": 10}, size=150 * MEGABYTE)
    beside = lab.enqueue_many("beside", 10)
    lab.wait(lambda: lab.call("settled", ids=ids) == ids, "an outcome", cluster)
    lab.wait_done(beside, cluster)
    assert lab.starts() == {**dict.fromkeys(beside, 1), "huge": 1}, lab.report()
    assert len(lab.failed()) <= 1, lab.failed()
    check_goes_on(lab, cluster)


@pytest.mark.full
@each_broker(2, without=SMALL_MESSAGES)
def test_workers_killed_while_they_read_60_mb_lose_nothing(lab: Lab) -> None:
    lab.deadline = 180
    cluster = lab.start(max_attempts=1000)
    loads = {f"load{index}": 60 * MEGABYTE for index in range(3)}
    lab.call("enqueue_loads", calls=loads, size=10, seconds=0.2)
    keys = lab.enqueue_many("beside", 10) | loads.keys()
    kills = cluster.kill_workers(5, random.Random(1), every=0.1)  # noqa: S311
    assert kills > 5, f"{kills} workers were killed\n{lab.report()}"
    lab.wait_done(keys, cluster)
    assert lab.succeeded() == dict.fromkeys(keys, 1), lab.report()
    check_goes_on(lab, cluster)


@pytest.mark.full
@each_broker(2)
def test_workers_killed_while_they_write_large_results_lose_nothing(lab: Lab) -> None:
    lab.deadline = 180
    cluster = lab.start(max_attempts=1000)
    loads = dict.fromkeys((f"load{index}" for index in range(10)), 10)
    lab.call("enqueue_loads", calls=loads, size=20 * MEGABYTE)
    beside = lab.enqueue_many("beside", 10)
    cluster.kill_workers(5, random.Random(1), every=0.1)  # noqa: S311
    lab.wait_counted(len(loads) + len(beside), cluster)
    assert lab.ends().keys() == beside | loads.keys(), lab.report()
    assert lab.call("counts") == {"succeeded": len(loads) + len(beside), "failed": 0}, lab.report()
    check_goes_on(lab, cluster)


@pytest.mark.full
@each_broker(9, without=SMALL_MESSAGES)
def test_twelve_tasks_with_40_mb_each_do_not_fill_the_memory(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    lab.deadline = 180
    loads = {f"load{index}": 40 * MEGABYTE for index in range(12)}
    cluster = lab.start()
    roles = cluster.roles()
    lab.call("enqueue_loads", calls=loads, size=10, seconds=0.5)
    holders = sorted(roles.others() - set(roles.workers))
    peak = 0

    def all_done() -> bool:
        nonlocal peak
        peak = max(peak, *map(memory, holders))
        return lab.ends().keys() == loads.keys()

    lab.wait(all_done, "the end of all", cluster)
    lab.wait_done(set(loads), cluster)
    assert lab.starts() == dict.fromkeys(loads, 1), lab.report()
    said = f"{lab.base.combination.broker}: while 480 MB of arguments waited, what holds tasks took {peak // 1000} MB"
    record_property("said", said)
    assert peak < MOST, f"it took {peak} kB\n{lab.report()}"
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(7)
def test_a_worker_whose_agent_is_stuck_under_load_ends_with_1_and_the_next_one_does_all(lab: Lab) -> None:
    lab.deadline = 60
    number = 3000
    lab.call("enqueue_loads", calls={f"task{index}": 10 for index in range(number)}, size=1000)
    cluster = lab.start()
    lab.wait(lambda: len(lab.ends()) > 100, "the end of some tasks", cluster)
    frozen = time.monotonic()
    cluster.signal(signal.SIGSTOP, cluster.roles().of("agent"))
    assert cluster.wait_for_exit() == 1, lab.report()
    assert time.monotonic() - frozen < 60, lab.report()
    lab.deadline = 180
    again = lab.start()
    lab.wait_counted(number, again)
    assert lab.call("counts") == {"succeeded": number, "failed": 0}, lab.report()
    assert len(lab.ends()) == number, lab.report()
    check_goes_on(lab, again)


@pytest.mark.full
@each_broker(4, without=SMALL_MESSAGES)
def test_a_large_argument_that_fails_each_time_is_set_aside_and_holds_up_nobody(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start(**LIMITS)
    ids = lab.call("enqueue_loads", calls={"large": 60 * MEGABYTE}, size=10, seconds=60.0)
    beside = lab.enqueue_many("beside", 10)
    lab.wait(lambda: lab.call("settled", ids=ids) == ids, "an outcome", cluster)
    lab.wait_done(beside, cluster)
    assert [row["id"] for row in lab.failed()] == ids, lab.failed()
    check_goes_on(lab, cluster)
