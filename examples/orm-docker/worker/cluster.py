"""The cluster: its main process, and the guard that watches over the others.

Upstream, django-q2 1.11.1, SIGTERM to all processes kills tasks and leaves the main process waiting for ever (#346); a
killed guard leaves orphans that go on working, and the main process ends with 0; a worker that stops takes all
prefetched tasks along. Here:

- SIGTERM and SIGINT are the main process's. It sets a flag; the guard ends the others in order.
- Every process dies with its parent, so that nobody is left to work unwatched.
- The main process ends with 0 after an ordered stop, and with 1 otherwise: the platform starts it anew.
- A worker that dies is replaced, and its task counts as a failed attempt. If pusher or monitor die, or nothing moves
  though tasks wait, the cluster gives back what it holds and ends with 1.
"""

import ctypes
import gc
import os
import pydoc
import signal
import sys
import threading
import time
from functools import cache
from multiprocessing.connection import wait
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

from django import db
from django.conf import settings
from django_q import cluster, worker
from django_q.conf import Conf, logger
from django_q.humanhash import humanize
from django_q.scheduler import scheduler
from django_q.signing import SignedPackage
from django_q.status import Stat

from worker.delivery import brief
from worker.health import in_words, silent_servers
from worker.heartbeat import Heartbeat, shared_for
from worker.monitor import monitor
from worker.pipes import CONTEXT, STOP, Board, Flag, Inbox, Results, Tasks, Timer
from worker.pusher import Death, pusher

PR_SET_PDEATHSIG = 1  #: from linux/prctl.h
STUCK_AFTER = 30.0  #: seconds without a sign of life of pusher or monitor, or of idle workers while tasks wait
HAND_BACK = 5.0  #: seconds that pusher and monitor get to give back and to save at a stop


def die_with(parent: int) -> None:
    """End this process as soon as its parent has ended, however that came about."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def leave_to_main(signum: int, frame: FrameType | None) -> None:
    """Do nothing. SIG_IGN would do the same here, but programs that a task starts would inherit it."""


def run_child(parent: int, target: Any, *args: Any) -> None:
    """Run a process of the cluster."""
    die_with(parent)
    signal.signal(signal.SIGTERM, leave_to_main)
    target(*args)


@cache
def found(path: str) -> Any:
    """Return what a task names as its function.

    Raises:
        LookupError: If there is none.
    """
    if (function := pydoc.locate(path)) is None:
        raise LookupError(path)
    return function


def locate(path: str) -> Any:
    """Return what a task names as its function, None if there is none."""
    try:
        return found(path)
    except LookupError:
        return None


def work(*args: Any) -> None:
    """Run django-q2's worker. 1.11.1's goes through the import system for each task, here once for each function."""
    worker.pydoc = SimpleNamespace(locate=locate)
    worker.worker(*args)


class Cluster(cluster.Cluster):  # type: ignore[misc]
    """The main process."""

    running: "Cluster"  #: the one that qcluster has started

    def __init__(self, broker: Any = None) -> None:
        """Take the signals."""
        self.stop_event, self.start_event = Flag(), Flag()
        super().__init__(broker)
        self.stop_event, self.start_event = Flag(), Flag()
        Cluster.running = self

    def start(self) -> int:
        """Start the guard, which starts the others."""
        logger.info("Q Cluster %s starting.", self.name)
        gc.freeze()  # what is here by now is shared by all processes: a look for garbage would copy its pages
        self.sentinel = CONTEXT.Process(
            target=Sentinel, args=(os.getpid(), self.stop_event, self.start_event, self.cluster_id, None, self.timeout)
        )
        self.sentinel.start()
        pid: int = self.pid
        return pid

    def stop(self) -> bool:
        """Tell the guard to stop, which is all that a signal handler may do."""
        self.stop_event.set()
        return True

    @classmethod
    def supervise(cls) -> int:
        """Wait for the guard of the cluster that qcluster has started to end, and return the process's exit code."""
        self = cls.running
        self.sentinel.join()
        if self.sentinel.exitcode == 0:
            logger.info("Q Cluster %s has stopped.", self.name)
            return 0
        logger.critical("Q Cluster %s has died; it ends with 1, to be started anew.", self.name)
        return 1


