"""Promise 2: whichever process is killed, no task and no result is lost, and nobody is left to work unwatched."""

import signal
from functools import partial

from tests.faults.cells import ASTRAY, SAME, each_broker
from tests.faults.lab import UPSTREAM, Cluster, Lab

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
        if lab.kind == UPSTREAM and role in {"pusher", "monitor"}:  # which it replaces: that would do too
            lab.wait(lambda: keys <= lab.succeeded().keys(), "all results", cluster)
            check_all_done(lab, keys, cluster)
            return
        expected = -signal.SIGKILL if role == "main" else 1
        assert cluster.wait_for_exit() == expected, lab.report()
    check_all_done(lab, keys, lab.start())


@each_broker(2, upstream={"redis": "a task between broker and workers is lost", "sqs": ASTRAY, "*": SAME})
def test_a_worker_whose_pusher_is_killed_loses_nothing(lab: Lab) -> None:
    kill_and_start_again(lab, "pusher")


@each_broker(2, upstream={"*": "the next monitor waits for ever for the lock of the dead one (#339)"})
def test_a_worker_whose_monitor_is_killed_loses_nothing(lab: Lab) -> None:
    kill_and_start_again(lab, "monitor")


@each_broker(2, upstream={"*": "the main process ends with 0 and leaves orphans that go on working"})
def test_a_worker_whose_sentinel_is_killed_ends_with_1(lab: Lab) -> None:
    kill_and_start_again(lab, "sentinel")


@each_broker(2, full=True, upstream={"*": "it leaves orphans that go on working"})
def test_a_worker_whose_main_process_is_killed_leaves_nobody(lab: Lab) -> None:
    kill_and_start_again(lab, "main")


@each_broker(2, upstream={"redis": "what was fetched is lost", "sqs": ASTRAY, "*": SAME})
def test_a_worker_of_which_all_processes_are_killed_loses_nothing(lab: Lab) -> None:
    kill_and_start_again(lab, "all")
