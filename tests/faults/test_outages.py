"""Promise 3: a broker or database that goes away is waited for."""

import time

from tests.faults.cells import each_broker
from tests.faults.lab import Lab

SHORT, LONG = 3.0, 60.0  #: seconds


def go_through(lab: Lab, what: str, seconds: float) -> None:
    """Cut a link while tasks run and wait."""
    cluster = lab.start()
    keys = lab.enqueue_many("task", 20, 0.3)
    lab.wait(lambda: len(lab.ends()) >= 3, "the end of some tasks", cluster)
    with lab.links[what].away(seconds):
        pass
    lab.deadline += seconds
    lab.wait_done(keys, cluster)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    assert lab.succeeded() == dict.fromkeys(keys, 1), lab.report()
    if seconds == LONG:  # some clients wait a few seconds by themselves
        assert "next try in" in cluster.whole_log(), lab.report()
    assert "Traceback" not in cluster.whole_log(), lab.report()
    assert cluster.stop() == 0, lab.report()


TWICE = "finished tasks run again"
LOST = "results are lost"
NOT_SAVED = {"orm": TWICE, "*": LOST}
ENDS = "it ends with a traceback"


@each_broker(3, upstream=NOT_SAVED)
def test_the_database_goes_away_during_work(lab: Lab) -> None:
    go_through(lab, "database", SHORT)


@each_broker(3, own_server=True, upstream={"*": "its pusher logs tracebacks, and dies of it"})
def test_the_broker_goes_away_during_work(lab: Lab) -> None:
    go_through(lab, "broker", SHORT)


@each_broker(3, upstream=NOT_SAVED)
def test_a_cluster_that_comes_back_first_does_not_take_what_another_has_done(lab: Lab) -> None:
    lab.lease = 3
    busy = lab.start()
    keys = lab.enqueue_many("task", 2, 1.0)
    lab.wait_started(*keys)
    idle = lab.start()
    lab.cut_all()
    time.sleep(4 * lab.lease)
    lab.mend_all()
    lab.wait_done(keys, busy, idle)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    assert idle.whole_log().count("answers again") <= 1, lab.report()


@each_broker(3, full=True)
def test_the_database_goes_away_for_a_minute(lab: Lab) -> None:
    go_through(lab, "database", LONG)


@each_broker(3, full=True, own_server=True)
def test_the_broker_goes_away_for_a_minute(lab: Lab) -> None:
    go_through(lab, "broker", LONG)


def start_during(lab: Lab, what: str, seconds: float) -> None:
    """Start a worker while a link is cut."""
    keys = lab.enqueue_many("task", 5)
    with lab.links[what].away(seconds):
        cluster = lab.start(wait=False)
    lab.deadline += seconds
    lab.wait_done(keys, cluster)
    assert "Traceback" not in cluster.whole_log(), lab.report()
    assert cluster.stop() == 0, lab.report()


@each_broker(3, upstream={"orm": ENDS, "*": "it starts all the same, and loses results"})
def test_the_database_is_away_at_the_start(lab: Lab) -> None:
    start_during(lab, "database", SHORT)


@each_broker(3, own_server=True, upstream={"*": ENDS})
def test_the_broker_is_away_at_the_start(lab: Lab) -> None:
    start_during(lab, "broker", SHORT)


@each_broker(3, full=True)
def test_the_database_is_away_for_a_minute_at_the_start(lab: Lab) -> None:
    start_during(lab, "database", LONG)
