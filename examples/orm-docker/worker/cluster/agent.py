"""The agent: holds the cluster's tasks, from their claim until they are settled.

It handles bytes, strings and numbers: whatever is a user's is opened and run in a worker. Four threads share its
work, and the lock below; none holds that while it waits for a server. What it holds is known to the broker under
leases, so an agent that dies loses nothing.
"""

import heapq
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.signals import connection_created
from django_q.brokers import get_broker
from django_q.conf import Conf

from worker import errors
from worker.cluster.channels import Channel
from worker.cluster.hand_out import HandOut
from worker.cluster.leases import Leases
from worker.cluster.messages import FAIL, RUN, Held, Result, size_of
from worker.cluster.results import Results
from worker.cluster.rows import LOCKED_FOR
from worker.cluster.schedules import Schedules
from worker.cluster.scoreboard import THREADS, Scoreboard
from worker.delivery import Leasing, brief
from worker.packages import set_aside

AGAIN = 5.0  #: seconds until the next try of what could not be done for want of a server, and twice as many each time
LONGEST = 80.0  #: seconds of that
CUT_AFTER = 22.0  #: seconds for which a thread is late when its connections are cut: a frozen server answers nothing

logger = logging.getLogger("django-q")


class Agent:
    """What its threads share."""

    def __init__(self, broker: Leasing, control: Channel, scoreboard: Scoreboard) -> None:
        self.scoreboard, self.broker = scoreboard, broker
        self.lock = threading.RLock()
        self.held: dict[int, Held] = {}
        self.waiting: deque[Held] = deque()  #: tasks that no worker has begun, in their order
        self.waiting_bytes = 0
        self.urgent: deque[Held] = deque()  #: what else a worker is to do; it comes first
        self.later: list[tuple[float, int]] = []  #: when to try again, and what: a heap
        self.returning: list[Held] = []  #: tasks that the broker is to get back
        self.replies: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()  #: of the workers, to be settled
        self.unsaved_bytes = 0  #: of those
        self.begun = 0  #: tasks that a worker was sent, since the start
        self.tickets = 0
        self.databases: dict[str, Sequence[Any]] = {}  #: by what a thread does
        self.draining = False  #: told to stop: nothing begins any more
        self.returned = False  #: what was not begun is given back
        self.wake_up, self.woken = socket.socketpair()
        for end in (self.wake_up, self.woken):
            end.setblocking(False)
        self.hand_out = HandOut(self, control, scoreboard)
        self.results, self.leases, self.schedules = Results(self), Leases(self), Schedules(self)
        self.orders = self.schedules.orders

    def run(self) -> None:
        """Work until told to stop, and all is settled."""
        sys.setswitchinterval(0.001)  # a worker idles while the thread that saves does not let go
        threads = (self.leases.run, self.results.run, self.schedules.run)
        others = (("watches", self.watch), ("gives signs", self.schedules.answer_instead))
        for does, thread in (*zip(THREADS[1:], threads, strict=True), *others):
            threading.Thread(target=self.guarded, args=(does, thread), daemon=True).start()
        self.hand_out.run()
        for settle in (self.results.tallies.write, self.schedules.registration.withdraw):
            try:
                settle()
            except Exception as error:  # the database is away, or the broker
                logger.warning("Cluster %s could not say that it stops: %s", Conf.CLUSTER_NAME, brief(error))

    def guarded(self, does: str, thread: Callable[[], None]) -> None:
        """Run a thread without which the others must not go on."""
        try:
            self.databases[does] = connections.all()  # each thread has its own
            thread()
        except BaseException:
            logger.critical("A thread of the agent has failed.", exc_info=True)
            os._exit(1)

    def watch(self) -> None:
        """Cut the connections on which a thread waits for a database that is frozen: so it is away, and asked anew."""
        looked = since = time.monotonic()
        while True:
            time.sleep(1)
            now = time.monotonic()
            since = now if now - looked > 5.0 else since  # it was this process that was frozen
            looked = now
            for does, seconds in self.scoreboard.late(since):
                for database in self.databases.get(does, ()) if seconds > CUT_AFTER else ():
                    with (
                        suppress(Exception),  # it is a file, or not connected, or just closed
                        socket.fromfd(database.connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as end,
                    ):
                        end.shutdown(socket.SHUT_RDWR)

    @property
    def begins_nothing(self) -> bool:
        """Whether no task is to begin: this cluster stops, or its queue is paused."""
        return self.draining or self.orders.paused

    def hold(self, does: str, **fields: Any) -> Held:
        with self.lock:
            self.tickets += 1
            held = self.held[self.tickets] = Held(self.tickets, does, **fields)
            return held

    def offer(self, held: Held) -> None:
        """Let a worker do what is to be done next with something that is held."""
        with self.lock:
            if held.does == RUN:
                self.line_up(held)
            else:
                self.urgent.append(held)

    def line_up(self, held: Held) -> None:
        """Let a task wait for its turn: what was due comes before all that was only fetched ahead."""
        place = len(self.waiting)
        if place and self.waiting[-1].turn > held.turn:
            place = next(at for at, other in enumerate(self.waiting) if other.turn > held.turn)
        self.waiting.insert(place, held)
        self.waiting_bytes += len(held.payload)

    def try_again(self, held: Held) -> None:
        """Offer something after a while; at a stop others are to do it."""
        with self.lock:
            if self.draining:
                self.forget(held)
            else:
                pause = min(AGAIN * 2**held.tries, LONGEST)
                held.tries += 1
                heapq.heappush(self.later, (time.monotonic() + pause, held.ticket))

    def forget(self, held: Held) -> None:
        """Hold something no more; a task is given back, unless it has ended: its lease runs out, and counts that."""
        with self.lock:
            held.suspect = False
            if held.receipt and (held.does in {RUN, FAIL} or held.next_try):
                self.returning.append(held)
                self.wake()
            else:
                self.held.pop(held.ticket, None)

    def set_aside(self, held: Held, reason: str) -> None:
        """Let a row stand for a task that no worker can open."""
        self.answer(Result(set_aside(held.payload, reason), reason, times=(None, None)).message(held.ticket))

    def answer(self, reply: tuple[Any, ...]) -> None:
        """Let the thread that saves results settle something."""
        with self.lock:
            self.unsaved_bytes += size_of(reply)
        self.replies.put(reply)

    def suspects(self) -> list[Held]:
        """Return the tasks of which one may be what clusters have died of; they are offered one at a time."""
        with self.lock:
            return [held for held in self.held.values() if held.suspect]

    def wake(self) -> None:
        """Wake the thread that keeps leases."""
        try:
            self.wake_up.send(b"1")
        except BlockingIOError:  # it is about to wake
            return


def be_patient(connection: Any, **signal: Any) -> None:
    """Let a lock that somebody else holds be an error like others; a pooler would hand the setting to others."""
    if connection.vendor == "postgresql":
        setting = f"SELECT set_config('lock_timeout', '{LOCKED_FOR:.0f}s', false) WHERE pg_backend_pid() = %s"
        with connection.cursor() as cursor:
            cursor.execute(setting, [connection.connection.info.backend_pid])


def run(control: Channel, scoreboard: Scoreboard) -> None:
    """Run an agent, as a process of the cluster, once its broker can be asked: some ask their server at once."""
    connection_created.connect(be_patient)
    errors.leave()
    while True:
        for thread in range(len(THREADS)):
            scoreboard.expect(thread, 60.0)
        try:
            broker: Leasing = get_broker()
        except ImproperlyConfigured:
            raise
        except Exception as error:  # each broker has exceptions of its own
            logger.error("The broker does not answer (%s); next try in %.0f s", brief(error), AGAIN)
            time.sleep(AGAIN)
        else:
            Agent(broker, control, scoreboard).run()
            return
