"""The monitor: saves results, a batch in one transaction, and only then tells the broker that the tasks are done.

It takes the place of django-q2 1.11.1's, which saves one result at a time and looks at all kept ones for each, and
acknowledges a task whose result it could not save. Whatever fails for want of a server is tried until it is back.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from django.db import InterfaceError, OperationalError, close_old_connections, connections, router, transaction
from django.db.models.expressions import RawSQL
from django.db.models.signals import post_save
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import Success
from django_q.models import Task as Row
from django_q.monitor import save_cached
from django_q.signals import post_execute
from django_q.tasks import async_chain
from django_q.utils import get_func_repr

from worker.delivery import Leasing, Task, brief
from worker.pipes import STOP, Board, Results, unpack

BATCH = 500  #: results saved in one transaction
BUSY = 5  #: results in a batch from which on more of them are waited for
LINGER = 0.02  #: seconds of that, at most: a row of a hundred costs a third of one of twenty
REMEMBER = 24 * 60 * 60  #: seconds for which the attempts of a task with a cached result are counted
AWAY = (InterfaceError, OperationalError)  #: what says that the database is away; each broker has errors of its own
PRUNE_EVERY = 5.0  #: seconds between two looks at `save_limit`

Errors = tuple[type[Exception], ...]

logger = logging.getLogger("django-q")


class Monitor:
    """Turns what the workers hand on into rows and receipts."""

    def __init__(self, results: Results, board: Board, news: Connection) -> None:
        """Read results, and tell the pusher which tasks are done."""
        self.results, self.board, self.news = results, board, news
        self.broker: Leasing = get_broker()
        self.inbox: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self.is_busy = False
        self.pruned = time.monotonic()
        self.has_saved = False  #: since it last pruned
        self.to_prune: set[tuple[str, Any]] = set()

    def run(self) -> None:
        """Work until the guard says stop, and all results before it are saved."""
        threading.Thread(target=self.read, daemon=True).start()
        while self.turn():
            pass
        self.prune()

    def turn(self) -> bool:
        """Wait for results and settle them, and prune now and then; say whether more may come."""
        batch = self.gather()
        if tasks := [task for task in batch if task != STOP]:
            self.settle(tasks)
        if time.monotonic() - self.pruned > PRUNE_EVERY:
            self.prune()
        return STOP not in batch

    def read(self) -> None:
        """Keep the pipe empty: a worker could otherwise not hand on a result while a server is away."""
        while True:
            self.board.monitor_beat.value = time.monotonic()
            for result in self.results.get_all(1.0):
                self.inbox.put(result)

    def gather(self) -> list[Any]:
        """Wait for a result, and return it with those that have come meanwhile, a batch of them at most.

        None if it is time to prune.
        """
        try:
            first = self.inbox.get(timeout=PRUNE_EVERY if self.has_saved else None)
        except queue.Empty:
            return []
        batch = [self.unpack(*first)]
        end = time.monotonic() + (LINGER if self.is_busy else 0.0)
        with suppress(queue.Empty):
            while len(batch) < BATCH:
                batch.append(self.unpack(*self.inbox.get(timeout=max(0.0, end - time.monotonic()))))
        self.is_busy = len(batch) >= BUSY
        return batch

    def unpack(self, ticket: int, data: bytes) -> Any:
        """Return a task with its result; if that cannot be unpickled, a task of which the pusher knows the rest."""
        try:
            return unpack(data)
        except Exception as error:  # whatever a class's own __setstate__ raises
            return {"ticket": ticket, "unreadable": f"The result cannot be unpickled: {brief(error)}"}

    def settle(self, batch: list[Task]) -> None:
        """Save results, send receipts, tell the pusher, then everybody who listens."""
        tasks = [task for task in batch if "id" in task]
        attempts = self.persist(tasks)
        done: list[str] = []
        again: list[str] = []
        for task in tasks:
            final = task["success"] or task.get("ack_failure") or task.get("set_aside")
            final = final or 0 < Conf.MAX_ATTEMPTS <= attempts.get(task["id"], 1)
            (done if final else again).append(task["ack_id"])
            if final and task.get("chain"):
                self.persevere("queue the next of a chain", partial(self.queue_next, task))
        self.persevere("send receipts", lambda: self.broker.acknowledge_all(done))
        self.persevere("give tasks back", lambda: self.broker.release(again, delay=Conf.RETRY))
        self.news.send([(task["ticket"], task.get("unreadable")) for task in batch])
        for task in tasks:
            self.announce(task)

    def persevere(self, what: str, action: Callable[[], Any], away: Errors = (Exception,)) -> Any:
        """Do something until its server is there, while these errors say that it is away; a line a try."""
        pause = 1.0
        while True:
            try:
                close_old_connections()
                return action()
            except away as error:
                logger.error("Could not %s (%s); next try in %.0f s", what, brief(error), pause)
                time.sleep(pause)
                pause = min(pause * 2, 5.0)

    # What is saved

    def persist(self, tasks: list[Task]) -> dict[str, int]:
        """Save results, and return the attempts by id."""
        kept: dict[str, Task] = {}
        attempts: dict[str, int] = {}
        for task in tasks:
            if task["success"] and not task.get("save", Conf.SAVE_LIMIT >= 0):
                continue
            if task.get("cached"):
                attempts[task["id"]] = self.persevere("save a result in the cache", partial(self.save_in_cache, task))
            elif not kept.get(task["id"], {}).get("success"):
                kept[task["id"]] = task
        try:
            rows = self.persevere("save results", lambda: self.save(kept), AWAY)
        except Exception as error:  # of the database, or of a class that can be pickled but once
            if len(kept) > 1:  # find out which of them it is
                for task in kept.values():
                    attempts |= self.persist([task])
                return attempts
            (task,) = kept.values()
            logger.exception("The result of %s cannot be saved", task["name"])
            reason = f"The result cannot be saved: {brief(error)}"
            stub = {"args": None, "kwargs": None, "hook": None, "group": None, "name": task["name"][:100]}
            stub |= {"func": get_func_repr(task["func"])[:256], "result": reason, "success": False}
            rows = self.persevere("save results", lambda: self.save({task["id"]: task | stub}), AWAY)
        for row in rows:
            post_save.send(sender=Row, instance=row, created=row.attempt_count == 1, raw=False, update_fields=None)
        return attempts | {row.id: row.attempt_count for row in rows}

    def save(self, tasks: dict[str, Task]) -> list[Row]:
        """Write rows, new ones and those of tasks that were tried before, in one transaction."""
        if not tasks:
            return []
        using = router.db_for_write(Row)
        with transaction.atomic(using):
            known = {row.id: row for row in Row.objects.using(using).filter(id__in=among(list(tasks), using))}
            new = []
            for key, task in tasks.items():
                row = known.get(key)
                if row is None:
                    new.append(self.row(task))
                elif not row.success:
                    row.stopped, row.result, row.success = task["stopped"], task["result"], task["success"]
                    row.attempt_count += 1
                    row.save_base(raw=True)  # without signals, which are sent once all is committed
            insert(new, using)
        self.has_saved = True
        return [*known.values(), *new]

    def save_in_cache(self, task: Task) -> int:
        """Save a result as django-q2 does, which counts no attempts, and goes on if that fails; return the attempts.

        Raises:
            LookupError: If it is not there afterwards. (The parts of an iterable are put together elsewhere.)
        """
        is_part = "iter_count" in task
        save_cached(task | {"chain": None}, self.broker)
        cache, key = self.broker.cache, f"{self.broker.list_key}:{task['id']}"
        if not is_part and cache.get(key) is None:
            raise LookupError("it is not there afterwards")
        if task["success"] or cache.add(f"{key}:attempts", 1, REMEMBER):
            return 1
        attempts: int = cache.incr(f"{key}:attempts")
        return attempts

    def queue_next(self, task: Task) -> None:
        """Queue the next task of a chain: once, when this one needs no further attempt."""
        async_chain(task["chain"].copy(), task["group"], task["cached"], task["sync"], self.broker)

    def row(self, task: Task) -> Row:
        """Return a row for a task's first attempt."""
        func = get_func_repr(task["func"])
        if Conf.SAVE_LIMIT_PER:
            self.to_prune.add(
                (Conf.SAVE_LIMIT_PER, func if Conf.SAVE_LIMIT_PER == "func" else task.get(Conf.SAVE_LIMIT_PER))
            )
        fields = ("id", "name", "args", "kwargs", "started", "stopped", "result", "success")
        optional = {key: task.get(key) for key in ("hook", "cluster", "group")}
        return Row(func=func, attempt_count=1, **{key: task[key] for key in fields}, **optional)

    def prune(self) -> None:
        """Delete the oldest successes above `save_limit`."""
        self.pruned, self.has_saved = time.monotonic(), False
        if Conf.SAVE_LIMIT <= 0:
            return
        filters = [dict([pair]) for pair in self.to_prune] if Conf.SAVE_LIMIT_PER else [{}]
        self.to_prune.clear()
        for criteria in filters:
            kept = Success.objects.filter(**criteria).order_by("-stopped")

            def prune(kept: Any = kept) -> None:
                while surplus := list(kept.values_list("pk", flat=True)[Conf.SAVE_LIMIT :][:1000]):
                    Row.objects.filter(pk__in=surplus).delete()

            self.persevere("prune results", prune, AWAY)

    def announce(self, task: Task) -> None:
        """Send django-q2's signal, and log how the task ended."""
        post_execute.send_robust(sender="django_q", task=task)  # which logs what a receiver raises
        names = {"func": get_func_repr(task["func"]), "name": task["name"]}
        if task["success"]:
            logger.info("Processed '%(func)s' (%(name)s)", names)
        else:
            logger.error("Failed '%(func)s' (%(name)s) - %(result)s", names | {"result": task["result"]})


