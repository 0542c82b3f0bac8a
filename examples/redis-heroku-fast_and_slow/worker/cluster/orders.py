"""What people have ordered, as the agent carries it out: queues are paused, and tasks are cancelled."""

import logging
import time
from threading import Event
from typing import TYPE_CHECKING

from django.db.models import Value
from django_q.conf import Conf

from worker.cluster.listener import Listener
from worker.cluster.messages import Outcome
from worker.models import Cancellation, Pause
from worker.packages import table

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

FIRST = 10.0  #: seconds for which the first look is waited for: until then nobody knows whether a task may begin
WITHIN = 0.9  #: seconds in which an order is found, while something is done, where none are announced: less than a tick
PATIENCE = 5.0  #: seconds for which that is waited for after an idle time: the database may be busy, or frozen

logger = logging.getLogger("django-q")


def cancelled_by(task: str) -> str | None:
    """Return who has cancelled a task, None if nobody has. Workers ask, of what the scoreboard names."""
    return Cancellation.objects.using(table().db).filter(pk=task).values_list("by", flat=True).first()


def delete_carried_out(outcomes: list[Outcome], alias: str) -> None:
    """Delete the cancellations of these attempts, if there are any."""
    if ids := [outcome.row.id for outcome in outcomes if outcome.is_cancelled]:
        Cancellation.objects.using(alias).filter(pk__in=ids).delete()


class Orders:
    """Those for an agent, whose thread that looks at schedules reads them."""

    def __init__(self, agent: "Agent", listener: Listener) -> None:
        self.agent, self.listener = agent, listener
        self.looked, self.has_looked = 0.0, Event()
        self.in_vain = False  #: whether the last look that was waited for did not come: the database is away
        self.paused = False
        self.cancelled: dict[str, str] = {}  #: who has cancelled them, by the tasks' ids
        self.ended: dict[int, str] = {}  #: and of those that run, by the worker's slot

    def await_first(self) -> None:
        """Wait for the first look, but not for ever."""
        self.has_looked.wait(FIRST)

    def refresh(self) -> None:
        """Wait for a look where no orders are announced, but once, and not for long: who waits has leases to renew."""
        if not self.listener.hears and not self.in_vain and time.monotonic() - self.looked > WITHIN:
            self.has_looked.clear()
            self.listener.bell.set()
            self.in_vain = not self.has_looked.wait(min(PATIENCE, Conf.RETRY / 6))

    def is_due(self) -> bool:
        """Say whether to look, though nothing is announced."""
        busy = self.paused or self.agent.held or self.in_vain  # or the next task would begin without a look
        return bool(busy) and not self.listener.hears and time.monotonic() - self.looked > WITHIN

    def look(self) -> None:
        """Read all orders by one query; raises what the database raises."""
        alias = table().db
        pauses = Pause.objects.using(alias).filter(pk=Conf.CLUSTER_NAME).annotate(pauses=Value(1))
        cancellations = Cancellation.objects.using(alias).annotate(pauses=Value(0))
        fields = ("pauses", "pk", "by")
        rows = [*pauses.values_list(*fields).union(cancellations.values_list(*fields), all=True)]
        self.cancelled = {key: by for pauses, key, by in rows if not pauses}
        self.agent.scoreboard.cancel(self.cancelled)
        self.looked = time.monotonic()
        paused_by = next((by for pauses, _, by in rows if pauses), None)
        if self.paused is not (paused_by is not None):
            self.paused = not self.paused
            what = f"begins no task: {paused_by} has paused its queue" if self.paused else "begins tasks again"
            logger.info("Cluster %s %s", Conf.CLUSTER_NAME, what)
            self.agent.wake()
        self.in_vain = False
        self.has_looked.set()

    def carry_out(self) -> None:
        """Let the supervisor end the workers of tasks that are cancelled."""
        if self.cancelled:
            for running in self.agent.scoreboard.attempts():
                if by := self.cancelled.get(running.task):
                    self.ended[running.slot] = by
                    self.agent.scoreboard.workers[running.slot].ended = running.since
