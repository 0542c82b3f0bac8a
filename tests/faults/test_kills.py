"""Promise 2: whichever process is killed, no task and no result is lost, and nobody is left to work unwatched."""

import random
import signal
from functools import partial

import pytest

from tests.faults.cells import ASTRAY, SAME, each_broker
from tests.faults.lab import OURS, Cluster, Lab, Mixture

NOT_COUNTED = {"redis": "the running task is lost", "*": "the attempt is not counted"}


def busy(lab: Lab) -> tuple[Cluster, set[str]]:
    """Start a cluster; two tasks run and ten wait."""
    cluster = lab.start()
    running = lab.enqueue_many("running", 2, 2.0)
    lab.wait_started(*running)
    return cluster, running | lab.enqueue_many("waiting", 10)


def kill(cluster: Cluster, role: str) -> None:
    """Kill all processes of a role."""
    cluster.signal(signal.SIGKILL, cluster.roles().of(role))


def check_all_done(lab: Lab, keys: set[str], *alive: Cluster) -> None:
    """All is done, once as far as the results know, and more than once only where it was interrupted."""
    lab.wait_done(keys, *alive)
    assert lab.succeeded() == dict.fromkeys(keys, 1), lab.report()
    assert all(lab.starts()[key] == 1 for key in keys if key.startswith("waiting")), lab.report()


@each_broker(2, upstream=NOT_COUNTED)
def test_a_worker_killed_at_work_is_replaced_and_its_task_tried_again(lab: Lab) -> None:
    cluster, keys = busy(lab)
    first, second = cluster.roles().workers
    cluster.signal(signal.SIGKILL, [first])
    lab.wait(lambda: len(lab.failed()) == 1, "a failed attempt in the results", cluster)
    assert "died (SIGKILL)" in lab.failed()[0]["result"], lab.failed()
    check_all_done(lab, keys, cluster)
    assert sorted(row["attempts"] for row in lab.rows())[-2:] == [1, 2], lab.rows()
    assert second in cluster.roles().workers


@each_broker(2, full=True, upstream=NOT_COUNTED)
def test_all_workers_killed_at_work_at_once_are_replaced_and_their_tasks_tried_again_once(lab: Lab) -> None:
    cluster, keys = busy(lab)
    kill(cluster, "workers")
    lab.wait(lambda: len(lab.failed()) == 2, "two failed attempts in the results", cluster)
    check_all_done(lab, keys, cluster)
    assert sorted(lab.starts().values())[-3:] == [1, 2, 2], lab.report()
    assert sorted(row["attempts"] for row in lab.rows())[-3:] == [1, 2, 2], lab.rows()


@each_broker(2, upstream={"*": "a killed idle worker takes the queue's lock with it (#23)"})
def test_idle_workers_that_are_killed_are_replaced(lab: Lab) -> None:
    cluster = lab.start()
    for worker in cluster.roles().workers:
        cluster.signal(signal.SIGKILL, [worker])
        lab.wait(partial(cluster.has_replaced, worker), "another worker", cluster)
    check_all_done(lab, lab.enqueue_many("waiting", 10), cluster)
    cluster.signal(signal.SIGTERM)
    assert cluster.wait_for_exit() == 0, lab.report()


def kill_and_start_again(lab: Lab, role: str) -> None:
    """Kill a process; the cluster mends itself, or ends with 1 and leaves nothing; another one does the rest."""
    cluster, keys = busy(lab)
    if role == "all":
        cluster.signal(signal.SIGKILL)
        cluster.wait_for_exit()
    else:
        kill(cluster, role)
        if role == "monitor":  # which upstream's worker replaces: that would do too
            lab.wait(lambda: keys <= lab.succeeded().keys(), "all results", cluster)
            check_all_done(lab, keys, cluster)
            return
        expected = -signal.SIGKILL if role == "main" else 1
        assert cluster.wait_for_exit() == expected, lab.report()
    check_all_done(lab, keys, lab.start())


@each_broker(2, upstream={"*": "the next monitor waits for ever for the lock of the dead one (#339)"})
def test_a_worker_whose_agent_is_killed_ends_with_1_and_loses_nothing(lab: Lab) -> None:
    kill_and_start_again(lab, "agent" if lab.kind == OURS else "monitor")


@each_broker(2, upstream={"*": "a killed sentinel or main process leaves orphans that go on working"})
def test_a_worker_whose_main_process_is_killed_leaves_nobody(lab: Lab) -> None:
    kill_and_start_again(lab, "main" if lab.kind == OURS else "sentinel")


@each_broker(2, upstream={"redis": "what was fetched is lost", "sqs": ASTRAY, "*": SAME})
def test_a_worker_of_which_all_processes_are_killed_loses_nothing(lab: Lab) -> None:
    kill_and_start_again(lab, "all")


def kill_workers_again_and_again(lab: Lab, number: int, seconds: float) -> Cluster:
    """Kill a worker each fifth of a second while others of so many tasks are done."""
    lab.deadline = 120
    cluster = lab.start(max_attempts=1000, variables={"Q_QUIET": "1"})
    calls = [(f"task{index}", 0.005) for index in range(number)]
    lab.call("enqueue_at_once", func="lab_tasks.work", calls=calls, options={})
    kills = cluster.kill_workers(seconds, random.Random(1))  # noqa: S311
    assert kills > seconds, f"{kills} workers were killed\n{lab.report()}"
    lab.wait(lambda: len(lab.ends()) >= number, lambda: f"the end of all: there are {len(lab.ends())}", cluster)
    lab.wait_counted(number, cluster)
    return cluster


@each_broker(2)
def test_workers_that_are_killed_again_and_again_under_short_tasks_hang_nobody(lab: Lab) -> None:
    number = 600
    cluster = kill_workers_again_and_again(lab, number, 10)
    assert lab.call("counts") == {"succeeded": number, "failed": 0}, lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(2)
def test_workers_that_are_killed_for_a_minute_under_work_of_all_kinds_hang_nobody(lab: Lab) -> None:
    mixed = Mixture(lab, 40)
    number = {"sqs": 2000, "mongodb": 2000}.get(lab.base.combination.broker, 8000)
    cluster = kill_workers_again_and_again(lab, number, 60)
    mixed.check(cluster)
    assert not mixed.failed(), mixed.failed()
    cluster.stop_in_time()
