"""The supervisor: the main process, which starts the others, watches them, and owns the signals and the exit code.

It does nothing else: no database, no broker, no cache and no user's code is behind any of its waits, which all end.
So a stop always ends in time, and what is stuck is always seen.

Upstream, django-q2 1.11.1, SIGTERM to all processes leaves the main process waiting for ever (#346), and a killed
guard leaves orphans that go on working, while the main process ends with 0.
"""

import ctypes
import gc
import logging
import os
import select
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from django.db import connections
from django_q.conf import Conf

from worker import health
from worker.cluster import agent, process
from worker.cluster.channels import Channel, pair
from worker.cluster.forks import fork, how_ended, let_no_line_raise, say
from worker.cluster.hand_out import CANCELLED, CUT_OFF, MOVED_ON, OUT_OF_TIME
from worker.cluster.scoreboard import IDLE, LATE_AFTER, SCHEDULES, THREADS, Scoreboard, WorkerState
from worker.conf import setting
from worker.heartbeat import Heartbeat

STUCK_AFTER = 30.0  #: seconds without a move that was promised, after which the cluster ends, or a worker is replaced
UNFIT = 10  #: workers in a row that end without a task, after which probes are told
#: seconds beyond Q_GRACE that the agent gets to save and to give back: platforms grant five, and a look is late by one
HAND_BACK = 4.0
LOOK_EVERY = 1.0  #: seconds
#: signals that would end a process, and that ask nothing of this one; some systems lack some of them
MEANINGLESS = ("SIGALRM", "SIGIO", "SIGPROF", "SIGPWR", "SIGUSR1", "SIGUSR2", "SIGVTALRM")
NOT_TAKEN = "The worker did not take its task, and was killed"


@dataclass
class Worker:
    pid: int
    slot: int
    state: WorkerState
    started: float
    waits_since: float = 0.0  #: since when it is idle though a message waits for it, 0 if it is not
    reason: str = ""  #: why it was killed, if this process did


