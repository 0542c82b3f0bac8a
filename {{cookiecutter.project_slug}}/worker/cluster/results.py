"""The thread of the agent that saves results, a batch in one transaction, and only then tells the broker.

It takes the place of django-q2 1.11.1's monitor, which saves one result at a time and looks at all kept ones for
each, and acknowledges a task whose result it could not save. While a server is away it waits; what a server refuses
is set aside.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain, cycle
from typing import TYPE_CHECKING, Any

from django.db import close_old_connections, connections, transaction
from django.db.models import F
from django_q.conf import Conf
from picklefield.fields import PickledObject

from worker.cluster import failures
from worker.cluster.board import RESULTS
from worker.cluster.failures import Failed
from worker.cluster.messages import AFTER, GATHER, RESULT, WAIT, Held, Outcome, size_of
from worker.cluster.packages import PART, Row, moment, set_aside, table
from worker.cluster.rows import among, insert
from worker.delivery import brief

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

BATCH = 500  #: results saved in one transaction
BUSY = 5  #: results in a batch from which on more of them are waited for
LINGER = 0.02  #: seconds of that: a row of a hundred costs a third of one of twenty
PRUNE_EVERY = 5.0  #: seconds between two looks at `save_limit`
REFUSALS = 3  #: answers of a server that is there, after which what it refuses is at fault: it may be changing places
LONGEST_PAUSE = 5.0  #: seconds between two tries while a server is away
LOCKED_FOR = 10  #: seconds for which somebody else's lock is waited for before that is said
ANSWER = 30.0  #: seconds in which the database's driver answers, or says that it cannot

logger = logging.getLogger("django-q")


class Results:
    """Saves for an agent, and settles what it holds."""

    def __init__(self, agent: "Agent") -> None:
        """Begin with nothing to save."""
        self.agent, self.broker = agent, agent.broker
        self.alias = table().db
        self.is_busy = False
        self.pruned = time.monotonic()
        self.has_saved = False  #: since it last pruned
        self.to_prune: set[tuple[str, Any]] = set()

    def run(self) -> None:
        """Work for as long as the agent does."""
        while True:
            batch = self.gather()
            if batch:
                self.settle(batch)
            if self.has_saved and time.monotonic() - self.pruned > PRUNE_EVERY:
                self.prune()

    def gather(self) -> list[tuple[Any, ...]]:
        """Wait a moment for a reply, and return it with those that have come meanwhile, a batch of them at most."""
        self.agent.board.expect(RESULTS, PRUNE_EVERY + ANSWER)
        try:
            batch = [self.agent.replies.get(timeout=PRUNE_EVERY)]
        except queue.Empty:
            return []
        if self.is_busy:  # at once, and not for each: the thread that hands out needs the interpreter meanwhile
            time.sleep(LINGER)
        with suppress(queue.Empty):
            while len(batch) < BATCH:
                batch.append(self.agent.replies.get_nowait())
        self.is_busy = len(batch) >= BUSY
        return batch

    # What becomes of what workers answer

    def settle(self, batch: list[tuple[Any, ...]]) -> None:
        """Save results, then let happen what comes after, or tell the broker; then let go of what is done."""
        outcomes: dict[int, Outcome] = {}
        ended: list[Held] = []
        for does, ticket, *reply in batch:
            if not (held := self.agent.held.get(ticket)):
                continue
            if does == RESULT:
                row, reason, save, next_try, follows, part, failure = reply
                failed = failure and Failed(*failure)
                outcomes[ticket] = Outcome(held, Row(*row), reason, save, next_try, follows, part, failed)
            elif does == WAIT:
                held.next_try = reply[1]
                ended.append(held)
            elif reply[1]:
                logger.warning("%s; next try in a while", reply[1])
                self.agent.try_again(held)
            else:
                ended.append(held)
        self.save([outcome for outcome in outcomes.values() if outcome.save])
        for outcome in outcomes.values():
            held = outcome.held
            tell(outcome)
            held.part, held.next_try = outcome.part, outcome.next_try
            if outcome.follows:
                held.does, held.extra = AFTER, (tuple(outcome.row), outcome.attempts, outcome.next_try)
                self.agent.offer(held)
            else:
                ended.append(held)
        waiting = [held for held in ended if held.next_try]
        # One part of each iterable is kept until its results are gathered, if they are complete: its lease will tell.
        gathering = {held.part[0]: held for held in ended if held.part and not held.next_try}
        for held in gathering.values():
            held.does, held.extra, held.part = GATHER, held.part or (), None
            self.agent.offer(held)
        kept = {held.ticket for held in (*gathering.values(), *waiting)}
        done = [held for held in ended if held.ticket not in kept]
        self.tell_broker("acknowledge", done, lambda: self.broker.acknowledge_all(receipts(done)))
        self.tell_broker("give back", waiting, lambda: self.broker.release(delays(waiting)))
        with self.agent.lock:
            for held in (*done, *waiting):
                self.agent.held.pop(held.ticket, None)
            self.agent.unsaved_bytes -= sum(map(size_of, batch))
            self.agent.hand_out.feed()

    def ask_database(self) -> None:
        """Ask the database whether rows can be written; a server that has lost its place as primary says no."""
        with patiently(self.alias):
            table().filter(pk="").update(attempt_count=0)

    def persevere(self, what: str, ask: Callable[[], Any], action: Callable[[], Any]) -> Any:
        """Do something, as often as its server is away; a line a try. Whether it is says a fresh connection.

        Raises:
            Exception: What the server says to it though it is there, again and again.
        """
        pause, refused = 1.0, 0
        while True:
            self.agent.board.expect(RESULTS, ANSWER)
            try:
                close_old_connections()
                return action()
            except Exception as error:  # each driver and client has exceptions of its own
                try:
                    connections[self.alias].close()
                    ask()
                except Exception as silence:
                    logger.error("Could not %s (%s); next try in %.0f s", what, brief(silence), pause)
                else:
                    refused += 1
                    if refused == REFUSALS:
                        raise error from None
                    time.sleep(0.2)
                    continue
            refused = 0
            self.agent.board.expect(RESULTS, pause + ANSWER)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def tell_broker(self, what: str, tasks: list[Held], action: Callable[[], None]) -> None:
        """Tell the broker of tasks. What it refuses waits for its lease, and is found to be done, or not due, then."""
        if number := len(receipts(tasks)):
            try:
                self.persevere(f"{what} {number} tasks", self.broker.ping, action)
            except Exception:
                logger.exception("The broker refuses to %s %s tasks", what, number)

    # What is saved

    def save(self, outcomes: list[Outcome]) -> None:
        """Save results, and count their attempts; one that the database refuses is set aside, with its payload."""
        kept: dict[str, Outcome] = {}
        for outcome in outcomes:
            if outcome.row.id not in kept or not kept[outcome.row.id].row.success:
                kept[outcome.row.id] = outcome
        some = list(kept.values())
        try:
            self.persevere("save results", self.ask_database, lambda: self.write(some))
        except Exception as error:
            if middle := len(some) // 2:  # find out which of them it is
                self.save(some[:middle])
                self.save(some[middle:])
                return
            (outcome,) = some
            row = outcome.row
            logger.exception("The database refuses the result of %s", row.name)
            reason = f"The result of {row.name} cannot be saved: {brief(error)}"
            stub = set_aside(outcome.held.payload, reason)._replace(id=row.id, stopped=row.stopped)
            outcome.next_try = outcome.failure = None
            self.insist(outcome, stub)

    def insist(self, outcome: Outcome, stub: Row) -> None:
        """Save what stands for a row; if the database refuses that as well it may be full, or the payload too large."""
        for row in chain([stub], cycle([outcome.row, stub, stub._replace(args=None, kwargs=None)])):
            try:
                candidate = replace(outcome, row=row)
                self.persevere("save results", self.ask_database, lambda candidate=candidate: self.write([candidate]))  # type: ignore[misc]
            except Exception as error:
                logger.error("Could not save results (%s); next try in %.0f s", brief(error), LONGEST_PAUSE)
                self.agent.board.expect(RESULTS, LONGEST_PAUSE + ANSWER)
                time.sleep(LONGEST_PAUSE)
            else:
                return

    def write(self, outcomes: list[Outcome]) -> None:
        """Write rows, new ones and those of tasks that were tried before, in one transaction."""
        if not outcomes:
            return
        rows = [outcome.row for outcome in outcomes]
        with patiently(self.alias):
            known = table().filter(id__in=among([row.id for row in rows], self.alias))
            before = {
                key: (success, tried) for key, success, tried in known.values_list("id", "success", "attempt_count")
            }
            insert([row for row in rows if row.id not in before], self.alias)
            written = [each for each in outcomes if each.row.id not in before or not before[each.row.id][0]]
            again = [each for each in written if each.row.id in before]
            for row in [outcome.row for outcome in again]:
                times = {"started": moment(row.started), "stopped": moment(row.stopped)}
                result = None if row.result is None else PickledObject(row.result)
                change = {**times, "success": row.success, "result": result}
                table().filter(pk=row.id).update(**change, attempt_count=F("attempt_count") + 1)
            failures.write([each.failure for each in written if each.failure], self.alias)
            failures.end([each.row.id for each in again if not each.failure], self.alias)
        self.has_saved = True
        self.agent.schedules.ceiling.saved += len(rows) - len(again)
        if Conf.SAVE_LIMIT_PER:
            self.to_prune |= {(Conf.SAVE_LIMIT_PER, getattr(row, Conf.SAVE_LIMIT_PER)) for row in rows}
        for outcome in outcomes:
            outcome.attempts = before[outcome.row.id][1] + 1 if outcome.row.id in before else 1

    def prune(self) -> None:
        """Delete the oldest successes above `save_limit`."""
        self.pruned, self.has_saved = time.monotonic(), False
        if Conf.SAVE_LIMIT <= 0:
            return
        filters = [dict([pair]) for pair in self.to_prune] if Conf.SAVE_LIMIT_PER else [{}]
        self.to_prune.clear()
        for criteria in filters:
            kept = table().filter(success=True, **criteria).exclude(hook=PART).order_by("-stopped")

            def prune(kept: Any = kept) -> None:
                while surplus := list(kept.values_list("pk", flat=True)[Conf.SAVE_LIMIT :][:1000]):
                    # As delete(), which would read the rows, and unpickle them, if somebody listens for deletions.
                    table().filter(pk__in=surplus)._raw_delete(self.alias)  # noqa: SLF001

            try:
                self.persevere("prune results", self.ask_database, prune)
            except Exception:
                logger.exception("The database refuses to prune results")


def receipts(tasks: list[Held]) -> list[str]:
    """Return what the broker knows tasks by."""
    return [held.receipt for held in tasks if held.receipt]


def delays(tasks: list[Held]) -> dict[str, float]:
    """Return in how many seconds from now tasks are to be handed out again, by what the broker knows them by."""
    return {held.receipt: held.delay for held in tasks if held.receipt}


def tell(outcome: Outcome) -> None:
    """Write into the log what has become of an attempt."""
    row, failure = outcome.row, outcome.failure
    if row.success:
        logger.info("Processed '%s' (%s)", row.func, row.name)
        return
    reason, _, details = outcome.reason.partition("\n")
    if failure:
        reason += f"; {failures.stage(failure.attempts, failure.max_attempts, failure.next_try)}"
    logger.error("Failed '%s' (%s) - %s%s", row.func, row.name, reason, details and f"\n{details}")


@contextmanager
def patiently(using: str) -> Iterator[None]:
    """Begin a transaction that fails if somebody locks the table for long: so it is said, and tried again."""
    with transaction.atomic(using):
        if connections[using].vendor == "postgresql":
            with connections[using].cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{LOCKED_FOR}s'")
        yield