def among(ids: list[str], using: str) -> Any:
    """Return what an id may be: on PostgreSQL as one parameter, of hundreds it takes longer than the query."""
    return RawSQL("SELECT unnest(%s::text[])", [ids]) if connections[using].vendor == "postgresql" else ids


def insert(rows: list[Row], using: str) -> None:
    """Write new rows: by COPY on PostgreSQL, which takes half the time of bulk_create() and its long literals."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        Row.objects.using(using).bulk_create(rows)
        return
    options, name = Row._meta, connection.ops.quote_name  # noqa: SLF001 (a documented part of models)
    fields = options.concrete_fields
    copy = f"COPY {name(options.db_table)} ({', '.join(name(field.column) for field in fields)}) FROM STDIN"
    with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(copy) as lines:
        for row in rows:
            lines.write_row([field.get_db_prep_save(field.pre_save(row, True), connection) for field in fields])
            row._state.adding, row._state.db = False, using  # noqa: SLF001 (as bulk_create() leaves it)


def monitor(results: Results, board: Board, news: Connection) -> None:
    """Run a monitor, as a process of the cluster."""
    for name in ("args", "kwargs", "result"):
        # It would copy each value before it pickles it, for those who look rows up by one.
        Row._meta.get_field(name).copy = False  # noqa: SLF001 (a documented part of models)
    Monitor(results, board, news).run()