class State(Stat):  # type: ignore[misc]
    """What `manage.py qinfo` shows. django-q2's own is gone after three seconds, and so saved each second."""

    def save(self) -> None:
        """Show it as long as a sign of life counts."""
        self.broker.set_stat(self.key, SignedPackage.dumps(self, True), shared_for())


class Sentinel(cluster.Sentinel):  # type: ignore[misc]
    """The guard."""

    def __init__(self, parent: int, *args: Any) -> None:
        """Begin, and guard until the main process says stop."""
        die_with(parent)
        signal.signal(signal.SIGTERM, leave_to_main)
        super().__init__(*args, start=False)
        signal.signal(signal.SIGTERM, leave_to_main)
        self.heartbeat = Heartbeat(Conf.CLUSTER_NAME)
        self.task_queue, self.result_queue = Tasks(), Results()
        self.board = Board(self.pool_size)
        self.orders_out, self.orders_in = CONTEXT.Pipe(duplex=False)
        self.news_out, self.news_in = CONTEXT.Pipe(duplex=False)
        self.moved = time.monotonic()
        self.title = humanize(self.cluster_id.hex)
        self.start()

    def spawn_process(self, target: Any, *args: Any) -> Any:
        """Start a process that ends with this one."""
        db.connections.close_all()  # a connection that both sides of a fork use serves neither
        return CONTEXT.Process(target=run_child, args=(os.getpid(), target, *args), daemon=True)

    def spawn_pusher(self) -> Any:
        """Start the pusher, which opens a connection of its own."""
        process = self.spawn_process(
            pusher, self.task_queue, self.result_queue, self.board, self.orders_out, self.news_out
        )
        process.start()
        return process

    def spawn_monitor(self) -> Any:
        """Start the monitor, which opens a connection of its own."""
        process = self.spawn_process(monitor, self.result_queue, self.board, self.news_in)
        process.start()
        return process

    def spawn_worker(self) -> None:
        """Start a worker in a free seat."""
        seat = min(set(range(self.pool_size)) - {process.seat for process in self.pool})
        self.board.vacate(seat)
        timer = Timer()
        inbox = Inbox(self.task_queue, self.board, seat)
        process = self.spawn_process(work, inbox, self.result_queue, timer, self.timeout)
        process.daemon = Conf.DAEMONIZE_WORKERS
        process.timer, process.seat = timer, seat
        self.pool.append(process)
        process.start()

    def guard(self) -> None:
        """Watch over the others until the main process says stop."""
        logger.info("Q Cluster %s [%s] running.", self.title, self.queue_name())
        self.start_event.set()
        schedule = time.monotonic()
        while not self.stop_event.is_set():
            self.replace_the_dead()
            self.look_for_stuck()
            if Conf.SCHEDULER and time.monotonic() > schedule:
                schedule = time.monotonic() + settings.Q_QUIET
                self.look_at_schedules()
            db.close_old_connections()
            if self.heartbeat.beat():
                self.show_state()
            wait([self.stop_event, *(process.sentinel for process in self.pool)], 1.0)
        self.stop()

    def show_state(self) -> None:
        """Save the cluster's state where django-q2's commands look for it; whoever looks may do without."""
        try:
            State(self).save()
        except Exception as error:  # each broker and cache has exceptions of its own
            logger.warning("The state of cluster %s could not be shown: %s", self.title, brief(error))

    def look_at_schedules(self) -> None:
        """Queue what is due; while a server is away it can wait, and django-q2 would log a traceback each time."""
        if silent := silent_servers():
            logger.warning("%s The schedules wait.", in_words(silent))
        else:
            scheduler(broker=self.broker)

    def replace_the_dead(self) -> None:
        """Replace workers that have ended or whose task is out of time, and report what they were running."""
        for process in [process for process in self.pool if process.timer.value == 0 or not process.is_alive()]:
            out_of_time = process.timer.value == 0
            process.join(2 if out_of_time else None)  # one that has noticed itself hands on its result
            if process.is_alive():
                process.kill()
                process.join()
            self.report_death(process, out_of_time)
            self.reincarnate(process)

    def report_death(self, process: Any, out_of_time: bool) -> None:
        """Tell the pusher which task a worker has left behind."""
        ticket = self.board.tickets[process.seat]
        others = [self.board.tickets[other.seat] for other in self.pool if other is not process]
        if out_of_time:
            reason = "Task exceeded maximum timeout value, and its worker was killed"
        elif process.exitcode < 0:
            reason = f"The worker died ({signal.Signals(-process.exitcode).name}) while it ran this task"
        else:
            reason = f"The worker ended with code {process.exitcode} while it ran this task"
        self.orders_in.send(Death(ticket, reason, self.board.taken, frozenset(others)))

    def look_for_stuck(self) -> None:
        """Give up if a process that the rest needs has died or is stuck."""
        now = time.monotonic()
        idle = any(process.timer.value == -1 for process in self.pool)
        if not idle or self.board.sent.value <= self.board.taken:
            self.moved = now
        problems = {
            "the pusher has died": not self.pusher.is_alive(),
            "the monitor has died": not self.monitor.is_alive(),
            "the pusher is stuck": now - self.board.pusher_beat.value > STUCK_AFTER,
            "the monitor is stuck": now - self.board.monitor_beat.value > STUCK_AFTER,
            "tasks wait, but no idle worker takes one": now - self.moved > STUCK_AFTER,
            # Longer than a failed task waits for its next attempt, and than a server may take to count.
            "tasks wait, but the broker hands out none": 0 < self.board.starving.value < now - 3 * Conf.RETRY,
        }
        for problem, found in problems.items():
            if found:
                self.give_up(problem)

    def give_up(self, problem: str) -> NoReturn:
        """Stop in order as far as that is possible, and end with 1."""
        logger.critical("Q Cluster %s cannot go on: %s.", self.title, problem)
        if not self.monitor.is_alive():
            self.monitor: Any = self.spawn_monitor()
        self.stop()
        os._exit(1)

    def stop(self) -> None:
        """Give back what is not begun, let the running tasks end for `Q_GRACE` seconds, and save their results."""
        logger.info("Q Cluster %s stopping.", self.title)
        deadline = time.monotonic() + settings.Q_GRACE
        self.board.draining.set()
        self.orders_in.send(None)  # wakes the pusher
        self.until(lambda: self.board.drained.value or not self.pusher.is_alive(), HAND_BACK)
        if not self.board.drained.value:
            self.give_back()
        self.until(lambda: not any(process.is_alive() for process in self.pool), deadline - time.monotonic())
        for process in self.pool:
            if process.is_alive():
                process.kill()
        self.result_queue.put(STOP)
        self.monitor.join(HAND_BACK)
        self.board.quitting.set()
        self.orders_in.send(None)
        self.pusher.join(HAND_BACK)
        self.heartbeat.stop()

    def give_back(self) -> None:
        """Give back what is not begun, in the place of a pusher that cannot; what it alone knew of has its lease."""
        receipts = [task["ack_id"] for task in self.task_queue.take_back()]
        try:
            self.broker.release(receipts)
        except Exception as error:  # each broker has exceptions of its own
            reason = brief(error)
            logger.error("%s tasks could not be given back (%s); they wait for their leases", len(receipts), reason)

    def until(self, condition: Any, seconds: float) -> None:
        """Wait for a condition, and keep the time limits meanwhile."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            for process in self.pool:
                if process.timer.value == 0 and process.is_alive():
                    process.join(2)
                    process.kill()
            self.heartbeat.beat()
            wait([process.sentinel for process in (*self.pool, self.pusher) if process.is_alive()], 0.05)
