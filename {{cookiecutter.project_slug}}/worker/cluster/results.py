"""The thread of the agent that saves results, a batch in one transaction, and only then tells the broker.

It takes the place of django-q2 1.11.1's monitor, which saves one result at a time and looks at all kept ones for
each, and acknowledges a task whose result it could not save. While a server is away it waits; what a server refuses
is set aside.
"""

import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import close_old_connections, connections
from django.db.models import F
from django_q.conf import Conf
from picklefield.fields import PickledObject

from worker.cluster import failures
from worker.cluster.board import RESULTS
from worker.cluster.failures import Failed
from worker.cluster.messages import AFTER, GATHER, RESULT, WAIT, Held, Outcome, delays, receipts, size_of
from worker.cluster.packages import Row, moment, set_aside, table
from worker.cluster.rows import LOCKED_FOR, among, insert, may_be_taken_later, patiently, prune
from worker.delivery import brief

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

BATCH = 500  #: results saved in one transaction
BUSY = 5  #: results in a batch from which on more of them are waited for
LINGER = 0.02  #: seconds of that: a row of a hundred costs a third of one of twenty
PRUNE_EVERY = 5.0  #: seconds between two looks at `save_limit`
REFUSALS = 3  #: answers of a server that is there, after which what it refuses is at fault: it may be changing places
LONGEST_PAUSE = 5.0  #: seconds between two tries while a server is away
BRIEFLY = 0.1  #: seconds of that once it was waited for, to find out which row is locked
ASIDE = 10.0  #: seconds until what the database does not take now is tried again
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
        self.unsaved: dict[int, str] = {}  #: the tickets of a batch that could not be saved now, and why
        self.aside: deque[tuple[float, tuple[Any, ...]]] = deque()  #: when to try again, and what

    def run(self) -> None:
        """Work for as long as the agent does."""
        while True:
            if due := self.due():
                self.settle(due, BRIEFLY)
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

    def due(self) -> list[tuple[Any, ...]]:
        """Return the replies that were put aside a while ago."""
        due = []
        while self.aside and self.aside[0][0] < time.monotonic():
            due.append(self.aside.popleft()[1])
        return due

    # What becomes of what workers answer

    def settle(self, batch: list[tuple[Any, ...]], locked_for: float = LOCKED_FOR) -> None:
        """Save results, then let happen what comes after, or tell the broker; then let go of what is done."""
        outcomes: dict[int, Outcome] = {}
        ended: list[Held] = []
        for does, ticket, *reply in batch:
            if not (held := self.agent.held.get(ticket)):
                continue
            if does == RESULT:
                row, reason, save, next_try, follows, part, failure, times = reply
                failed = failure and Failed(*failure)
                took = bool(times), *(times or (None, None))
                outcomes[ticket] = Outcome(held, Row(*row), reason, save, next_try, follows, part, failed, *took)
            elif does == WAIT:
                held.next_try = reply[1]
                ended.append(held)
            elif reply[1]:
                logger.warning("%s; next try in a while", reply[1])
                self.agent.try_again(held)
            else:
                ended.append(held)
        self.leave_lost(outcomes)
        self.unsaved = {}
        self.save([outcome for outcome in outcomes.values() if outcome.save], locked_for)
        if self.unsaved:
            what = f"Could not save {len(self.unsaved)} results ({next(iter(self.unsaved.values()))})"
            logger.error("%s; next try in %.0f s", what, ASIDE)
            self.aside.extend((time.monotonic() + ASIDE, reply) for reply in batch if reply[1] in self.unsaved)
            batch = [reply for reply in batch if reply[1] not in self.unsaved]
            outcomes = {ticket: outcome for ticket, outcome in outcomes.items() if ticket not in self.unsaved}
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

    def leave_lost(self, outcomes: dict[int, Outcome]) -> None:
        """Leave out what has failed, and is another cluster's by now: it may have ended there, for good, since."""
        failed = {outcome.held.receipt: ticket for ticket, outcome in outcomes.items() if outcome.next_try}
        try:
            lost = self.broker.renew(failed) if failed else set()
        except Exception:  # it is away, and whether a lease is lost is seen when the task is given back
            return
        for receipt in lost & failed.keys():
            outcome = outcomes.pop(failed[receipt])
            logger.warning("%s has failed, and is another cluster's by now, which decides on it", outcome.row.name)
            with self.agent.lock:
                self.agent.held.pop(outcome.held.ticket, None)

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
                self.agent.board.expect(RESULTS, ANSWER)
                try:
                    connections[self.alias].close()
                    ask()
                except Exception as silence:
                    logger.error("Could not %s (%s); next try in %.0f s", what, brief(silence), pause)
                else:
                    refused += 1
                    if refused == REFUSALS or (ask == self.ask_database and may_be_taken_later(error)):
                        raise error from error.__cause__  # which knows its code
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

    def save(self, outcomes: list[Outcome], locked_for: float) -> None:
        """Save results, and count their attempts; of one that the database refuses, its payload and the reason.

        What the database does not take now, or never takes, is noted as unsaved.
        """
        kept: dict[str, Outcome] = {}
        for outcome in outcomes:
            if outcome.row.id not in kept or not kept[outcome.row.id].row.success:
                kept[outcome.row.id] = outcome
        some = list(kept.values())
        try:
            self.persevere("save results", self.ask_database, lambda: self.write(some, locked_for))
        except Exception as error:
            if middle := len(some) // 2:  # find out which of them it is
                self.save(some[:middle], BRIEFLY)
                self.save(some[middle:], BRIEFLY)
            elif may_be_taken_later(error):
                self.unsaved[some[0].held.ticket] = brief(error)
            else:
                self.save_stub(some[0], error)

    def save_stub(self, outcome: Outcome, error: Exception) -> None:
        """Save what stands for a row that the database refuses; perhaps without the payload, which may be too large."""
        row, ticket = outcome.row, outcome.held.ticket
        logger.error("The database refuses the result of %s", row.name, exc_info=error)
        reason = f"The result of {row.name} cannot be saved: {brief(error)}"
        stub = set_aside(outcome.held.payload, reason)._replace(id=row.id, stopped=row.stopped)
        for candidate in (stub, stub._replace(args=None, kwargs=None)):
            other = replace(outcome, row=candidate, next_try=None, failure=None)
            try:
                self.persevere("save results", self.ask_database, lambda other=other: self.write([other], BRIEFLY))  # type: ignore[misc]
            except Exception as refusal:
                self.unsaved[ticket] = brief(refusal)
            else:
                outcome.next_try = outcome.failure = None
                return

    def write(self, outcomes: list[Outcome], locked_for: float) -> None:
        """Write rows, new ones and those of tasks that were tried before, in one transaction."""
        for outcome in outcomes:
            self.unsaved.pop(outcome.held.ticket, None)
        if not outcomes:
            return
        with patiently(self.alias, locked_for):
            rows = [outcome.row for outcome in outcomes]
            known = table().filter(id__in=among([row.id for row in rows], self.alias))
            before = {
                key: (success, tried) for key, success, tried in known.values_list("id", "success", "attempt_count")
            }
            if before and connections[self.alias].features.has_select_for_update_skip_locked:
                free = set(known.select_for_update(skip_locked=True).values_list("id", flat=True))
                locked = {key for key, (success, _) in before.items() if not success} - free
                why = "somebody has locked their rows"
                self.unsaved |= {each.held.ticket: why for each in outcomes if each.row.id in locked}
                outcomes = [each for each in outcomes if each.row.id not in locked]
                rows = [outcome.row for outcome in outcomes]
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
        for outcome in outcomes:
            outcome.attempts = before[outcome.row.id][1] + 1 if outcome.row.id in before else 1

    def prune(self) -> None:
        """Delete the oldest successes above `save_limit`."""
        self.pruned, self.has_saved = time.monotonic(), False
        if Conf.SAVE_LIMIT <= 0:
            return
        try:
            self.persevere("prune results", self.ask_database, partial(prune, self.alias))
        except Exception:
            logger.exception("The database refuses to prune results")


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
