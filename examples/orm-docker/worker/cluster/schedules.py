"""The thread of the agent that looks for due schedules, and gives the cluster's signs of life.

django-q2 1.11.1 queues all that are due in one transaction, of which the queue is no part: one that cannot be read
holds up all others, or lets them run again and again. Here a worker queues each of them by itself: see `due.py`.
"""

import logging
import os
import time
from typing import TYPE_CHECKING
from uuid import uuid4

from django.db import close_old_connections, connections, router
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule
from django_q.signing import SignedPackage
from django_q.status import Stat, Status

from worker import heartbeat
from worker.cluster.board import SCHEDULES
from worker.cluster.messages import SCHEDULE
from worker.conf import setting
from worker.delivery import brief

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

ANSWER = 60.0  #: seconds in which database and cache answer, or their drivers say that they do not
AT_ONCE = 100  #: schedules that are looked at together

logger = logging.getLogger("django-q")


def due() -> "QuerySet[Schedule]":
    """Return the schedules that this cluster is to queue by now: those without a cluster are the default one's."""
    alias = router.db_for_write(Schedule)
    now = Now() if connections[alias].vendor == "postgresql" else timezone.now()  # a file's clock is this host's
    mine = Q(cluster=Conf.CLUSTER_NAME) | (Q(cluster=None) if Conf.CLUSTER_NAME == Conf.PREFIX else Q(pk__in=()))
    schedules: QuerySet[Schedule] = Schedule.objects.using(alias).exclude(repeats=0).order_by("next_run")
    return schedules.filter(mine, next_run__lte=now)


class Schedules:
    """The agent's thread that looks for them, and gives the cluster's signs of life."""

    def __init__(self, agent: "Agent") -> None:
        """Begin with none known to be due."""
        self.agent = agent
        self.since, self.identity = timezone.now(), uuid4()

    def run(self) -> None:
        """Work for as long as the agent does; whoever looks may do without, while a server is away."""
        quiet: float = setting("Q_QUIET")
        while True:
            self.agent.board.expect(SCHEDULES, quiet + ANSWER)
            found = 0
            for what, action in (("given", self.announce), ("shown", self.show_state)):
                try:
                    close_old_connections()
                    action()
                except Exception as error:  # each cache and broker has exceptions of its own
                    logger.warning(
                        "The sign of life of cluster %s could not be %s: %s", Conf.CLUSTER_NAME, what, brief(error)
                    )
            if Conf.SCHEDULER and not self.agent.draining:
                try:
                    found = self.offer_due()
                except Exception as error:
                    connections.close_all()
                    logger.warning("The schedules wait: %s", brief(error))
            time.sleep(min(1.0, quiet) if found else quiet)

    def offer_due(self) -> int:
        """Let workers queue what is due, and return how many schedules that are."""
        with self.agent.lock:
            known = {held.extra[0] for held in self.agent.held.values() if held.does == SCHEDULE}
        found = list(due().values_list("pk", flat=True)[:AT_ONCE])
        for key in found:
            if key not in known:
                self.agent.offer(self.agent.hold(SCHEDULE, extra=(key, "")))
        self.agent.hand_out.feed()
        return len(found)

    def announce(self) -> None:
        """Give a sign of life to web, unless it is to be withdrawn."""
        if not self.agent.draining:
            heartbeat.announce(Conf.CLUSTER_NAME)

    def withdraw(self) -> None:
        """Withdraw it, when the cluster ends as it should."""
        try:
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
