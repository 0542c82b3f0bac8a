"""Promise 4: chains and iterations come to their end, and one that is wrong holds up nobody."""

import random
import time
from collections import Counter
from typing import Any

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Cluster, Lab
from tests.faults.test_inputs import LIMITS, check_goes_on

WORK = "lab_tasks.work"
DUMMY = {"LAB_CACHE": "django.core.cache.backends.dummy.DummyCache"}
PARTS = 400  #: more than the 300 that Django's cache in the database keeps

#: What follows a first link that is right.
BROKEN: dict[str, Any] = {
    "no-tuple-of-arguments": [WORK, 5],
    "no-dictionary-of-options": [WORK, ["x"], [1]],
    "no-function": [None, ["x"]],
    "nothing": None,
    "not-there": ["lab_tasks.gone", ["x"]],
}


def links_of(name: str, number: int, *more: Any) -> list[list[Any]]:
    """Return links whose keys tell their places."""
    return [[WORK, [f"{name}-{index}", *more]] for index in range(number)]


@pytest.mark.full
@each_broker(4)
def test_a_chain_with_a_broken_link_fails_there_and_holds_up_nobody(lab: Lab) -> None:
    cluster = lab.start(**LIMITS)
    for name, broken in BROKEN.items():
        lab.call("chain", links=[[WORK, [name]], broken, [WORK, [f"behind-{name}"]]], options={"group": name})
    lab.call("chain", links=links_of("whole", 5), options={})
    keys = {*BROKEN, *(f"whole-{index}" for index in range(5))} | lab.enqueue_many("beside", 10)
    lab.wait_done(keys, cluster)
    lab.wait(lambda: len(lab.failed()) >= len(BROKEN), lambda: f"a failed task for each: {lab.failed()}", cluster)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", cluster)
    check_goes_on(lab, cluster)
    assert all(lab.starts()[key] == 1 for key in keys), lab.report()
    assert {row["group"] for row in lab.failed()} == set(BROKEN), lab.failed()
    not_queued = {"behind-no-tuple-of-arguments", "behind-no-dictionary-of-options"}  # upstream's chains pass failures
    assert not not_queued & lab.starts().keys(), lab.report()
    (failed,) = (row for row in lab.failed() if row["group"] == "no-tuple-of-arguments")
    assert WORK in str(failed), f"it does not name the link: {failed}"
    assert [event for event in lab.events("start") if event.startswith("whole")] == [
        f"whole-{index}" for index in range(5)
    ], lab.report()


@pytest.mark.full
@each_broker(2)
def test_chains_come_to_their_end_while_workers_are_killed(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start(max_attempts=50)
    names = [f"chain{index}" for index in range(4)]
    for name in names:
        lab.call("chain", links=links_of(name, 10, 0.1), options={"group": name})
    cluster.kill_workers(8, random.Random(1), every=0.5)  # noqa: S311
    keys = {f"{name}-{index}" for name in names for index in range(10)}
    lab.wait_done(keys, cluster)
    cluster.stop_in_time()
    assert not lab.failed(), lab.failed()
    found = lab.succeeded()
    assert found.keys() == keys, lab.report()
    for name in names:  # the first end of each link comes after that of the one before
        ends = list(dict.fromkeys(key for key in lab.events("end") if key.startswith(f"{name}-")))
        assert ends == [f"{name}-{index}" for index in range(10)], lab.report()
    if lab.base.combination.broker == "orm":  # where a result and the next link are one transaction
        assert set(found.values()) == {1}, found


@pytest.mark.full
@each_broker(4)
def test_results_for_a_cache_that_keeps_nothing_hold_up_nobody(lab: Lab) -> None:
    cluster = lab.start(**LIMITS, variables=DUMMY)
    lab.call("chain", links=links_of("chain", 3), options={"cached": True})
    lab.enqueue("work", ("alone",), cached=60)
    lab.enqueue("fail", ("failed",), cached=60)
    lab.call("iterate", func=WORK, values=["part0", "part1"], options={})
    lab.wait_started("chain-0", "alone", "failed", "part0", "part1", alive=cluster)
    beside = lab.enqueue_many("beside", 10)
    lab.wait_done(beside, cluster)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", cluster)
    check_goes_on(lab, cluster)
    assert set(lab.starts().values()) == {1}, lab.report()


def iterate(
    lab: Lab, number: int, func: str = "lab_tasks.work_a_moment", prefix: str = "part"
) -> tuple[str, list[str]]:
    """Queue an iteration, and return its id and its values."""
    values = [f"{prefix}{index}" for index in range(number)]
    return lab.call("iterate", func=func, values=values, options={}), values


def check_result(lab: Lab, identity: str, values: list[str], *alive: Cluster) -> None:
    """All parts are in the result, each once, and nothing else is left."""
    lab.wait(lambda: lab.call("result", identity=identity), "the result of the iteration", *alive)
    assert Counter(lab.call("result", identity=identity)) == dict.fromkeys(values, 1), lab.report()
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", *alive)
    assert not lab.failed(), lab.failed()


@pytest.mark.full
@each_broker(4)
def test_an_iteration_of_more_parts_than_the_cache_keeps_has_all_results(lab: Lab) -> None:
    cluster = lab.start()
    identity, values = iterate(lab, PARTS, WORK)
    check_result(lab, identity, values, cluster)
    assert lab.starts() == dict.fromkeys(values, 1), lab.report()
    check_goes_on(lab, cluster)


@pytest.mark.full
@each_broker(4)
def test_an_iteration_over_two_clusters_has_all_results(lab: Lab) -> None:
    clusters = [lab.start(workers=1, queue_limit=2, bulk=1), lab.start(workers=1, queue_limit=2, bulk=1)]
    iterations = [iterate(lab, 10, prefix=f"part{index}-") for index in range(4)]
    for identity, values in iterations:
        check_result(lab, identity, values, *clusters)
    workers = {worker for cluster in clusters for worker in cluster.roles().workers}
    assert lab.pids() == workers, "a cluster got no task"


@pytest.mark.full
@each_broker(3)
def test_an_iteration_survives_an_outage_of_the_database(lab: Lab) -> None:
    lab.deadline = 120
    cluster = lab.start()
    identity, values = iterate(lab, 60)
    lab.wait(lambda: len(lab.ends()) >= 10, "the end of some parts", cluster)
    with lab.links["database"].away(4):
        pass
    check_result(lab, identity, values, cluster)
    assert lab.starts() == dict.fromkeys(values, 1), lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(2)
def test_an_iteration_survives_kills_of_workers_and_of_the_cluster(lab: Lab) -> None:
    lab.deadline = 120
    chance = random.Random(1)  # noqa: S311
    cluster = lab.start(max_attempts=50)
    identity, values = iterate(lab, 200)
    cluster.kill_workers(3, chance, every=0.5)
    cluster.kill()
    again = lab.start(max_attempts=50)
    again.kill_workers(2, chance, every=0.5)
    time.sleep(lab.lease)
    check_result(lab, identity, values, again)
    again.stop_in_time()
