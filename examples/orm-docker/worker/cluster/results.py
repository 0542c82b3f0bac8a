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
from typing import TYPE_CHECKING, Any

from django.db import connections

from worker.cluster.messages import AFTER, GATHER, RESULT, WAIT, Held, Outcome, Result, delays, receipts, size_of
from worker.cluster.rows import LOCKED_FOR
from worker.cluster.saving import ANSWER, BRIEFLY, Saving
from worker.cluster.scoreboard import RESULTS
from worker.cluster.tallies import Tallies
from worker.cluster.task_log import tell
from worker.delivery import brief

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

BATCH = 500  #: results saved in one transaction, at most
FIRST = 16  #: and in the first one: nobody knows yet how long the database takes for a row, which may have triggers
LONG = 2.0  #: seconds that a batch is to take: after fifteen, a driver that waits for the database is cut off
BUSY = 5  #: results in a batch from which on more of them are waited for
LINGER = 0.02  #: seconds of that: a row of a hundred costs a third of one of twenty
PRUNE_EVERY = 5.0  #: seconds between two looks at `save_limit`
ASIDE = 10.0  #: seconds until what the database does not take now is tried again

logger = logging.getLogger("django-q")


class Results(Saving):
    def __init__(self, agent: "Agent") -> None:
        super().__init__(agent)
        self.broker = agent.broker
        self.is_busy = False
        self.most = FIRST  #: results in the next batch
        self.aside: deque[tuple[float, tuple[Any, ...]]] = deque()  #: when to try again, and what
        self.tallies = Tallies()
        self.since = 0.0  #: when what is being settled was taken, 0 if nothing is
        self.saved = 0  #: results, since it answers again

    def run(self) -> None:
        while True:
            if due := self.due():
                self.settle(due, BRIEFLY)
            if batch := self.gather():
                begun = time.monotonic()
                self.settle(batch)
                self.pace(len(batch), time.monotonic() - begun)
            if self.agent.replies.empty():
                self.tell_return()
            if self.tallies.are_due():
                self.write_tallies()
            if self.has_saved and time.monotonic() - self.pruned > PRUNE_EVERY:
                self.prune()

    def gather(self) -> list[tuple[Any, ...]]:
        """Wait a moment for a reply, and return it with those that have come meanwhile, a batch of them at most."""
        self.agent.scoreboard.expect(RESULTS, PRUNE_EVERY + ANSWER)
        try:
            batch = [self.agent.replies.get(timeout=PRUNE_EVERY)]
        except queue.Empty:
            return []
        if self.is_busy:  # at once, and not for each: the thread that hands out needs the interpreter meanwhile
            time.sleep(LINGER)
        with suppress(queue.Empty):
            while len(batch) < self.most:
                batch.append(self.agent.replies.get_nowait())
        self.is_busy = len(batch) >= BUSY
        return batch

    def pace(self, number: int, seconds: float) -> None:
        """Let the next batch take so long as it may, and become no more than twice as large."""
        self.most = max(1, min(BATCH, 2 * self.most, int(number * LONG / max(seconds, 0.001))))

    def due(self) -> list[tuple[Any, ...]]:
        """Return the replies that were put aside a while ago, a batch of them at most."""
        due: list[tuple[Any, ...]] = []
        while self.aside and len(due) < self.most and self.aside[0][0] < time.monotonic():
            due.append(self.aside.popleft()[1])
        return due

    def tell_return(self) -> None:
        """Say that the database answers again, if it was away, once all is saved that has waited for it."""
        if self.silence:
            logger.info("The database answers again after %.0f s, %s results saved", self.silence, self.saved)
            self.silence, self.saved = 0.0, 0

    def write_tallies(self) -> None:
        """Write what was counted, once: there is another time."""
        self.agent.scoreboard.expect(RESULTS, ANSWER)
        try:
            self.tallies.write()
        except Exception as error:  # each driver has exceptions of its own
            connections[self.alias].close()
            logger.warning("What has ended could not be counted yet: %s", brief(error))

    def lag(self) -> float:
        """Return for how many seconds the oldest result waits to be saved, about."""
        oldest = [*([self.since] if self.since else []), *(due - ASIDE for due, _ in [*self.aside][:1])]
        return max(0.0, time.monotonic() - min(oldest)) if oldest else 0.0

    # What becomes of what workers answer

    def settle(self, batch: list[tuple[Any, ...]], locked_for: float = LOCKED_FOR) -> None:
        """Save results, then let happen what comes after, or tell the broker; then let go of what is done."""
        self.since = time.monotonic()
        outcomes: dict[int, Outcome] = {}
        ended: list[Held] = []
        for does, ticket, *reply in batch:
            if not (held := self.agent.held.get(ticket)):
                continue
            if does == RESULT:
                outcomes[ticket] = Outcome(held, Result(*reply))
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
        if self.silence:
            self.saved += sum(outcome.save for outcome in outcomes.values())
        self.tallies.note(outcomes.values())
        for outcome in outcomes.values():
            held = outcome.held
            self.agent.scoreboard.expect(RESULTS, ANSWER)
            tell(outcome)  # which a handler may take seconds for
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
            self.since = 0.0
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
            what = "%s has failed, and is another cluster's by now, which decides on it"
            logger.warning(what, outcome.row.name, extra=outcome.keys)
            with self.agent.lock:
                self.agent.held.pop(outcome.held.ticket, None)

    def tell_broker(self, what: str, tasks: list[Held], action: Callable[[], None]) -> None:
        """Tell the broker of tasks. What it refuses waits for its lease, and is found to be done, or not due, then."""
        if number := len(receipts(tasks)):
            try:
                self.persevere(f"{what} {number} tasks", self.broker.ping, action)
            except Exception:
                logger.exception("The broker refuses to %s %s tasks", what, number)
