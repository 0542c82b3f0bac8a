"""How an agent saves results: as often as the database is away, and what the database refuses by a row in its place."""

import logging
import math
import time
from collections.abc import Callable
from copy import copy
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import close_old_connections, connections
from django.db.models import F
from django_q.conf import Conf
from picklefield.fields import PickledObject

from worker import failures
from worker.cluster.messages import Outcome
from worker.cluster.orders import delete_carried_out
from worker.cluster.rows import among, insert, may_be_taken_later, patiently
from worker.cluster.scoreboard import RESULTS
from worker.delivery import brief
from worker.packages import set_aside, table
from worker.retention import prune_to_save_limit

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

REFUSALS = 3  #: answers of a server that is there, after which what it refuses is at fault: it may be changing places
LONGEST_PAUSE = 5.0  #: seconds between two tries while a server is away
BRIEFLY = 0.1  #: seconds of that once it was waited for, to find out which row is locked
TELL_EVERY = 10.0  #: seconds between two lines about refusals: there may be one for each of many rows
ANSWER = 30.0  #: seconds in which the database's driver answers, or says that it cannot

logger = logging.getLogger("django-q")


class Saving:
    def __init__(self, agent: "Agent") -> None:
        self.agent = agent
        self.alias = table().db
        self.pruned = time.monotonic()
        self.has_saved = False  #: since it last pruned
        self.unsaved: dict[int, str] = {}  #: the tickets of a batch that could not be saved now, and why
        self.told = -math.inf  #: when it last said that a server refuses something
        self.silence = 0.0  #: seconds for which the database was away, until that is told

    def ask_database(self) -> None:
        """Ask the database whether rows can be written; a server that has lost its place as primary says no."""
        with patiently(self.alias):
            table().filter(pk="").update(attempt_count=0)

    def persevere(self, what: str, ask: Callable[[], Any], action: Callable[[], Any]) -> Any:
        """Do something, as often as its server is away; a line a try. Whether it is says a fresh connection.

        Raises:
            Exception: What the server says to it though it is there, again and again.
        """
        pause, refused, since = 1.0, 0, 0.0
        while True:
            self.agent.scoreboard.expect(RESULTS, ANSWER)
            try:
                close_old_connections()
                done = action()
                if since and ask == self.ask_database:
                    self.silence += time.monotonic() - since
                return done
            except Exception as error:  # each driver and client has exceptions of its own
                self.agent.scoreboard.expect(RESULTS, ANSWER)
                try:
                    connections[self.alias].close()
                    ask()
                    if self.agent.broker.will_pass(error):
                        raise error
                except Exception as silence:
                    since = since or time.monotonic()
                    logger.error("Could not %s (%s); next try in %.0f s", what, brief(silence), pause)
                else:
                    refused += 1
                    if time.monotonic() - self.told > TELL_EVERY:
                        self.told = time.monotonic()
                        said = "though the server answers: it is asked again"
                        logger.warning("Could not %s (%s), %s", what, brief(error), said)
                    if refused == REFUSALS or (ask == self.ask_database and may_be_taken_later(error)):
                        raise error from error.__cause__  # which knows its code
                    time.sleep(0.2)
                    continue
            refused = 0
            self.agent.scoreboard.expect(RESULTS, pause + ANSWER)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

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
        logger.error("The database refuses the result of %s", row.name, exc_info=error, extra=outcome.keys)
        reason = f"The result of {row.name} cannot be saved: {brief(error)}"
        stub = set_aside(outcome.held.payload, reason)
        stub = stub._replace(id=row.id, group=row.group, hook=row.hook, stopped=row.stopped)
        for candidate in (stub, stub._replace(args=None, kwargs=None)):
            other = copy(outcome)
            other.row, other.next_try, other.failure = candidate, None, None
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
                times = {name: datetime.fromisoformat(getattr(row, name)) for name in ("started", "stopped")}
                result = None if row.result is None else PickledObject(row.result)
                change = {**times, "success": row.success, "result": result}
                table().filter(pk=row.id).update(**change, attempt_count=F("attempt_count") + 1)
            failures.write([each.failure for each in written if each.failure], self.alias)
            failures.end([each.row.id for each in again if not each.failure], self.alias)
            delete_carried_out(written, self.alias)
        self.has_saved = True
        self.agent.schedules.ceiling.saved += len(rows) - len(again)
        for outcome in outcomes:
            outcome.attempts = before[outcome.row.id][1] + 1 if outcome.row.id in before else 1

    def prune(self) -> None:
        self.pruned, self.has_saved = time.monotonic(), False
        if Conf.SAVE_LIMIT <= 0:
            return
        try:
            self.persevere("prune results", self.ask_database, prune_to_save_limit)
        except Exception:
            logger.exception("The database refuses to prune results")
