"""Attempts of a task: what is saved of earlier ones, and what becomes of one that has failed. It runs in a worker."""

import json
import logging
import math
import os
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from time import monotonic, time
from traceback import format_exception
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone
from django_q.conf import Conf
from django_q.timeout import TimeoutHandler

from worker import packages, policy
from worker.cluster.messages import worker_id
from worker.delivery import Task, brief
from worker.failures import CANCELLED_BY, Failed
from worker.models import Failure
from worker.results import errors_of

ASK_WITHIN = 5  #: seconds that a backoff may take
TRACEBACK = 100_000  #: characters that are kept of a traceback: its beginning and its end
TRACEBACKS = 10  #: the newest attempts whose traceback is kept
ERRORS = 100  #: the newest attempts of which anything is kept
KEPT = ("attempts", "next_try", "errors")  #: of a failure

logger = logging.getLogger("django-q")


@dataclass(slots=True)
class Earlier:
    """What is saved of a task."""

    attempts: int = 0
    success: bool = False
    result: Any = None
    next_try: float | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    is_over: bool = False  #: whether there is to be no further attempt


@cache  # it takes longer to make than to ask
def rows() -> "QuerySet[Any, Any]":
    """Return what is saved of all tasks."""
    failures = Failure.objects.filter(task=OuterRef("pk"))
    columns = {f"failed_{name}": Subquery(failures.values(name)) for name in KEPT}
    rows: QuerySet[Any, Any] = packages.table().annotate(**columns)
    return rows.values_list("pk", "success", "result", "attempt_count", *columns)


def earlier(task: Task) -> Earlier:
    """Return what is saved of a task, or of the iterable that it was part of, by one query if its row is there."""
    identity = packages.label("id", task["id"])
    ids = [identity, *([packages.label("id", task["group"])] if task.get("iter_count") and task.get("group") else [])]
    failed: Any = None
    for key, success, result, attempts, *more in rows().filter(pk__in=ids):
        if success:
            return Earlier(attempts, True, result, None, more[2] or [], is_over=True)
        if key == identity:
            failed = result, max(attempts, more[0] or 0), *more[1:]
    if failed is None:  # somebody may have deleted the row, and not what is kept beside it
        failed = next(((None, *more) for more in Failure.objects.filter(pk=identity).values_list(*KEPT)), None)
    if failed is None:
        return Earlier()
    result, attempts, next_try, errors = failed
    # Of one that failed before there was the table of failures, nobody knows whether it was for good.
    is_over = errors is not None and next_try is None
    return Earlier(attempts, False, result, next_try and next_try.timestamp(), errors or [], is_over)


def limit_of(task: Task) -> int:
    """Return the whole seconds that a task may take, -1 for no limit; upstream's worker dies of None, and fails 1.5."""
    limit = task.get("timeout")
    if limit is None:
        limit = Conf.TIMEOUT
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or math.isnan(limit)):
        raise ValueError(f"its timeout {limit!r} is no number of seconds")
    return min(math.ceil(limit), 10**8) if limit and 0 < limit < math.inf else -1


def seconds(backoff: Any, error: BaseException, result: policy.Result, *, ask: bool) -> float | None:
    """Ask a task's backoff how long to wait, None for no further attempt; the default one if that fails."""
    if backoff is not None and ask:
        try:
            with TimeoutHandler(min(ASK_WITHIN, Conf.TIMEOUT or ASK_WITHIN)):
                return policy.seconds(backoff, error, result)
        except BaseException as problem:  # whatever a user's function raises
            what = f"The backoff {packages.function_label(backoff)} of '{result.task}' ({result.name}) cannot be used"
            logger.error("%s: %s; the task waits as long as by default", what, brief(problem), exc_info=True)
    elif backoff is not None:
        logger.error("A worker died while it asked the backoff of '%s' (%s)", result.task, result.name)
    return policy.DEFAULT(error, result)


@dataclass(slots=True)
class Attempt:
    """The attempt that runs, or that a worker has died of."""

    options: dict[str, Any] = field(default_factory=dict)  #: what the task was queued with
    earlier: Earlier = field(default_factory=Earlier)
    started: datetime | None = field(default_factory=timezone.now)  #: None where a worker died that nobody knows of
    began: float = 0.0  #: the same by the monotonic clock, 0 if it has not begun
    died: list[Any] = field(default_factory=list)  #: the id of the worker that did, and whether the backoff is asked
    error: BaseException | None = None  #: why it has failed
    traceback: str = ""  #: of that

    def times(self, task: Task) -> tuple[float | None, float | None]:
        """Return for how many seconds it has waited, since it might have begun, and run; None if it did not begin."""
        if not self.started or not (self.began or self.died):
            return None, None
        begun = self.started.timestamp()
        after = self.earlier.next_try or max(it.timestamp() for it in (task["started"], task.get("run_after")) if it)
        return max(0.0, begun - after), monotonic() - self.began if self.began else max(0.0, time() - begun)

    def note(self, error: BaseException | None) -> None:
        """Keep why it has failed."""
        self.error = error
        try:
            self.traceback = "".join(format_exception(error))
        except Exception as problem:  # as of a SyntaxError whose line is no number
            self.traceback = f"{brief(error) if error else ''}, whose traceback cannot be told ({brief(problem)})"

    def failed(self, task: Task, text: str) -> Failed:
        """Return what is kept of it, and when the next one is."""
        worker, ask = self.died or (worker_id(os.getpid()), True)
        if is_cancelled := text.startswith(CANCELLED_BY) and bool(self.died):
            self.error = policy.Cancelled(text)
        elif self.died:
            self.error = policy.WorkerDied(text)
        elif self.error is None or task["success"]:  # the result cannot be kept
            self.error, self.traceback = TypeError(text), ""
        if len(self.traceback) > TRACEBACK:
            self.traceback = f"{self.traceback[: TRACEBACK // 2]}\n…\n{self.traceback[-TRACEBACK // 2 :]}"
        self.traceback = packages.text_of(self.traceback)
        errors = [*self.earlier.errors, self.described(self.error, worker, task["stopped"])][-ERRORS:]
        for old in errors[:-TRACEBACKS]:
            old["traceback"] = ""
        attempts, most = self.earlier.attempts + 1, packages.most_of(task)
        next_try = None
        if most == 0 or attempts < most:
            result = policy.Result(
                id=packages.label("id", task["id"]),
                task=packages.function_label(task["func"]),
                name=task["name"],
                args=task["args"],
                kwargs=task["kwargs"],
                attempts=attempts,
                max_attempts=most,
                errors=errors_of(errors),
                worker_ids=[each["worker"] for each in errors],
                enqueued_at=task["started"],
                last_attempted_at=self.started,
            )
            delay = seconds(task.get("backoff"), self.error, result, ask=ask)
            next_try = None if delay is None else time() + delay
        return Failed(
            task=packages.label("id", task["id"]),
            attempts=attempts,
            max_attempts=most and max(most, attempts),  # which the settings may have made less meanwhile
            next_try=next_try,
            exception=errors[-1]["exception_class_path"],
            reason=packages.text_of(text if is_cancelled else brief(self.error), 256),
            errors=json.dumps(errors, ensure_ascii=False),
            options=None if next_try else packages.pickled_options(self.options),
        )

    def described(self, error: BaseException, worker: str, stopped: datetime) -> dict[str, Any]:
        return {
            "exception_class_path": packages.text_of(f"{type(error).__module__}.{type(error).__qualname__}", 256),
            "traceback": self.traceback or packages.text_of(brief(error)),
            "worker": worker,
            "started": self.started and self.started.isoformat(),
            "stopped": stopped.isoformat(),
        }
