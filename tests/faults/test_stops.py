"""Promise 1: a worker that is told to stop does so in time, whatever is away, frozen, locked or not read."""

import fcntl
import os
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from struct import pack, unpack

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Cluster, Lab

SOON = {"Q_QUIET": "1"}  #: lets a worker look at schedules each second
NOTICED = 3.0  #: seconds after which all that a worker does has met the fault


@contextmanager
def away(lab: Lab, what: str) -> Iterator[None]:
    """Cut a link."""
    with lab.links[what].away(0):
        yield


@contextmanager
def frozen(lab: Lab, what: str) -> Iterator[None]:
    """Freeze a link."""
    lab.links[what].freeze()
    yield
    lab.links[what].thaw()


FAULTS: dict[str, Callable[[Lab], AbstractContextManager[None]]] = {
    "database-away": lambda lab: away(lab, "database"),
    "database-frozen": lambda lab: frozen(lab, "database"),
    "broker-away": lambda lab: away(lab, "broker"),
    "broker-frozen": lambda lab: frozen(lab, "broker"),
    "schedules-locked": lambda lab: lab.locked("django_q_schedule"),
    "results-locked": lambda lab: lab.locked("django_q_task"),
}
IDLE, BUSY = "idle", "busy"


def stop_during(lab: Lab, fault: str, load: str) -> None:
    """Tell a worker to stop in the middle of a fault; another one does what is left."""
    cluster = lab.start(variables=SOON)
    keys: set[str] = set()
    if load == BUSY:
        running = lab.enqueue_many("running", 2, 1.0)
        lab.wait_started(*running, alive=cluster)
        keys = running | lab.enqueue_many("waiting", 20, 0.5)
    with FAULTS[fault](lab):
        time.sleep(NOTICED)
        cluster.stop_in_time()
    keys |= lab.enqueue_many("after", 5)
    lab.wait_done(keys, lab.start())
    assert lab.succeeded() == dict.fromkeys(keys, 1), lab.report()


OF_DATABASE = [(fault, load) for fault in FAULTS if not fault.startswith("broker") for load in (IDLE, BUSY)]


@pytest.mark.full
@each_broker(1, names="fault,load", values=OF_DATABASE)
def test_a_worker_stops_in_time_whatever_is_wrong_with_the_database(lab: Lab, fault: str, load: str) -> None:
    stop_during(lab, fault, load)


OF_BROKER = [(fault, load) for fault in FAULTS if fault.startswith("broker") for load in (IDLE, BUSY)]


@pytest.mark.full
@each_broker(1, own_server=True, names="fault,load", values=OF_BROKER)
def test_a_worker_stops_in_time_whatever_is_wrong_with_the_broker(lab: Lab, fault: str, load: str) -> None:
    stop_during(lab, fault, load)


@pytest.mark.full
@each_broker(1)
def test_a_worker_stops_in_time_while_all_servers_are_frozen(lab: Lab) -> None:
    cluster = lab.start(variables=SOON)
    running = lab.enqueue_many("running", 2, 60.0)
    lab.wait_started(*running, alive=cluster)
    for link in set(lab.links.values()):
        link.freeze()
    time.sleep(NOTICED)
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(1)
def test_a_worker_stops_in_time_though_a_hook_never_returns(lab: Lab) -> None:
    cluster = lab.start()
    lab.enqueue("work", ("task",), task_name="task", hook="lab_tasks.hook_that_never_ends")
    lab.wait(lambda: lab.events("hook"), "the hook", cluster)
    waiting = lab.enqueue_many("waiting", 10)
    cluster.stop_in_time()
    lab.wait_done(waiting | {"task"}, lab.start())
    assert lab.starts() == dict.fromkeys(waiting | {"task"}, 1), lab.report()


@pytest.mark.full
@each_broker(1, names="what", values=[("database",), ("broker",)])
def test_a_worker_that_starts_while_a_server_is_frozen_stops_in_time(lab: Lab, what: str) -> None:
    lab.links[what].freeze()
    cluster = lab.start(wait=False)
    time.sleep(NOTICED)
    assert cluster.ended() is None, lab.report()
    cluster.stop_in_time()


@pytest.mark.full
@each_broker(1, names="what", values=[("database",), ("broker",)])
def test_a_worker_that_waits_for_a_server_stops_in_time(lab: Lab, what: str) -> None:
    lab.links[what].cut()
    cluster = lab.start(wait=False)
    time.sleep(NOTICED)
    assert cluster.ended() is None, lab.report()
    cluster.stop_in_time()


class Pipe:
    """What a worker writes to in the place of files, and nobody reads."""

    def __init__(self, lab: Lab, size: int) -> None:
        """Make one that takes so many bytes."""
        self.lab = lab
        self.path = lab.folder / "stdout"
        os.mkfifo(self.path)
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.size = fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, size)

    @property
    def through(self) -> list[str]:
        """Return the command that starts another one with this pipe."""
        return ["sh", "-c", 'exec "$@" >"$0" 2>&1', str(self.path)]

    def wait_until_full(self, cluster: Cluster) -> None:
        """Wait until no more comes and little is free: whoever writes a line now waits for ever."""
        seen: list[int] = []

        def is_full() -> bool:
            (waiting,) = unpack("i", fcntl.ioctl(self.descriptor, termios.FIONREAD, pack("i", 0)))
            seen.append(waiting)
            return waiting > self.size * 0.8 and seen[-20:] == [waiting] * 20

        self.lab.wait(is_full, lambda: f"a full pipe: {seen[-1]} of {self.size} bytes", cluster)

    def close(self) -> str:
        """Return what was written to it."""
        os.set_blocking(self.descriptor, False)
        try:
            return os.read(self.descriptor, 1 << 20).decode(errors="replace")
        finally:
            os.close(self.descriptor)


@pytest.mark.full
@each_broker(1, names="load", values=[(IDLE,), (BUSY,)])
def test_a_worker_stops_in_time_though_nobody_reads_what_it_prints(lab: Lab, load: str) -> None:
    pipe = Pipe(lab, 1 << 16)
    keys = lab.enqueue_many("task", 1000)  # not while nobody reads: after half a minute it would end by itself, with 1
    cluster = lab.start(through=pipe.through, variables={"LOG_LEVEL": "DEBUG", **SOON})
    pipe.wait_until_full(cluster)
    if load == BUSY:
        keys |= lab.enqueue_many("more", 100)
    cluster.stop_in_time()
    assert pipe.close(), "it has printed nothing"
    lab.deadline = 120
    lab.wait_done(keys, lab.start())


@pytest.mark.full
@each_broker(1)
def test_a_worker_that_starts_and_nobody_reads_what_it_prints_stops_in_time(lab: Lab) -> None:
    pipe = Pipe(lab, 1 << 12)
    waiting = lab.enqueue_many("waiting", 100)
    cluster = lab.start(wait=False, through=pipe.through, variables={"LOG_LEVEL": "DEBUG", **SOON})
    pipe.wait_until_full(cluster)
    cluster.stop_in_time()
    pipe.close()
    lab.wait_done(waiting, lab.start())
