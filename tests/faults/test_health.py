"""Promise 7: what is stuck is seen, by the probe and by the cluster; one that makes progress never ends itself."""

import re
import signal
import time

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import FOR_EVER, Lab


@each_broker(7)
def test_the_probe_follows_a_worker_that_comes_and_goes(lab: Lab) -> None:
    assert not lab.is_healthy()
    cluster = lab.start()
    assert lab.is_healthy(), lab.report()
    assert cluster.stop() == 0, lab.report()
    assert not lab.is_healthy(), lab.report()


@pytest.mark.full
@each_broker(7, own_server=False)
def test_the_probe_fails_when_a_worker_was_killed(lab: Lab) -> None:
    cluster = lab.start()
    cluster.signal(signal.SIGKILL)
    cluster.wait_for_exit()
    lab.wait(lambda: not lab.is_healthy(), "a probe that fails")


@pytest.mark.full
@each_broker(7, own_server=False)
def test_the_probe_fails_when_one_of_two_workers_on_a_host_was_killed(lab: Lab) -> None:
    killed, other = lab.start(), lab.start()
    assert lab.is_healthy(), f"{lab.problem()}\n{lab.report()}"
    killed.signal(signal.SIGKILL)
    killed.wait_for_exit()
    lab.wait(lambda: not lab.is_healthy(), "a probe that fails", other)
    assert str(killed.popen.pid) in lab.problem(), lab.problem()
    again = lab.start()
    lab.wait(lab.is_healthy, "a probe that is content with the next one", other, again)


@pytest.mark.full
@each_broker(7, own_server=False)
def test_the_probe_fails_when_the_main_process_is_stuck(lab: Lab) -> None:
    cluster = lab.start()
    cluster.signal(signal.SIGSTOP, cluster.roles().of("main"))
    lab.wait(lambda: not lab.is_healthy(), "a probe that fails", cluster)


@pytest.mark.full
@each_broker(7, own_server=False, names="code", values=[(0,), (1,)])
def test_workers_that_end_at_once_are_seen(lab: Lab, code: int) -> None:
    variables = {"LAB_RECEIVERS": "post_spawn:leave_at_once", "LAB_CODE": str(code)}
    cluster = lab.start(wait=False, variables=variables)
    begun = time.monotonic()
    lab.wait(lambda: "starts workers" in lab.problem(), "a probe that fails", cluster)
    assert cluster.whole_log().count("ready for work") < 6 + 3 * (time.monotonic() - begun), lab.report()
    assert ("ended with code 1" in cluster.whole_log()) is bool(code), lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(7, own_server=False)
def test_the_probe_names_what_is_late(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start()
    with lab.slow("django_q_task", 50):
        ran = lab.enqueue_many("task", 10)
        lab.wait(lambda: ran <= lab.ends().keys(), "the end of all tasks", cluster)
        lab.wait(
            lambda: "result" in lab.problem(), lambda: f"who saves results to be named: {lab.problem()!r}", cluster
        )
        problem = lab.problem()
    assert re.search(r"\d", problem), f"it does not say for how long: {problem}"
    others = {"schedule", "hand", "lease"}
    assert not any(word in problem for word in others), f"it names what is not late: {problem}"
    lab.wait(lab.is_healthy, "a probe that is content again", cluster)
    lab.wait_done(ran, cluster)


@pytest.mark.full
@each_broker(7)
def test_a_worker_whose_agent_is_stuck_ends_with_1(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start()
    cluster.signal(signal.SIGSTOP, cluster.roles().of("agent"))
    keys = lab.enqueue_many("task", 10)
    lab.wait(lambda: not lab.is_healthy(), "a probe that fails")
    assert cluster.wait_for_exit() == 1, lab.report()
    assert not lab.is_healthy(), lab.report()
    lab.wait_done(keys, lab.start())


@pytest.mark.full
@each_broker(7, own_server=False)
def test_workers_that_do_not_take_their_tasks_are_replaced(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start()
    frozen = cluster.roles().workers
    cluster.signal(signal.SIGSTOP, frozen)
    keys = lab.enqueue_many("task", 10)
    lab.wait_done(keys, cluster)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    assert not set(frozen) & set(cluster.roles().workers), lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(7)
def test_workers_that_are_all_at_long_tasks_with_a_backlog_are_not_taken_for_stuck(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start()
    keys = {"long0", "long1"} | lab.enqueue_many("first", 2)
    lab.enqueue("work", ("long0", 45.0), ("long1", 45.0), timeout=FOR_EVER)
    lab.wait_started("long0", "long1", alive=cluster)
    keys |= lab.enqueue_many("waiting", 10)
    lab.wait_done(keys, cluster)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(7)
def test_one_worker_with_a_long_task_goes_on_beside_another_one(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start()
    lab.enqueue("work", ("long", 45.0), timeout=FOR_EVER)
    lab.wait_started("long", alive=cluster)
    begun = time.monotonic()
    keys = {"long"}
    while time.monotonic() - begun < 40:
        more = lab.enqueue_many(f"round{len(keys)}-", 5)
        lab.wait_done(more, cluster)
        keys |= more
        time.sleep(0.5)
    lab.wait_done(keys, cluster)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(7, without={"sqs", "mongodb"})
def test_eight_workers_that_are_slow_to_begin_are_not_taken_for_stuck(lab: Lab) -> None:
    lab.deadline = 180
    cluster = lab.start(workers=8, variables={"LAB_RECEIVERS": "pre_execute:take_a_while"})
    number = 4000
    lab.enqueue_many("task", number)
    lab.wait_counted(number, cluster)
    assert len(lab.starts()) == number == sum(lab.starts().values()), lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(7, names="limit", values=[(None,), (FOR_EVER,)])
def test_seats_of_workers_that_leave_a_thread_stay_served(lab: Lab, limit: int | None) -> None:
    cluster = lab.start(recycle=1, timeout=5)
    keys = {f"task{index}" for index in range(20)}
    lab.enqueue("leave_a_thread", *((key,) for key in sorted(keys)), **({} if limit is None else {"timeout": limit}))
    lab.wait_done(keys, cluster)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    lab.wait(cluster.is_alone, "the end of all processes that are none of its own", cluster)
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(4, own_server=False)
def test_pools_of_processes_inside_of_tasks_do_not_hang(lab: Lab) -> None:
    cluster = lab.start(daemonize_workers=False)
    keys = {f"task{index}" for index in range(20)}
    lab.enqueue("use_a_pool", *((key,) for key in sorted(keys)))
    lab.wait_done(keys, cluster)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    lab.wait(cluster.is_alone, "the end of all processes that are none of its own", cluster)
    cluster.stop_in_time()
