"""Running what waits in the test's own process: by the agent and the worker of a cluster, without their processes."""

from asyncio import CancelledError
from collections.abc import Callable
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from django.db import connection
from django_q import worker as upstream
from django_q.brokers import get_broker
from django_q.exceptions import TimeoutException

from worker.cluster import child
from worker.cluster.agent import Agent
from worker.cluster.channels import Channel, pair
from worker.cluster.functions import located
from worker.cluster.messages import RESULT, RUN, Outcome
from worker.cluster.results import Results
from worker.cluster.scoreboard import Scoreboard
from worker.delivery import Task
from worker.packages import Row, unpickled
from worker.testing.commits import committed

if TYPE_CHECKING:
    from worker.testing.memory import Queue

MOST = 1000  #: attempts that one run() makes, in case a task queues itself


def run(queue: "Queue", *, raises: bool) -> list[Any]:
    """Run what waits; see Queue.run()."""
    results: list[Any] = []
    control, others = pair()
    agent = Agent(get_broker(), control, Scoreboard(1))  # of which no thread runs
    agent.results = AtOnce(agent)
    with ExitStack() as stack:
        stack.enter_context(patch.object(child, "close_old_connections"))  # else the test's own, with its transaction
        stack.enter_context(patch.object(upstream, "pydoc", SimpleNamespace(locate=located)))  # as in a worker
        for end in (control, others, agent.wake_up, agent.woken):
            stack.enter_context(closing(end))
        while queue:
            if len(results) >= MOST:
                raise AssertionError(f"{MOST} attempts were made, and still there wait: {queue!r}")
            task = min(queue, key=lambda task: task.run_after.timestamp() if task.run_after else 0.0)
            place, worker = queue.index(task), InProcessWorker(agent)
            agent.urgent.append(agent.hold(RUN, payload=task.payload, receipt=str(place), again=bool(task.attempts)))
            while agent.urgent:
                with committed():
                    worker.work_on(agent.urgent.popleft().message)
            results += worker.results
            if worker.error and raises:
                raise worker.error
    return results


class AtOnce(Results):
    """Saves, and tries nothing twice: in a transaction that cannot succeed."""

    def persevere(self, what: str, ask: Callable[[], Any], action: Callable[[], Any]) -> Any:
        return action()

    def save(self, outcomes: list[Outcome], locked_for: float) -> None:
        """Save results, and let come what the database says: where nobody tries again, it would be hidden."""
        self.write(outcomes, locked_for)


class InProcessWorker(child.Child):
    """A worker in the test's own process."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(0, cast(Channel, self), agent.scoreboard)
        self.agent = agent
        self.results: list[Any] = []
        self.error: BaseException | None = None  #: what a task has raised
        self.savepoint: str | None = None  #: of a test that is in a transaction

    def work_on(self, message: tuple[Any, ...]) -> None:
        self.message, self.told = message, False
        self.savepoint = connection.savepoint() if connection.in_atomic_block else None
        try:
            upstream.worker(self, self, self, -1)
        except (Exception, SystemExit, CancelledError, GeneratorExit, TimeoutException) as error:
            if self.task is None:
                raise
            self.error = error
            text = f"{error} : {self.format_exc()}"
            self.put(self.task | {"success": False, "result": text})
        if self.savepoint:
            connection.savepoint_commit(self.savepoint)

    def get(self) -> Task | str:
        """Return the task to run, if the message has one, and then STOP."""
        told, self.told = self.told, True
        task = None if told else self.take(*self.message)
        return task | {"sync": True} if task else "STOP"  # then what it raises comes here

    def send(self, reply: tuple[Any, ...]) -> None:
        """Let the agent settle what has ended."""
        if self.savepoint and (connection.needs_rollback or not connection.is_usable()):
            # In a worker, which has no transaction around it, an error of the database ends none.
            connection.needs_rollback = False
            connection.savepoint_rollback(self.savepoint)
        if reply[0] == RESULT:
            self.results.append(unpickled(Row(*reply[2]).result))
        self.task = None  # it has ended: what the database says is no failure of its
        self.agent.results.settle([reply])
