"""What a task names as its function, as a worker calls it; of Django's tasks, with their context, signals and JSON."""

import json
import os
import pydoc
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from functools import cache, wraps
from inspect import iscoroutinefunction
from types import SimpleNamespace
from typing import Any

from asgiref.sync import async_to_sync
from django.dispatch import Signal
from django.utils import timezone
from django_q import worker as upstream
from django_q.exceptions import TimeoutException

from worker import packages, results
from worker.cluster.after import whatever_it_raises
from worker.cluster.attempts import Earlier
from worker.cluster.messages import worker_id
from worker.delivery import Task
from worker.django_tasks import base, signals

Status = base.TaskResultStatus

at_once: ContextVar["Call | None"] = ContextVar("at_once", default=None)  #: that runs where it was queued, for `sync`


@cache
def located(path: str) -> Any:
    """Return what is called for a path, None if there is nothing; for django-q2, which asks for each task."""
    return runnable(packages.named(path))


def runnable(function: Any) -> Any:
    """Return what is called for a function: a coroutine runs to its end, and a task of Django's is the Call's."""
    if isinstance(function, base.Task):

        @wraps(function.func)
        def run(*args: Any, **kwargs: Any) -> Any:
            call = at_once.get() or Call.current
            return call.run(args, kwargs) if call else function.call(*args, **kwargs)

        return run
    if iscoroutinefunction(function):

        @wraps(function)
        def run_to_its_end(*args: Any, **kwargs: Any) -> Any:
            return async_to_sync(function)(*args, **kwargs)

        return run_to_its_end
    return function


def prepare(task: Task, queued_as: str, earlier: Earlier) -> "Call | None":
    """Make a task ready to be called; return what does so if it is one of Django's, which may have a policy."""
    declared = packages.named(task["func"])
    if callable(task["func"]):
        task["func"] = runnable(declared)
    if not isinstance(declared, base.Task):
        return None
    for name, value in getattr(declared, "policy", {}).items():
        task.setdefault(name, value)
    return Call(declared, task, queued_as, earlier)


def run_at_once(payload: str, run: Callable[[str], str]) -> str:
    """Let django-q2's _sync() run a task here, for the option `sync`, as a worker would; return its id."""
    if upstream.pydoc is pydoc:  # else this is a worker
        upstream.pydoc = SimpleNamespace(locate=lambda path: runnable(pydoc.locate(path)))
    package = packages.opened(payload)
    call = prepare(package, "", Earlier())
    token, errors, why = at_once.set(call), None, None
    try:
        return run(payload)
    except BaseException as error:
        worker, text = worker_id(os.getpid()), "".join(traceback.format_exception(error))
        path = f"{type(error).__module__}.{type(error).__qualname__}"
        errors, why = json.dumps([{"exception_class_path": path, "traceback": text, "worker": worker}]), error
        raise
    finally:
        at_once.reset(token)
        if call:
            call.end(package | {"stopped": timezone.now(), "result": call.value}, errors, why)


class Call:
    """A call of one of Django's tasks."""

    current: "Call | None" = None  #: of this worker

    def __init__(self, declared: Any, package: Task, queued_as: str, earlier: Earlier) -> None:
        """Know the task as it stands in its module and as it was queued, and what is saved of earlier attempts."""
        self.declared, self.backend, self.has_begun = declared, type(declared.get_backend()), False
        self.value: Any = None
        begun = [datetime.fromisoformat(error["started"]) for error in earlier.errors if error["started"]]
        workers = [error["worker"] for error in earlier.errors]
        self.result = results.Result.of(
            declared,
            declared.backend,
            results.id_of(package["id"], queued_as, str(declared)),
            Status.RUNNING,
            args=[results.json_of(value) for value in package["args"]],
            kwargs={name: results.json_of(value) for name, value in package["kwargs"].items()},
            enqueued_at=results.enqueued_at(package["id"]) or package["started"],
            started_at=begun[0] if begun else None,
            errors=results.errors_of(earlier.errors),
            worker_ids=[""] * (earlier.attempts - len(workers)) + workers,
        )

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.has_begun, now = True, timezone.now()
        self.result.note(last_attempted_at=now, started_at=self.result.started_at or now)
        self.result.worker_ids.append(worker_id(os.getpid()))
        self.send(signals.task_started)
        context: list[Any] = [base.TaskContext(task_result=self.result)] if self.declared.takes_context else []
        around, results.running_here = results.running_here, self.result
        try:
            value = self.declared.call(*context, *args, **kwargs)
        finally:
            results.running_here = around
        self.value = results.strict_json_of(f"The result of {self.declared.name}()", value)
        return self.value

    def end(self, task: Task, errors: str | None, error: BaseException | None) -> None:
        """Tell that the task has ended, and will not be tried again; it has failed if there are errors."""
        if errors is None:
            self.result.note(status=Status.SUCCESSFUL, finished_at=task["stopped"], _return_value=task["result"])
            self.send(signals.task_finished)
            return
        kept = json.loads(errors)
        if not self.has_begun:  # its worker died
            self.result.worker_ids.append(kept[-1]["worker"])
        self.result.note(status=Status.FAILED, finished_at=task["stopped"], errors=results.errors_of(kept))
        try:  # receivers look for the exception, as Django's own does, which logs it
            raise error or RuntimeError(kept[-1]["traceback"])
        except BaseException:
            self.send(signals.task_finished)

    def send(self, signal: Signal) -> None:
        """Tell the receivers of a signal, whatever they raise, but for the task's being out of time."""
        with whatever_it_raises(f"A receiver of a signal of {self.declared.name}()", TimeoutException):
            signal.send_robust(self.backend, task_result=self.result)
