"""Promise 3: a lock that somebody else holds is said, and waited for."""

import time

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Lab
from tests.faults.test_schedules import SOON


@pytest.mark.full
@each_broker(3, own_server=True, without={"sqs", "mongodb"})
def test_locked_signs_of_life_are_said_and_keep_no_task_waiting(lab: Lab) -> None:
    cluster = lab.start(variables=SOON)
    with lab.locked("worker_cluster"):
        lab.wait_done(lab.enqueue_many("task", 5), cluster)
        lab.wait(lambda: "could give no sign of life: " in cluster.whole_log(), "a line", cluster)
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(3, own_server=False)
def test_a_locked_queue_is_said_and_waited_for(lab: Lab) -> None:
    cluster = lab.start()
    with lab.locked("django_q_ormq"):
        lab.wait(lambda: "due to lock timeout" in cluster.whole_log(), "a line", cluster)
    lab.wait_done(lab.enqueue_many("task", 5), cluster)
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(3, own_server=True, without={"sqs", "mongodb"})
def test_schedules_that_somebody_locks_leave_a_worker_to_tasks(lab: Lab) -> None:
    names = {"one", "two", "three"}
    for name in names:
        lab.schedule(name, -5.0)
    cluster = lab.start(variables=SOON)
    with lab.locked("django_q_schedule", "SHARE"):
        lab.wait(lambda: "(schedule) has to wait: OperationalError" in cluster.whole_log(), "a line", cluster)
        begun = time.monotonic()
        lab.wait_done(lab.enqueue_many("task", 5), cluster)
        assert time.monotonic() - begun < 5, lab.report()
    lab.wait(lambda: names <= lab.starts().keys(), "the tasks of the schedules", cluster)
    assert {lab.starts()[name] for name in names} == {1}, lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(3, without={"sqs", "mongodb"})
def test_a_row_that_somebody_locks_is_saved_later_and_holds_up_no_other(lab: Lab) -> None:
    cluster = lab.start(max_attempts=9)
    lab.enqueue("fail_twice", ("locked",), task_name="locked")
    lab.wait(lambda: [row for row in lab.failed() if row["name"] == "locked"], "the first failure", cluster)
    with lab.locked_row("locked"):
        lab.wait(lambda: "somebody has locked their rows" in cluster.whole_log(), "a line", cluster)
        begun = time.monotonic()
        keys = lab.enqueue_many("task", 40)
        lab.wait(lambda: keys <= lab.succeeded().keys(), "the results of the others", cluster)
        assert time.monotonic() - begun < 8, lab.report()
    lab.wait_done({"locked"}, cluster)
    assert lab.starts()["locked"] == 3, lab.report()
    cluster.stop_in_time()
