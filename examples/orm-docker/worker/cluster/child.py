"""A worker: runs tasks by django-q2's worker(), and whatever else is a user's.

What this process dies of costs one task an attempt. It reads and writes one channel that nobody shares, so nobody
waits for what it may have taken along.
"""

import json
import logging
import os
import resource
import sys
import threading
import time
from asyncio import _get_running_loop
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from typing import Any, TypeVar

from django.core.signing import BadSignature
from django.db import DatabaseError, close_old_connections, connections
from django.utils import timezone, translation
from django_q import worker as upstream
from django_q.conf import Conf

from worker import errors, logs, packages, traces
from worker.cluster import after, due
from worker.cluster.attempts import Attempt, earlier, limit_of
from worker.cluster.channels import Channel
from worker.cluster.functions import Call, prepare
from worker.cluster.messages import FAIL, LEAVE, RUN, SCHEDULE, WAIT, Result
from worker.cluster.orders import cancelled_by
from worker.cluster.rows import is_in_transaction
from worker.cluster.scoreboard import IDLE, NO_LIMIT, Scoreboard, WorkerState
from worker.cluster.task_log import keys_of
from worker.delivery import Task, brief
from worker.failures import CANCELLED_BY, moment
from worker.health import may_pass, silent_servers

Answer = TypeVar("Answer")
FEW = 16  #: files that must be left to open for the next task: for connections, modules, a log
READ_AGAIN = 5.0  #: seconds after which a task is offered again that cannot be read while a server is away
MARGIN = 3.0  #: seconds beyond its limit after which a task's worker is killed: it may notice by itself

logger = logging.getLogger("django-q")
current: "Child | None" = None  #: the worker that this process is


def without_limit() -> None:
    """Let what runs in this process take as long as it likes, if this is a worker: for debuggers."""
    if current:
        current.begin(-1)


