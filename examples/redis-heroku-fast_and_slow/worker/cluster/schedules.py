"""The thread of the agent that looks for due schedules, and gives the cluster's signs of life, and reads orders.

django-q2 1.11.1 queues all that are due in one transaction, of which the queue is no part: one that cannot be read
holds up all others, or lets them run again and again. Here a worker queues each of them by itself: see `due.py`.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import close_old_connections, connections, router
from django.db.models import DateTimeField, F, Q, QuerySet, Value
from django.db.models.functions import Greatest, Least, Now
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule

from worker import announcements
from worker.announcements import ORDERS, SIGNS
from worker.cluster.listener import AGAIN, Listener
from worker.cluster.messages import SCHEDULE
from worker.cluster.orders import Orders
from worker.cluster.registration import Registration
from worker.cluster.scoreboard import SCHEDULES
from worker.conf import setting
from worker.delivery import brief
from worker.retention import Ceiling

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

ANSWER = 60.0  #: seconds in which database and cache answer, or their drivers say that they do not
TICK = 1.0  #: seconds between two looks at what is running, which is on the scoreboard
AT_ONCE = 100  #: schedules that are looked at together
SOON, HURRY = 1.0, 0.1  #: seconds until the next look where something is due, and where more is than can be looked at
BUSY = 60.0  #: seconds until results are looked at while there are more and more
STUCK = 1.5  #: seconds without a tick after which another thread gives the signs: whoever looks waits for three
DAY = timedelta(days=1)
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
    """The agent's thread that looks for them, gives the cluster's signs of life, and reads orders."""

    def __init__(self, agent: "Agent") -> None:
        self.agent = agent
        self.saved = 0  #: results, when they were looked at
        self.listener, self.ceiling = Listener(), Ceiling()
        self.registration, self.orders = Registration(agent, self.listener), Orders(agent, self.listener)
        self.wait_until = 0.0  #: the next try of what has failed
        self.ticked = time.monotonic()  #: when it has last looked whether somebody wants a sign

    def run(self) -> None:
        """Work for as long as the agent does; whoever looks may do without, while a server is away."""
        quiet: float = setting("Q_QUIET")
        signs = time.monotonic()  # when the next ones are to be given
        while True:
            self.agent.scoreboard.expect(SCHEDULES, quiet + ANSWER)
            close_old_connections()
            left = self.attempt("Nothing is announced to cluster %s", self.listen)
            if time.monotonic() >= signs:
                signs, self.wait_until = time.monotonic() + quiet, 0.0
                self.look({ORDERS, SIGNS})
                self.attempt("The state of cluster %s could not be shown", self.registration.show_state)
            if Conf.SCHEDULER and not self.agent.draining:
                try:
                    left = min(left, self.offer_due())
                except Exception as error:
                    connections.close_all()
                    logger.warning("The schedules wait: %s", brief(error))
                    left = min(left, AGAIN)
            self.rest(min(left, signs - time.monotonic(), self.keep_below_ceiling()))

    def listen(self) -> None:
        """Hear of orders; of those of which nothing was heard, too."""
        if self.listener.listen():
            self.look({ORDERS})

    def attempt(self, problem: str, action: Callable[[], None]) -> float:
        """Do something, or say why it cannot be done; return in how many seconds to look again."""
        try:
            action()
        except Exception as error:  # each driver, cache and broker has exceptions of its own
            connections.close_all()
            logger.warning(f"{problem}: %s", Conf.CLUSTER_NAME, brief(error))
            return AGAIN
        return math.inf

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
        """Wait so many seconds, or until schedules change; see to orders and signs meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.agent.scoreboard.expect(SCHEDULES, left + ANSWER)
            self.ticked = time.monotonic()
            news = self.listener.wait(min(TICK, left))
            self.look(news)
            if announcements.SCHEDULES in news:
                return

    def answer_instead(self) -> None:
        """Work for as long as the agent does: give signs of life while the other thread waits for a lock, say."""
        while True:
            time.sleep(TICK)
            self.answer_if_stuck()

    def answer_if_stuck(self) -> None:
        """Give one, if the other thread may not have heard that somebody wants it."""
        if time.monotonic() - self.ticked > STUCK:
            with suppress(Exception):  # the database is away: of that the other thread tells
                self.registration.write()
            connections.close_all()

    def look(self, news: set[str]) -> None:
        """Read orders, carry them out, and give signs, if there is news of them; see to what has changed here, too."""
        if time.monotonic() < self.wait_until:
            return
        if ORDERS in news or self.orders.is_due():
            self.note(self.attempt("Cluster %s cannot read its orders", self.orders.look))
        self.orders.carry_out()
        if SIGNS in news or self.registration.has_changed():
            self.note(self.attempt("Cluster %s could give no sign of life", self.registration.write))

    def note(self, seconds: float) -> None:
        """Leave the database alone for so many seconds, if something has failed."""
        if seconds < math.inf:
            self.wait_until = time.monotonic() + seconds

    def offer_due(self) -> float:
        """Let workers queue what is due, and return in how many seconds to look again, if nothing changes."""
        with self.agent.lock:
            known = {held.extra[0] for held in self.agent.held.values() if held.does == SCHEDULE}
        # A time of the year 10,000, which PostgreSQL keeps and Python does not know, must not hold up all others.
        near = Greatest(Least("next_run", F("now") + DAY), F("now") - DAY)
        found = list(coming().values_list("pk", near, "now")[: AT_ONCE + 1])
        ahead = [(next_run - now).total_seconds() for _, next_run, now in found]
        for (key, _, _), seconds in zip(found, ahead, strict=True):
            if seconds <= 0 and key not in known:
                self.agent.offer(self.agent.hold(SCHEDULE, extra=(key, "", True)))
        self.agent.hand_out.feed()
        if ahead and ahead[0] <= 0:  # those that were due have another time once a worker is done with them
            return HURRY if ahead[-1] <= 0 and len(ahead) > AT_ONCE else SOON
        return ahead[0] + MARGIN if ahead else math.inf
