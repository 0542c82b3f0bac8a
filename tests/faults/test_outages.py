"""Promise 3: a broker or database that goes away is waited for."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.cells import SAME, each_broker, race
from tests.faults.lab import ADDRESS, Driver, Lab, Link
from tests.processes import Command, free_port, listens, started
from tests.servers import missing

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


@each_broker(3, own_server=True, upstream={"mongodb": SAME, "*": "its pusher logs tracebacks, and dies of it"})
def test_the_broker_goes_away_during_work(lab: Lab) -> None:
    go_through(lab, "broker", SHORT)


@each_broker(3, upstream={**NOT_SAVED, "mongodb": race(LOST)})
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


@each_broker(3, full=True, without={"sqs", "mongodb"})
def test_a_frozen_database_is_one_that_is_away(lab: Lab) -> None:
    cluster = lab.start()
    keys = lab.enqueue_many("task", 40, 0.3)
    lab.wait(lambda: len(lab.ends()) >= 3, "the end of some tasks", cluster)
    lab.links["database"].freeze()
    begun = time.monotonic()
    lab.deadline = 100
    lab.wait(lambda: time.monotonic() - begun > 75, "a minute and a half", cluster)
    lab.links["database"].thaw()
    lab.wait_done(keys, cluster)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    assert "Could not" in cluster.whole_log() or "does not answer" in cluster.whole_log(), lab.report()
    cluster.stop_in_time()


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


@each_broker(3, own_server=True, upstream={"mongodb": SAME, "*": ENDS})
def test_the_broker_is_away_at_the_start(lab: Lab) -> None:
    start_during(lab, "broker", SHORT)


@each_broker(3, full=True)
def test_the_database_is_away_for_a_minute_at_the_start(lab: Lab) -> None:
    start_during(lab, "database", LONG)


@pytest.mark.full
@each_broker(3)
def test_a_database_that_is_read_only_after_a_failover_is_waited_for(lab: Lab) -> None:
    cluster = lab.start()
    keys = lab.enqueue_many("task", 40, 0.3)
    lab.wait(lambda: len(lab.ends()) >= 3, "the end of some tasks", cluster)
    name = lab.direct["DATABASE_URL"].rpartition("/")[2]
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608 (a name of ours)
    lab.base.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    lab.base.sql(cut)
    time.sleep(4)  # connections that are made now stay read-only for as long as they are kept
    lab.base.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    lab.wait_done(keys, cluster)
    assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
    assert lab.succeeded() == dict.fromkeys(keys, 1), lab.report()
    lab.wait_done(lab.enqueue_many("after", 10), cluster)
    assert "Traceback" not in cluster.whole_log(), lab.report()
    cluster.stop_in_time()


POOLER = """\
[databases]
* = host=127.0.0.1 port={target} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = extra_float_digits
"""


@contextmanager
def pooler(lab: Lab) -> Iterator[dict[str, str]]:
    """Start a PgBouncer that pools transactions in front of the database."""
    program = shutil.which("pgbouncer", path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))
    if program is None:
        missing("pgbouncer (apt-get install pgbouncer)")
    url = lab.direct["DATABASE_URL"]
    target, port = ADDRESS.search(url)[1], free_port()  # type: ignore[index]
    settings = lab.folder / "pgbouncer.ini"
    settings.write_text(POOLER.format(target=target, port=port))
    as_user: Command = ["-u", "postgres"] if os.getuid() == 0 else []
    with started("pgbouncer", [program, *as_user, settings], lab.folder, os.environ) as it:
        it.wait_until(lambda: listens(port), "PgBouncer's port")
        yield {"DATABASE_URL": url.replace(f":{target}/", f":{port}/")}


@pytest.mark.full
@each_broker(3)
def test_a_pooler_that_changes_servers_costs_no_task_more_than_the_next_look(lab: Lab) -> None:
    with pooler(lab) as variables:
        clusters = [lab.start(variables=variables), lab.start(variables=variables)]
        for index in range(5):
            queued = time.time()
            lab.enqueue("work", (f"single{index}",))
            lab.wait_started(f"single{index}")
            (begun,) = (float(line[3]) for line in lab.entries() if line[:2] == ["start", f"single{index}"])
            assert begun - queued < 3, f"it began after {begun - queued:.1f} s\n{lab.report()}"
        keys = lab.enqueue_many("task", 100, 0.05) | {f"single{index}" for index in range(5)}
        lab.wait_done(keys, *clusters)
        assert lab.starts() == dict.fromkeys(keys, 1), lab.report()
        if lab.base.combination.broker == "orm":
            for cluster in clusters:
                said = [line for line in cluster.whole_log().splitlines() if "behind a pooler" in line]
                assert len(said) == 1, f"it does not say once that it polls: {said}\n{lab.report()}"
        for cluster in clusters:
            cluster.stop_in_time()


#: What is in the request that adds a task.
REQUESTS = {"orm": "django_q_ormq", "redis": "XADD", "sqs": "SendMessage", "mongodb": "insert"}


@pytest.mark.full
@each_broker(3)
def test_a_task_is_not_queued_twice_when_the_connection_breaks_before_the_answer(lab: Lab) -> None:
    broker = lab.base.combination.broker
    of_broker = lab.base.broker if lab.base.combination.row["environment"] else lab.direct
    port = next(int(found[1]) for value in of_broker.values() if (found := ADDRESS.search(value)))
    link = Link("breaking", port, lab.folder, REQUESTS[broker])
    link.mend()
    variables = {name: ADDRESS.sub(f"127.0.0.1:{link.port}", value) for name, value in of_broker.items()}
    driver = Driver(lab, "driver-that-is-cut-off", variables)
    keys = [f"task{index}" for index in range(20)]
    errors = dict(
        zip(keys, driver.call("enqueue_or_not", func="lab_tasks.work", calls=[[key] for key in keys]), strict=True)
    )
    driver.end()
    link.cut()
    cluster = lab.start()
    lab.wait_done({key for key in keys if not errors[key]}, cluster)
    twice = {key: (count, errors[key]) for key, count in lab.starts().items() if count > 1}
    assert not twice, f"queued more than once: {twice}\n{lab.report()}"
