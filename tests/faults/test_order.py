"""Promise 9: tasks start in the order they came, and several clusters share the work."""

import pytest

from tests.faults.cells import ASTRAY, SAME, each_broker, race
from tests.faults.lab import Lab


@each_broker(
    9,
    without={"sqs"},  # which does not promise it
    upstream={"redis": SAME, "*": race("it does not ask for an order")},
)
def test_tasks_start_in_the_order_they_came(lab: Lab) -> None:
    cluster = lab.start(workers=1)
    keys = [f"task{index}" for index in range(300)]
    lab.enqueue("work", *((key, 0.01) for key in keys))
    lab.wait_done(set(keys), cluster)
    assert lab.events("start") == keys, lab.report()


@each_broker(9, upstream={"sqs": ASTRAY, "*": SAME})
def test_three_clusters_share_the_work_and_run_nothing_twice(lab: Lab) -> None:
    clusters = [lab.start(workers=1, queue_limit=10, bulk=10) for _ in range(3)]
    keys = lab.enqueue_many("task", 300, 0.02)
    lab.wait_done(keys, *clusters)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    workers = {worker for cluster in clusters for worker in cluster.roles().workers}
    assert lab.pids() == workers, "a cluster got no task"


@each_broker(9, upstream={"sqs": ASTRAY, "*": SAME})
def test_short_tasks_do_not_wait_behind_a_long_one_while_a_worker_idles(lab: Lab) -> None:
    cluster = lab.start(workers=2)
    short = [f"short{index}" for index in range(100)]
    lab.enqueue("work", ("long", 4.0), *((key, 0.005) for key in short))
    lab.wait_done({"long", *short}, cluster)
    assert set(lab.events("end")[: len(short)]) == set(short), lab.report()


@pytest.mark.parametrize("database", ["sqlite"])
@each_broker(9, own_server=False, upstream={"*": SAME})
def test_four_workers_write_to_one_sqlite_file(lab: Lab) -> None:
    cluster = lab.start(workers=4)
    keys = [f"task{index}" for index in range(400)]
    lab.enqueue("write_a_row", *((key,) for key in keys))
    lab.wait_done(set(keys), cluster)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    assert "locked" not in cluster.whole_log(), lab.report()
