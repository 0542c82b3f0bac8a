"""What a cluster says of itself: a row that all see, on whatever host, and what django-q2's own commands show.

The row is written when the cluster starts, when somebody asks, when the number of workers or what is shown as running
changes, and otherwise each Q_QUIET seconds.
"""

import os
import time
from socket import gethostname
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django_q.conf import Conf
from django_q.signing import SignedPackage
from django_q.status import Stat, Status

from worker import heartbeat
from worker.cluster.listener import Listener
from worker.cluster.messages import RUN, worker_id
from worker.cluster.scoreboard import LATE_AFTER, RunningAttempt
from worker.conf import setting
from worker.models import Cluster
from worker.packages import table

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

SHOWN_AFTER = 0.75  #: seconds that a task has run: most are never shown


class Registration:
    def __init__(self, agent: "Agent", listener: Listener) -> None:
        self.agent, self.listener = agent, listener
        self.since, self.identity = timezone.now(), uuid4()
        self.shown: tuple[int, set[tuple[str, float]]] = 0, set()  #: the workers and the attempts that the row has
        self.lock, self.withdrawn = Lock(), False
        self.started = False  #: whether the row was written

    @property
    def rows(self) -> Any:
        """Where all clusters have theirs."""
        return Cluster.objects.using(table().db)

    def running(self) -> list[RunningAttempt]:
        """Return the attempts that are to be shown."""
        now = time.monotonic()
        return [each for each in self.agent.scoreboard.attempts() if now - each.since > SHOWN_AFTER]

    def has_changed(self) -> bool:
        """Say whether the row shows other workers or attempts than are there."""
        return self.shown != self.to_show(self.running())

    def to_show(self, running: list[RunningAttempt]) -> tuple[int, set[tuple[str, float]]]:
        return len(self.agent.hand_out.slots), {(each.task, each.since) for each in running}

    def write(self) -> None:
        """Write the row; raises what the database raises."""
        with self.lock:
            if self.withdrawn:
                return
            running = self.running()
            lost = None if self.agent.scoreboard.is_supervised() else Now()  # the supervisor is frozen: nobody watches
            facts = {"seen": Now(), "lost": lost, "state": self.state(running)}
            who = {"name": Conf.CLUSTER_NAME, "host": gethostname()[:255], "pid": os.getppid()}
            if not self.started:  # what was found dead here has a successor
                self.rows.filter(Q(lost__isnull=False) | Q(pid=who["pid"]), name=who["name"], host=who["host"]).delete()
            if not (self.started and self.rows.filter(pk=self.identity).update(**facts)):
                self.rows.create(pk=self.identity, since=self.since, **who, **facts)
            self.started, self.shown = True, self.to_show(running)

    def state(self, running: list[RunningAttempt]) -> dict[str, Any]:
        """Return what the row says, beside whose it is."""
        agent = self.agent
        with agent.lock:
            slots = agent.hand_out.slots
            sent = [agent.held[ticket] for slot in slots.values() for ticket in slot.out[1:]]
            waiting = [*agent.hand_out.unread, *agent.waiting, *agent.suspects(), *sent]
            pids = {number: slot.pid for number, slot in slots.items()}
        ahead = [held for held in waiting if held.does == RUN]
        now, clock = time.monotonic(), time.time()
        return {
            "workers": len(pids),
            "ahead": len(ahead),
            "oldest": min((held.may_begin for held in ahead), default=None),
            "lag": agent.results.lag(),
            "late": {does: round(late, 1) for does, late in agent.scoreboard.late(0.0) if late > LATE_AFTER},
            "running": [
                {
                    "id": each.task,
                    "name": each.name,
                    "func": each.func,
                    "attempt": each.attempt,
                    "since": clock - (now - each.since),
                    "worker": worker_id(pids[each.slot]) if each.slot in pids else "",
                }
                for each in running
            ],
            "hears": self.listener.hears,
            "folder": heartbeat.folder_id(),
        }

    def withdraw(self) -> None:
        """Remove all of it, when the cluster ends as it should; raises what the database and the broker raise."""
        with self.lock:
            self.withdrawn = True
            self.rows.filter(pk=self.identity).delete()
        self.agent.broker.set_stat(Stat.get_key(self.identity), "", 1)

    def show_state(self) -> None:
        """Save what `manage.py qinfo` shows; django-q2's own is gone after three seconds, and so saved each second."""
        stat = Stat.__new__(Stat)
        Status.__init__(stat, os.getppid(), self.identity)
        stat.broker, stat.tob, stat.status = None, self.since, Conf.IDLE
        stat.sentinel, stat.pusher, stat.monitor = os.getppid(), os.getpid(), os.getpid()
        with self.agent.lock:
            stat.workers = [slot.pid for slot in self.agent.hand_out.slots.values()]
            stat.task_q_size = len(self.agent.waiting)
        self.agent.broker.set_stat(stat.key, SignedPackage.dumps(stat, True), 3 * setting("Q_QUIET"))
