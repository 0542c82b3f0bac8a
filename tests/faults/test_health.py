"""Promise 7: the probe of a worker fails when it is gone, stuck or deaf, and a worker that is stuck ends with 1."""

import signal

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Lab


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
def test_the_probe_fails_when_the_sentinel_is_stuck(lab: Lab) -> None:
    cluster = lab.start()
    cluster.signal(signal.SIGSTOP, cluster.roles().of("sentinel"))
    lab.wait(lambda: not lab.is_healthy(), "a probe that fails", cluster)


@pytest.mark.full
@each_broker(7, own_server=False, names="role", values=[("pusher",), ("monitor",)])
def test_a_worker_whose_pusher_or_monitor_is_stuck_ends_with_1(lab: Lab, role: str) -> None:
    lab.deadline = 120
    cluster = lab.start()
    cluster.signal(signal.SIGSTOP, cluster.roles().of(role))
    keys = lab.enqueue_many("task", 10)
    assert cluster.wait_for_exit() == 1, lab.report()
    assert not lab.is_healthy(), lab.report()
    lab.wait_done(keys, lab.start())


@pytest.mark.full
@each_broker(7, own_server=False)
def test_a_worker_whose_workers_are_stuck_ends_with_1(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start()
    cluster.signal(signal.SIGSTOP, cluster.roles().of("workers"))
    keys = lab.enqueue_many("task", 10)
    assert cluster.wait_for_exit() == 1, lab.report()
    lab.wait_done(keys, lab.start())