class Child:
    """The worker in one slot; to django-q2's worker() it is the queue of tasks, that of results, and the timer."""

    value = -1  #: of the timer, whom nobody asks: the scoreboard has the limit

    def __init__(self, slot: int, channel: Channel, scoreboard: Scoreboard) -> None:
        self.channel, self.scoreboard, self.listeners = channel, scoreboard, after.listeners()
        self.state: WorkerState = scoreboard.workers[slot]
        self.task: Task | None = None  #: what runs
        self.attempt = Attempt()
        self.message: tuple[Any, ...] = ()
        self.leaving, self.thread = False, threading.get_ident()
        self.has_run = False  #: whether a task has run here, which may have spoilt this process
        self.around = ExitStack()  #: what is entered for a task, and left when the next one comes
        self.span: Any = None  #: the task's, of OpenTelemetry

    def work(self) -> None:
        """Work until told to leave, or to be replaced by a fresh one."""
        while not self.leaving:
            try:
                upstream.worker(self, self, self, -1)
            except BaseException as error:  # what upstream does not take for a task's own failure
                if self.task is None:
                    raise
                if isinstance(error, BrokenPipeError):  # the agent is gone, and this cluster about to be
                    os._exit(1)
                self.fail(self.task, error)
                self.leaving = isinstance(error, OSError | MemoryError)  # what has left no room for this result
            else:
                return

    def get_lock(self) -> nullcontext[None]:
        return nullcontext()

    # The queue of tasks

    def get(self) -> Task | str:
        """Return the next task to run, once all else that comes before it is done; STOP to leave."""
        while True:
            with suppress(AttributeError, OSError, ValueError):  # a task may have closed it, or taken it away
                sys.stdout.flush()  # what tasks print, which would come when this process ends
            self.state.begin(IDLE)
            self.task = None
            if self.message and (left := self.left_behind()):
                logger.warning("%s has left %s: a fresh worker goes on", self.state.name, left)
                self.leaving = True
                return "STOP"
            with after.whatever_it_raises("What is around a task"):
                self.around.close()
            self.span, logs.here = None, {}
            translation.deactivate()  # a task that writes in its reader's language is not to choose that of the next
            timezone.deactivate()
            message = self.channel.receive()
            if message is None or message[0] == LEAVE:
                self.leaving = True
                return "STOP"
            self.state.taken += 1
            self.message = message
            if task := self.take(*message):
                self.has_run = True
                self.state.in_user_code = True
                return task
            if self.leaving:
                return "STOP"

    def left_behind(self) -> str:
        """Return what there is of the last task that would spoil those after it, "" if nothing."""
        if any(map(is_in_transaction, connections.all(initialized_only=True))):
            return "a transaction open"  # what they write, and queue, would be part of it, and vanish
        if _get_running_loop():
            return "an event loop running"  # for which Django would refuse them the database
        if threading.get_ident() != self.thread:
            return "other threads in the place of Python's"  # as gevent does: connections are theirs that opened them
        try:
            os.close(last := os.dup(self.channel.fileno()))
        except OSError as error:
            return f"no room for files ({brief(error)})"
        if last + FEW > resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0:
            return f"{last} files open"
        return "no memory" if isinstance(self.attempt.error, MemoryError) else ""

    def take(
        self, does: str, ticket: int, payload: str, count: int, again: bool, queued_as: str, extra: tuple[Any, ...]
    ) -> Task | None:
        """Do what a message says, but for running a task, which is returned."""
        self.begin(-1 if does == SCHEDULE else Conf.TIMEOUT or -1)
        if does in {RUN, FAIL}:
            return self.open(payload, count, again, queued_as, extra)
        problem = ""
        self.state.call(" ".join(map(str, (does, *extra[:1]))) if not payload else "")
        try:
            close_old_connections()
            match does:
                case "after":
                    task = packages.opened(payload)
                    logs.here = keys_of(task, extra[1])
                    self.around.enter_context(traces.carried(task))
                    self.state.call(packages.label("name", task["name"]))
                    with suppress(ValueError):  # which has failed it
                        self.begin(limit_of(task))
                    after.after(task, self.enter_user_code, *extra)
                case "gather":
                    after.gather(*extra)
                case "schedule":
                    due.queue(self.enter_user_code, *extra)
        except BaseException as error:  # whatever receivers and classes of a user raise
            if may_pass(error):
                problem = f"What a worker was told to do ({does}) has to wait: {brief(error)}"
                self.leaving = self.has_run  # it may be this process alone that a server does not answer any more
            else:
                logger.error("What a worker was told to do (%s) has failed: %s", does, brief(error), exc_info=True)
        self.channel.send((does, ticket, None, problem))
        return None

    def enter_user_code(self) -> None:
        """Note that a user's hooks and receivers come; get() notes the same of tasks."""
        if self.message[0] == SCHEDULE:  # which may have waited for servers as long as they needed
            self.begin(Conf.TIMEOUT or -1)
        self.state.in_user_code = True

    def begin(self, limit: float) -> None:
        """Note when this must have ended."""
        self.state.begin(time.monotonic() + limit + MARGIN if limit > 0 else NO_LIMIT)

    def open(self, payload: str, count: int, again: bool, queued_as: str, extra: tuple[Any, ...]) -> Task | None:
        """Open a package; return its task if it is to be run, and answer otherwise."""
        self.attempt, Call.current = Attempt(), None
        try:
            task = packages.opened(payload)
            task["name"] = packages.label("name", task["name"])  # django-q2 writes them into its log
            if task.get("group") is not None:
                task["group"] = packages.label("group", task["group"])
            self.task, self.attempt.options = task, packages.options_of(task)
            self.state.call(task["name"])
            logs.here = keys_of(task)
            if again or task.get("once"):
                self.attempt.earlier = self.asked(earlier, task)
            before = self.attempt.earlier
            if not extra and (by := task.get("cancelled") or self.cancelled_by(task["id"])):
                extra = (f"{CANCELLED_BY}{by}", True, "", True, None)
            if not extra or extra[3]:  # otherwise a worker may have died of this
                Call.current = prepare(task, queued_as, before)
            logs.here = {**logs.here, "attempt": before.attempts + 1, "of": packages.most_of(task) or None}
            if errors.sentry():
                self.around.enter_context(errors.around(logs.here))
            if before.is_over:  # though its cluster could not tell the broker any more
                self.put(task | {"success": before.success, "result": before.result})
            elif extra:  # an attempt has failed with its worker
                reason, for_good, *self.attempt.died, started = extra
                self.attempt.started = started and moment(started)
                self.span = self.around.enter_context(traces.span(task, logs.here))
                self.put(task | {"success": False, "result": reason} | ({"ack_failure": True} if for_good else {}))
            elif count > 1 and (before.next_try or 0) > time.time():  # nor when it is to be tried again
                self.channel.send((WAIT, self.message[1], None, before.next_try))
                self.task = None
            else:
                task["timeout"] = limit_of(task)
                self.begin(task["timeout"])
                self.state.start(task["id"], logs.here["task"], before.attempts + 1)
                self.span = self.around.enter_context(traces.span(task, logs.here))
                self.attempt.began = time.monotonic()
                return task
        except BaseException as error:  # whatever unpickling raises
            if self.leaving:
                logger.warning("A worker cannot ask for a task (%s): a fresh one is to do it", brief(error))
            elif self.task:
                self.fail(self.task, error)
            elif not isinstance(error, BadSignature) and silent_servers():  # of which its arguments may ask something
                logger.warning("A task cannot be read (%s): it is given back for %.0f s", brief(error), READ_AGAIN)
                self.channel.send((WAIT, self.message[1], None, time.time() + READ_AGAIN))
            elif self.state.taken > 1 and not isinstance(error, BadSignature):
                logger.warning("A task cannot be read (%s): a fresh worker is to try it", brief(error))
                self.leaving = True  # an earlier task may have spoilt this process
            else:
                reason = f"The task cannot be read: {brief(error)}"
                row = packages.set_aside(payload, reason)
                self.channel.send(Result(tuple(row), reason, times=(None, None)).message(self.message[1]))
                errors.report({"task": row.func, "task_id": row.id}, "set aside", reason, None, [])
        return None

    def cancelled_by(self, key: str) -> str | None:
        """Return who has cancelled a task, None if nobody has."""
        return self.asked(cancelled_by, key) if self.scoreboard.may_be_cancelled(key) else None

    def asked(self, ask: Callable[[Any], Answer], what: Any) -> Answer:
        """Return what the database has to tell of a task, once it answers."""
        self.begin(-1)  # it may be away for long, which is no fault of the task's
        while True:
            try:
                close_old_connections()
                return ask(what)
            except DatabaseError as error:
                connections.close_all()
                if self.has_run:  # a task may have cut off this process alone
                    self.leaving = True
                    raise
                logger.error("%s waits for the database (%s)", self.state.name, brief(error))
                time.sleep(1)

    # The queue of results

    def put(self, task: Task) -> None:
        """Hand on a task with its result; what has ended is not lost if this process is killed afterwards."""
        task.setdefault("stopped", timezone.now())
        times = None if self.attempt.earlier.is_over else self.attempt.times(task)
        self.begin(Conf.TIMEOUT or -1)  # for what packing and its backoff call of a user's
        part = packages.part_of(task)
        if part:
            task["hook"] = packages.PART
        call, Call.current = Call.current, None
        began = {"started": self.attempt.started} if call and call.has_begun and not part else {}
        row = packages.pack(task | began, self.message[2])
        is_cached = bool(task.get("cached")) and not part
        save = bool(part or not row.success or (task.get("save", Conf.SAVE_LIMIT >= 0) and not is_cached))
        before = self.attempt.earlier
        save = not before.is_over and (save or bool(before.attempts and not is_cached))  # or it stays a failure there
        follows = is_cached or bool(task.get("chain") or (task.get("hook") and not part)) or self.listeners
        failed: Any = None
        reason, next_try, at = "", None, time.time_ns()
        self.state.since = 0.0
        if not row.success and not before.is_over:
            failed = tuple(failure := self.attempt.failed(task, packages.unpickled(row.result)))
            reason, next_try = f"{failure.reason}\n{self.attempt.traceback}".strip(), failure.next_try
        result = Result(tuple(row), reason, save, next_try, follows, part, failed, times, dict(logs.here))
        self.channel.send(result.message(self.message[1]))
        self.task = None
        with after.whatever_it_raises("The trace of a task"):
            traces.end(self.span, None if row.success else self.attempt.error, at)
        if failed and next_try is None:
            errors.report(logs.here, failure.exception, failure.reason, self.attempt.error, json.loads(failure.errors))
        if call and not next_try and not before.is_over:
            call.end(task, failed and failed[6], self.attempt.error)

    def format_exc(self) -> str:
        """Return the traceback of the exception that a task has raised, which is kept."""
        self.attempt.note(sys.exc_info()[1])
        return self.attempt.traceback

    def fail(self, task: Task, error: BaseException) -> None:
        """Hand on a task as failed by something that upstream's worker does not expect."""
        cause, by = error.__context__, upstream.worker.__code__
        if cause and cause.__traceback__ and cause.__traceback__.tb_frame.f_code is by:
            error = cause  # which it has caught, and whose __str__ raises
        self.attempt.note(error)
        reason = f"It ended with code {error.code}, by sys.exit()" if isinstance(error, SystemExit) else brief(error)
        text = f"{reason} : {self.attempt.traceback}"
        self.put(task | {"success": False, "result": text, "stopped": timezone.now()})