class Supervisor:
    def __init__(self) -> None:
        self.slots: int = Conf.WORKERS
        self.scoreboard = Scoreboard(self.slots)
        self.heartbeat = Heartbeat(Conf.CLUSTER_NAME)
        self.name = Conf.CLUSTER_NAME
        self.agent = 0  #: its pid, 0 once it has ended
        self.workers: dict[int, Worker] = {}  #: by pid
        self.notices: deque[tuple[tuple[Any, ...], list[Channel]]] = deque()  #: what the agent has not taken yet
        self.told = False  #: to stop
        self.hurried = False  #: to stop at once
        self.deadline = 0.0  #: of a stop, for running tasks
        self.code = 0
        self.looked = self.resumed = time.monotonic()  #: the last look, and since when looks follow each other
        self.problem = ""  #: why the heartbeat's file could not be written, as it was last said
        self.unfit: list[float] = []  #: when workers ended that had taken nothing, since one was well

    def run(self) -> NoReturn:
        """Run the cluster until it is told to stop, or cannot go on; end this process with 0 or 1."""
        let_no_line_raise()
        logging.raiseExceptions = False  # a log that nobody reads any more would answer each line with a traceback
        try:
            self.take_signals()
            connections.close_all()  # a connection that both sides of a fork use serves neither
            if self.wait_for_servers():
                self.start()
                while self.look():
                    self.wait(LOOK_EVERY)
        except BaseException:
            self.code = 1
            say(logging.CRITICAL, "Q Cluster %s cannot go on.", self.name, exc_info=True)
        for pid in [*self.workers, *([self.agent] if self.agent else [])]:
            os.kill(pid, signal.SIGKILL)
        self.heartbeat.stop()
        if self.code:
            say(logging.CRITICAL, "Q Cluster %s has died; it ends with 1, to be started anew.", self.name)
        elif self.agent or self.workers:
            say(logging.ERROR, "Q Cluster %s was cut off; what it held waits for its leases.", self.name)
        else:
            say(logging.INFO, "Q Cluster %s has stopped.", self.name)
        os._exit(self.code)

    def take_signals(self) -> None:
        """Let signals wake this process, and do nothing else: a second one changes nothing."""
        self.woken, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if sys.platform == "linux" else os.pipe()
        os.set_blocking(writer, False)
        os.set_blocking(self.woken, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # which nohup wants
                signal.signal(number, self.take_stop)
        # SIGCHLD would wake nobody without a handler. The others get one in the place of SIG_IGN, which programs that
        # a task starts would inherit; whoever has one of his own keeps it.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (getattr(signal, name) for name in MEANINGLESS if hasattr(signal, name)):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, lambda *_: None)

    def take_stop(self, number: int, frame: FrameType | None) -> None:
        """Remember that this process was told to stop; by SIGQUIT, to leave no time to running tasks."""
        self.told = True
        self.hurried = self.hurried or number == signal.SIGQUIT

    def wait(self, seconds: float) -> None:
        """Wait for a signal, the agent to take a notice, or so many seconds."""
        poll = select.poll()
        poll.register(self.woken, select.POLLIN)
        poll.poll(seconds * 1000)
        while True:
            try:
                os.read(self.woken, 512)
            except BlockingIOError:
                return

    # Starting

    def wait_for_servers(self) -> bool:
        """Wait, by a process of its own, until database and broker answer; say whether to go on."""
        pid = fork(health.wait_for_servers)
        while not self.told:
            self.wait(LOOK_EVERY)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.code = min(1, abs(os.waitstatus_to_exitcode(status)))
                if self.code:  # it has said why
                    self.heartbeat.stop()
                    os._exit(self.code)
                return True
        os.kill(pid, signal.SIGKILL)
        return False

    def start(self) -> None:
        say(logging.INFO, "Q Cluster %s starting.", self.name)
        gc.collect()
        with suppress(AttributeError):  # which glibc has: what imports have left free goes back to the system
            ctypes.CDLL(None).malloc_trim(0)
        gc.freeze()  # what is here by now is shared by all processes: a look for garbage would copy its pages
        self.control, theirs = pair()
        self.agent = fork(partial(agent.run, theirs, self.scoreboard), self.control)
        theirs.close()
        self.fill_slots()
        say(logging.INFO, "Q Cluster %s [%s] running.", self.name, self.name)

    def fill_slots(self) -> None:
        """Start a worker for each slot without one; those that end at once are replaced once a second."""
        for slot in set(range(self.slots)) - {worker.slot for worker in self.workers.values()}:
            state: WorkerState = self.scoreboard.workers[slot]
            state.reset()
            others = [channel for _, channels in self.notices for channel in channels]
            try:
                ours, theirs = pair()
                pid = fork(partial(process.run, slot, theirs, self.scoreboard), self.control, ours, *others)
            except OSError as error:
                say(logging.ERROR, "No worker can be started (%s); next try in %.0f s", error, LOOK_EVERY)
                return
            self.workers[pid] = Worker(pid, slot, state, time.monotonic())
            # The agent gets the worker's end as well: it can take back what the worker has not taken.
            self.notices.append((("slot", slot, pid), [ours, theirs]))
            self.hand_notices()

    def hand_notices(self) -> None:
        """Hand the agent what it has room for; one that is stuck must not make this process wait."""
        try:
            while self.notices:
                notice, channels = self.notices[0]
                if not self.control.send(notice, [channel.fileno() for channel in channels], wait=False):
                    return
                self.notices.popleft()
                for channel in channels:
                    channel.close()
        except OSError:  # it has ended, which reap() is about to see
            return

    # Watching

    def look(self) -> bool:
        """Look at all processes, and do what follows; say whether to go on."""
        self.scoreboard.supervise()
        now = time.monotonic()
        if now - self.looked > 5 * LOOK_EVERY:  # all were frozen, not only the others
            self.resumed = now
        self.looked = now
        young = {worker.slot for worker in self.workers.values() if now - worker.started < 1.0}
        gone = self.reap()
        if not self.agent:
            return self.ended()
        if self.told and not self.deadline:
            self.stop(0)
        if self.hurried:
            self.deadline = min(self.deadline, now)
        late = dict(self.scoreboard.late(self.resumed))
        self.kill_late_workers(now)
        if self.deadline:
            if now > self.deadline + HAND_BACK:
                return False
        elif stuck := [it for it, seconds in late.items() if seconds > STUCK_AFTER and it != THREADS[SCHEDULES]]:
            say(logging.CRITICAL, "Q Cluster %s cannot go on: nothing %s any more.", self.name, stuck[0])
            self.stop(1)
        elif not young & gone:
            self.fill_slots()
        self.hand_notices()
        if any(now - each.started > LATE_AFTER or each.state.taken for each in self.workers.values()):
            self.unfit.clear()
        if len(self.unfit) >= UNFIT:
            late["starts workers"] = now - self.unfit[0] + LATE_AFTER
        told = {does: round(seconds, 1) for does, seconds in late.items() if seconds > LATE_AFTER}
        problem = self.heartbeat.beat(self.agent, list(self.workers), told)
        if problem != self.problem:
            self.problem = problem
            if problem:
                say(logging.WARNING, "Cluster %s has nowhere to leave a sign of life: %s", self.name, problem)
        return True

    def reap(self) -> set[int]:
        """Take note of processes that have ended, also of those that tasks have left; return slots of unfit ones."""
        gone: set[int] = set()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return gone
            if not pid:
                return gone
            code = os.waitstatus_to_exitcode(status)
            if pid == self.agent:
                self.agent = 0
                if code or not self.deadline:
                    self.code = 1
                    say(logging.CRITICAL, "Q Cluster %s cannot go on: its agent has ended (%s).", self.name, code)
            elif worker := self.workers.pop(pid, None):
                if worker.reason == CANCELLED and not worker.state.is_ended:
                    worker.reason = MOVED_ON
                how = how_ended(code)
                keys = worker.state.keys
                if code or worker.reason:
                    say(logging.WARNING, "Worker-%s at %s %s. %s", worker.slot + 1, pid, how, worker.reason, extra=keys)
                if code or not worker.state.taken:
                    gone.add(worker.slot)
                if not self.deadline and not worker.state.taken:
                    self.unfit.append(time.monotonic())
                reason = worker.reason or f"The worker {how} while it ran this task"
                # With what the scoreboard says of it, before another worker writes there.
                state = worker.state
                self.notices.append((("gone", worker.slot, reason, state.name, state.in_user_code, keys), []))

    def kill_late_workers(self, now: float) -> None:
        """Kill workers whose task is out of time, that do not take theirs, or that a stop has left no more time."""
        for worker in self.workers.values():
            worker.waits_since = max(worker.waits_since or now, self.resumed) if worker.state.waits else 0.0
            if IDLE < worker.state.limit < now:
                self.kill(worker, OUT_OF_TIME)
            elif worker.waits_since and now - worker.waits_since > STUCK_AFTER:
                self.kill(worker, NOT_TAKEN)
            elif self.deadline and now >= self.deadline:
                self.kill(worker, CUT_OFF)
            elif worker.state.is_ended:
                self.kill(worker, CANCELLED)

    def kill(self, worker: Worker, reason: str) -> None:
        worker.reason = worker.reason or reason
        os.kill(worker.pid, signal.SIGKILL)

    # Stopping

    def stop(self, code: int) -> None:
        """Let the agent give back what is not begun, and running tasks end, for Q_GRACE seconds."""
        say(logging.INFO, "Q Cluster %s stopping.", self.name)
        self.code = self.code or code
        self.deadline = time.monotonic() + setting("Q_GRACE")
        self.notices.append((("stop",), []))

    def ended(self) -> bool:
        """Wait for workers that the agent has told to leave, for a moment; return False."""
        end = time.monotonic() + (1.0 if self.deadline else 0.0)
        while self.workers and time.monotonic() < end:
            self.wait(0.1)
            self.reap()
        return False
