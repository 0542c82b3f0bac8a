"""Promise 4: a task that spoils its process costs no other one anything."""

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Lab

SPOILERS = [
    "spoil_pickle",
    "write_everywhere",
    "allow_small_files_only",
    "leave_all_files_open",
    "leave_a_loop_running",
    "lose_the_database",
]


@pytest.mark.full
@each_broker(4, without={"sqs", "mongodb"}, names="spoiler", values=[(name,) for name in SPOILERS])
def test_a_task_that_spoils_its_process_costs_no_other_one_anything(lab: Lab, spoiler: str) -> None:
    cluster = lab.start(workers=1)
    lab.enqueue(spoiler, ("spoiler",), ack_failure=True)
    keys = lab.enqueue_many("task", 5)
    sizes = dict.fromkeys(("large0", "large1", "large2"), 200_000)
    lab.call("enqueue_loads", calls=sizes, size=200_000)
    links = {"link0", "link1", "link2"}
    lab.call("chain", links=[["lab_tasks.work", [key]] for key in sorted(links)], options={})
    lab.wait_done(keys | sizes.keys() | links, cluster)
    assert {lab.starts()[key] for key in keys | sizes.keys() | links} == {1}, lab.report()
    assert not [row for row in lab.failed() if row["func"] != f"lab_tasks.{spoiler}"], lab.failed()
    assert not [row for row in lab.rows() if row["func"] == "lab_tasks.work" and row["attempts"] > 1], lab.report()
    cluster.stop_in_time()
