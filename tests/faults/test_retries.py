"""Promises 2 and 6 for tasks that fail: none is lost, none has more attempts than it may, none comes early."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Lab
from tests.faults.test_chaos import Supervisor

LATE = 8.0  #: seconds; more than two leases


def enqueue(lab: Lab, func: str, calls: list[tuple[object, ...]], **policy: object) -> list[str]:
    """Queue tasks with a policy."""
    ids: list[str] = lab.call("enqueue_with_policy", func=f"lab_tasks.{func}", calls=calls, **policy)
    return ids


def times(lab: Lab, key: str, *events: str) -> list[tuple[str, float]]:
    """Return when something has happened to a task, in the order of time."""
    found = [(line[0], float(line[3])) for line in lab.entries() if line[0] in events and line[1] == key]
    return sorted(found, key=lambda event: event[1])


def check_none_came_early(lab: Lab, keys: set[str], seconds: float) -> None:
    """Between the failure of an attempt and the next start is its delay at least."""
    for key in keys:
        for (event, before), (_, after) in pairwise(times(lab, key, "start", "failed")):
            assert event != "failed" or after - before > seconds - 0.01, f"{key}: {after - before}\n{lab.report()}"


@contextmanager
def without_broker(lab: Lab) -> Iterator[None]:
    """Let nobody tell the broker anything; results can be saved."""
    if lab.links["broker"] is lab.links.get("database"):
        with lab.locked("django_q_ormq"):
            yield
            lab.call("end_waiting")
        return
    lab.links["broker"].cut()
    yield
    lab.links["broker"].mend()


@pytest.mark.full
@each_broker(6)
def test_a_task_whose_cluster_dies_before_the_broker_knows_is_not_tried_early(lab: Lab) -> None:
    cluster = lab.start()
    sign = lab.folder / "sign"
    (identity,) = enqueue(lab, "fail_first", [("key", 1, 0, str(sign))], max_attempts=2, seconds=LATE)
    lab.wait_started("key", alive=cluster)
    with without_broker(lab):
        sign.touch()
        lab.wait(lambda: identity in lab.call("waiting"), "a failed attempt", cluster)
        cluster.kill()
    again = lab.start()
    lab.wait_done({"key"}, again)
    check_none_came_early(lab, {"key"}, LATE)
    assert lab.starts()["key"] == 2, lab.report()
    assert [row["attempts"] for row in lab.rows()] == [2], lab.rows()
    assert not lab.call("waiting")
    again.stop_in_time()


@pytest.mark.full
@each_broker(4)
def test_a_failed_task_keeps_its_time_through_a_stop(lab: Lab) -> None:
    cluster = lab.start()
    enqueue(lab, "fail_first", [("key", 1, 1.0)], max_attempts=2, seconds=LATE)
    lab.wait_started("key", alive=cluster)
    cluster.stop_in_time()
    assert lab.events("failed") == ["key"], lab.report()
    again = lab.start()
    lab.wait_done({"key"}, again)
    check_none_came_early(lab, {"key"}, LATE)
    assert lab.starts()["key"] == 2, lab.report()


@pytest.mark.full
@each_broker(4)
def test_a_backoff_that_kills_who_asks_costs_one_attempt_and_the_task_waits_as_by_default(lab: Lab) -> None:
    cluster = lab.start()
    enqueue(lab, "fail_first", [("key", 9)], max_attempts=2, backoff="lab_tasks.kill_who_asks")
    beside = lab.enqueue_many("beside", 10)
    lab.wait(lambda: len(lab.failed()) == 1 and not lab.call("waiting"), "a failed task", cluster)
    lab.wait_done(beside, cluster)
    assert lab.starts()["key"] == 2, lab.report()
    assert "A worker died while it asked the backoff of" in cluster.whole_log()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(2)
def test_a_thousand_tasks_that_fail_at_once_have_their_attempts(lab: Lab) -> None:
    lab.deadline = 240
    keys = {f"key{index}" for index in range(1000)}
    enqueue(lab, "fail_first", [(key, 1) for key in sorted(keys)], max_attempts=2, seconds=1.0)
    cluster = lab.start()
    lab.wait_counted(len(keys), cluster)
    assert not lab.failed(), lab.failed()[:3]
    assert lab.starts() == dict.fromkeys(keys, 2), lab.report()
    check_none_came_early(lab, keys, 1.0)
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(2)
def test_tasks_that_fail_survive_chaos(lab: Lab) -> None:
    most, fails, number, seconds = 6, 2, 60, 2.0
    chance = random.Random(1)  # noqa: S311 (chaos that can be repeated)
    keys = {f"key{index}" for index in range(number)}
    enqueue(lab, "fail_first", [(key, fails, 0.05) for key in sorted(keys)], max_attempts=most, seconds=seconds)
    supervisor = Supervisor(lab)
    kills, end = 0, time.monotonic() + 12
    while time.monotonic() < end:
        supervisor.look()
        kills += supervisor.kill_one(chance)
        time.sleep(1)
    lab.deadline = 120

    def all_over() -> bool:
        supervisor.look()
        return len(lab.rows()) == number and not lab.call("waiting") and lab.call("queued") == 0

    lab.wait(all_over, "the outcome of all tasks")
    starts = lab.starts()
    assert all(fails < starts[key] <= most + kills for key in keys), lab.report()
    check_none_came_early(lab, keys, seconds)
    assert all(row["attempts"] == most for row in lab.failed()), lab.failed()
    lab.wait(supervisor.is_whole, "a worker that is whole")
    supervisor.cluster.signal(signal.SIGTERM)
    assert supervisor.cluster.wait_for_exit() == 0, lab.report()
