"""The thread of the agent that looks for due schedules, and gives the cluster's signs of life.

django-q2 1.11.1 queues all that are due in one transaction, of which the queue is no part: one that cannot be read
holds up all others, or lets them run again and again. Here a worker queues each of them by itself: see `due.py`.
"""

import logging
import math
import os
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from django.db import close_old_connections, connections, router
from django.db.models import DateTimeField, F, Q, QuerySet, Value
from django.db.models.functions import Now
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule
from django_q.signing import SignedPackage
from django_q.status import Stat, Status

from worker import heartbeat
from worker.announcements import AGAIN, Listener
from worker.cluster.board import SCHEDULES
from worker.cluster.messages import SCHEDULE, worker_id
from worker.conf import setting
from worker.delivery import brief
from worker.retention import Ceiling
from worker.running import Running

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

ANSWER = 60.0  #: seconds in which database and cache answer, or their drivers say that they do not
TICK = 1.0  #: seconds between two looks at what is running, which is on the board
AT_ONCE = 100  #: schedules that are looked at together
SOON, HURRY = 1.0, 0.1  #: seconds until the next look where something is due, and where more is than can be looked at
BUSY = 60.0  #: seconds until results are looked at while there are more and more
MARGIN = 0.002  #: seconds after the time of a schedule, of which a clock may be short

logger = logging.getLogger("django-q")


def coming() -> "QuerySet[Any]":
    """Return the schedules of this cluster, and the time by the clock that they go by, the next one first.

    Those without a cluster are the default one's.
    """
    alias = router.db_for_write(Schedule)
    # A file's clock is this host's.
    now = Now() if connections[alias].vendor == "postgresql" else Value(timezone.now(), DateTimeField())
    mine = Q(cluster=Conf.CLUSTER_NAME) | (Q(cluster=None) if Conf.CLUSTER_NAME == Conf.PREFIX else Q(pk__in=()))
    schedules: QuerySet[Any] = Schedule.objects.using(alias).exclude(repeats=0).annotate(now=now)
    return schedules.filter(mine, next_run__isnull=False).order_by("next_run")


def due() -> "QuerySet[Any]":
    """Return those that are to be queued by now."""
    return coming().filter(next_run__lte=F("now"))


class Schedules:
    """The agent's thread that looks for them, and gives the cluster's signs of life."""

    def __init__(self, agent: "Agent") -> None:
        """Begin with none known to be due."""
        self.agent = agent
        self.saved = 0  #: results, when they were looked at
        self.since, self.identity = timezone.now(), uuid4()
        self.changes, self.ceiling, self.running = Listener(), Ceiling(), Running()

    def run(self) -> None:
        """Work for as long as the agent does; whoever looks may do without, while a server is away."""
        quiet: float = setting("Q_QUIET")
        signs = time.monotonic()  # when the next ones are to be given
        while True:
            self.agent.board.expect(SCHEDULES, quiet + ANSWER)
            if time.monotonic() >= signs:
                signs = time.monotonic() + quiet
                self.give_signs()
            else:
                close_old_connections()
            left = signs - time.monotonic()
            if Conf.SCHEDULER and not self.agent.draining:
                try:
                    self.changes.listen()
                    left = min(left, self.offer_due())
                except Exception as error:
                    connections.close_all()
                    logger.warning("The schedules wait: %s", brief(error))
                    left = min(left, AGAIN)
            self.rest(min(left, self.keep_below_ceiling()))

    def keep_below_ceiling(self) -> float:
        """Delete a batch of results if there are too many, and return in how many seconds to look again."""
        saved, self.saved = self.saved, self.ceiling.saved
        try:
            if self.ceiling.turn():
                return 0.0
        except Exception as error:
            connections.close_all()
            logger.warning("Results could not be counted or deleted: %s", brief(error))
        return math.inf if saved == self.saved else BUSY

    def rest(self, seconds: float) -> None:
        """Wait so many seconds, or until schedules change, and show meanwhile what is running, if something is."""
        end, shows, changed = time.monotonic() + seconds, True, False
        while not changed and (left := end - time.monotonic()) > 0:
            self.agent.board.expect(SCHEDULES, left + ANSWER)
            changed = self.changes.wait(min(TICK, left))
            workers = {number: worker_id(seat.pid) for number, seat in self.agent.hand_out.seats.copy().items()}
            try:
                if shows:
                    self.running.publish(self.agent.board, workers)
            except Exception as error:  # each cache has exceptions of its own
                logger.warning("What is running could not be shown: %s", brief(error))
                shows = False

    def give_signs(self) -> None:
        """Give the signs of life."""
        for what, action in (("given", self.announce), ("shown", self.show_state)):
            try:
                close_old_connections()
                action()
            except Exception as error:  # each cache and broker has exceptions of its own
                logger.warning(
                    "The sign of life of cluster %s could not be %s: %s", Conf.CLUSTER_NAME, what, brief(error)
                )

    def offer_due(self) -> float:
        """Let workers queue what is due, and return in how many seconds to look again, if nothing changes."""
        with self.agent.lock:
            known = {held.extra[0] for held in self.agent.held.values() if held.does == SCHEDULE}
        found = list(coming().values_list("pk", "next_run", "now")[: AT_ONCE + 1])
        ahead = [(next_run - now).total_seconds() for _, next_run, now in found]
        for (key, _, _), seconds in zip(found, ahead, strict=True):
            if seconds <= 0 and key not in known:
                self.agent.offer(self.agent.hold(SCHEDULE, extra=(key, "", True)))
        self.agent.hand_out.feed()
        if ahead and ahead[0] <= 0:  # those that were due have another time once a worker is done with them
            return HURRY if ahead[-1] <= 0 and len(ahead) > AT_ONCE else SOON
        return ahead[0] + MARGIN if ahead else math.inf

    def announce(self) -> None:
        """Give a sign of life to web, unless it is to be withdrawn."""
        if not self.agent.draining:
            heartbeat.announce(Conf.CLUSTER_NAME)

    def withdraw(self) -> None:
        """Withdraw it, when the cluster ends as it should."""
        try:
            self.running.withdraw()
            heartbeat.withdraw(Conf.CLUSTER_NAME)
            self.agent.broker.set_stat(Stat.get_key(self.identity), "", 1)
        except Exception as error:
            logger.warning("The sign of life of cluster %s could not be withdrawn: %s", Conf.CLUSTER_NAME, brief(error))

    def show_state(self) -> None:
        """Save what `manage.py qinfo` shows; django-q2's own is gone after three seconds, and so saved each second."""
        stat = Stat.__new__(Stat)
        Status.__init__(stat, os.getppid(), self.identity)
        stat.broker, stat.tob, stat.status = None, self.since, Conf.IDLE
        stat.sentinel, stat.pusher, stat.monitor = os.getppid(), os.getpid(), os.getpid()
        with self.agent.lock:
            stat.workers, stat.task_q_size = (
                [seat.pid for seat in self.agent.hand_out.seats.values()],
                len(self.agent.waiting),
            )
        self.agent.broker.set_stat(stat.key, SignedPackage.dumps(stat, True), heartbeat.shared_for())
