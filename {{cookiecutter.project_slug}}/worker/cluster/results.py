"""The thread of the agent that saves results, a batch in one transaction, and only then tells the broker.

It takes the place of django-q2 1.11.1's monitor, which saves one result at a time and looks at all kept ones for
each, and acknowledges a task whose result it could not save. While a server is away it waits; what a server refuses
is set aside.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, cycle
from typing import TYPE_CHECKING, Any

from django.db import close_old_connections, connections, transaction
from django.db.models import F
from django.db.models.expressions import RawSQL
from django_q.conf import Conf
from django_q.models import Task as Model
from picklefield.fields import PickledObject

from worker.cluster.board import RESULTS
from worker.cluster.messages import AFTER, GATHER, RESULT, Held, is_done, size_of
from worker.cluster.packages import FIELDS, PART, Row, moment, set_aside, table
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
        results: dict[int, tuple[Held, Row, str, bool, int, bool, Any]] = {}
        ended: list[Held] = []
        failed: list[Held] = []
        for does, ticket, *reply in batch:
            if not (held := self.agent.held.get(ticket)):
                continue
            if does == RESULT:
                results[ticket] = (held, Row(*reply[0]), *reply[1:])
            elif reply[2]:
                logger.warning("%s; next try in a while", reply[2])
                self.agent.try_again(held)
            else:
                (ended if reply[1] else failed).append(held)
        attempts = self.save([(held, row) for held, row, _, save, *_ in results.values() if save])
        for held, row, reason, _save, most, after, part in results.values():
            tried = attempts.get(row.id, 1)
            if row.success:
                logger.info("Processed '%s' (%s)", row.func, row.name)
            else:
                logger.error("Failed '%s' (%s) - %s", row.func, row.name, reason)
            held.part = part
            if after:
                held.does, held.extra = AFTER, (tuple(row), tried, most)
                self.agent.offer(held)
            else:
                (ended if is_done(row, tried, most) else failed).append(held)
        # One part of each iterable is kept until its results are gathered, if they are complete: its lease will tell.
        gathering = {held.part[0]: held for held in ended if held.part}
        for held in gathering.values():
            held.does, held.extra, held.part = GATHER, held.part or (), None
            self.agent.offer(held)
        kept = {held.ticket for held in gathering.values()}
        done = [held for held in ended if held.ticket not in kept]
        self.tell_broker("acknowledge", done, lambda receipts: self.broker.acknowledge_all(receipts))
        delay = float(Conf.RETRY)
        self.tell_broker("give back", failed, lambda receipts: self.broker.release(dict.fromkeys(receipts, delay)))
        with self.agent.lock:
            for held in (*done, *failed):
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

    def tell_broker(self, what: str, tasks: list[Held], action: Callable[[list[str]], None]) -> None:
        """Tell the broker of tasks. What it refuses waits for its lease, and is found to be done then."""
        if receipts := [held.receipt for held in tasks if held.receipt]:
            try:
                self.persevere(f"{what} {len(receipts)} tasks", self.broker.ping, lambda: action(receipts))
            except Exception:
                logger.exception("The broker refuses to %s %s tasks", what, len(receipts))

    # What is saved

    def save(self, results: list[tuple[Held, Row]]) -> dict[str, int]:
        """Save results, and return the attempts by id; one that the database refuses is set aside, with its payload."""
        kept: dict[str, tuple[Held, Row]] = {}
        for held, row in results:
            if row.id not in kept or not kept[row.id][1].success:
                kept[row.id] = (held, row)
        try:
            return dict(
                self.persevere("save results", self.ask_database, lambda: self.write([row for _, row in kept.values()]))
            )
        except Exception as error:
            if len(kept) > 1:  # find out which of them it is
                halves = list(kept.values())
                middle = len(halves) // 2
                return self.save(halves[:middle]) | self.save(halves[middle:])
            ((held, row),) = kept.values()
            logger.exception("The database refuses the result of %s", row.name)
            reason = f"The result of {row.name} cannot be saved: {brief(error)}"
            stub = set_aside(held.payload, reason)._replace(id=row.id, stopped=row.stopped)
            self.insist(row, stub)
            return {row.id: Conf.MAX_ATTEMPTS or 1}

    def insist(self, row: Row, stub: Row) -> None:
        """Save what stands for a row; if the database refuses that as well it may be full, or the payload too large."""
        for candidate in chain([stub], cycle([row, stub, stub._replace(args=None, kwargs=None)])):
            try:
                self.persevere("save results", self.ask_database, lambda candidate=candidate: self.write([candidate]))  # type: ignore[misc]
            except Exception as error:
                logger.error("Could not save results (%s); next try in %.0f s", brief(error), LONGEST_PAUSE)
                self.agent.board.expect(RESULTS, LONGEST_PAUSE + ANSWER)
                time.sleep(LONGEST_PAUSE)
            else:
                return

    def write(self, rows: list[Row]) -> Iterable[tuple[str, int]]:
        """Write rows, new ones and those of tasks that were tried before, in one transaction; return their attempts."""
        if not rows:
            return []
        with patiently(self.alias):
            known = table().filter(id__in=among([row.id for row in rows], self.alias))
            before = {
                key: (success, tried) for key, success, tried in known.values_list("id", "success", "attempt_count")
            }
            insert([row for row in rows if row.id not in before], self.alias)
            for row in rows:
                if row.id in before and not before[row.id][0]:
                    change = {"stopped": moment(row.stopped), "success": row.success}
                    result = None if row.result is None else PickledObject(row.result)
                    table().filter(pk=row.id).update(**change, result=result, attempt_count=F("attempt_count") + 1)
        self.has_saved = True
        if Conf.SAVE_LIMIT_PER:
            self.to_prune |= {(Conf.SAVE_LIMIT_PER, getattr(row, Conf.SAVE_LIMIT_PER)) for row in rows}
        return [(row.id, before[row.id][1] + 1 if row.id in before else 1) for row in rows]

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


@contextmanager
def patiently(using: str) -> Iterator[None]:
    """Begin a transaction that fails if somebody locks the table for long: so it is said, and tried again."""
    with transaction.atomic(using):
        if connections[using].vendor == "postgresql":
            with connections[using].cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{LOCKED_FOR}s'")
        yield


def among(ids: list[str], using: str) -> Any:
    """Return what an id may be: on PostgreSQL as one parameter, of hundreds it takes longer than the query."""
    return RawSQL("SELECT unnest(%s::text[])", [ids]) if connections[using].vendor == "postgresql" else ids


def insert(rows: list[Row], using: str) -> None:
    """Write new rows: by COPY on PostgreSQL, which takes half the time. No model is made: there may be listeners."""
    connection = connections[using]
    if not rows:
        return
    quote, fields = connection.ops.quote_name, [FIELDS[name] for name in (*Row._fields, "attempt_count")]
    table, columns = quote(Model._meta.db_table), ", ".join(quote(field.column) for field in fields)  # noqa: SLF001
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with connection.wrap_database_errors, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as lines:
                for row in rows:
                    lines.write_row((*row, 1))
            return
        adapt, marks = connection.ops.adapt_datetimefield_value, ", ".join(["%s"] * len(fields))
        times: list[dict[str, Any]] = [
            {name: adapt(moment(getattr(row, name))) for name in ("started", "stopped")} for row in rows
        ]
        values = [(*row._replace(**time), 1) for row, time in zip(rows, times, strict=True)]
        cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)  # noqa: S608 (names of Django's)
