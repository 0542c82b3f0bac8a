"""What is known of a task by its id: a row of results once an attempt has ended, before that what the broker has."""

import hashlib
import json
import re
import time
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import ExpressionWrapper, F, OuterRef, Subquery, TextField
from django.utils import timezone
from django.utils.module_loading import import_string
from django_q.brokers import get_broker

from worker import packages
from worker.conf import setting
from worker.delivery import Leasing, Task, brief
from worker.django_tasks import TaskResultDoesNotExist, base
from worker.failures import CANCELLED, OVERDUE, moment
from worker.models import Failure
from worker.policy import shown
from worker.processes import clusters, queue_of, queues
from worker.queue.signs import running

ID = re.compile(r"([0-9a-f]{32})(?:\.([0-9a-z+-]{1,31}))?")
LONGEST = 64  #: characters of an id
COLUMNS = ("func", "cluster", "started", "stopped", "success", "attempt_count")
#: columns as the texts that they are: the field returns such a text, too, where it cannot read it
TEXTS = {f"{name}_text": ExpressionWrapper(F(name), TextField()) for name in ("args", "kwargs", "result")}
LONG_AGO = timedelta(days=3650)  #: older than this is no task's time
INSTEAD = "take str(…) or list(…) of it, or the primary key of a row"
Status = base.TaskResultStatus

running_here: "Result | None" = None  #: of the task that this process runs


class ResultNoLongerKept(TaskResultDoesNotExist):
    """There was such a task, and its result is kept no longer."""


class Result(base.TaskResult):  # type: ignore[type-arg]
    """Django's, with what there is to know of a task that has failed and will be tried again."""

    max_attempts: int | None = None  #: once it has failed: how many there may be, 0 for no limit
    next_attempt_at: datetime | None = None
    MORE = ("_return_value", "max_attempts", "next_attempt_at")  #: what its constructor does not take

    @classmethod
    def of(cls, task: Any, backend: str, key: str, status: Any, **known: Any) -> "Result":
        nothing: dict[str, Any] = dict.fromkeys(("enqueued_at", "started_at", "last_attempted_at", "finished_at"))
        lists: dict[str, Any] = {"args": [], "kwargs": {}, "errors": [], "worker_ids": []}
        more = {name: known.pop(name) for name in cls.MORE if name in known}
        return cls(task=task, id=key, status=status, backend=backend, **nothing | lists | known).note(**more)

    def note(self, **known: Any) -> "Result":
        """Note what has come to be known, and return this."""
        for name, value in known.items():
            object.__setattr__(self, name, value)
        return self

    def refresh(self) -> None:
        self._take(self.task.get_backend().get_result(self.id))

    async def arefresh(self) -> None:
        self._take(await self.task.get_backend().aget_result(self.id))

    def _take(self, newer: Any) -> None:
        self.note(**{name: getattr(newer, name) for name in {*base.TASK_REFRESH_ATTRS, *self.MORE}})


def in_words(result: Any) -> str:
    """Return what a page may say of a result."""
    why = result.errors[-1].traceback.strip().rpartition("\n")[2] if result.errors else ""
    if result.status == Status.SUCCESSFUL:
        return f"Result: {result.return_value}"
    if result.status == Status.FAILED:
        return f"Failed: {why}"
    if result.status == Status.RUNNING:
        return "Running …"
    if not result.errors:
        return "Waiting for a worker …"
    most = f" of {result.max_attempts}" if result.max_attempts else ""
    then = timezone.localtime(result.next_attempt_at).strftime("%H:%M:%S")
    return f"Attempt {result.attempts}{most} has failed, next at {then}: {why}"


# Ids


def id_of(key: str, receipt: str, path: str) -> str:
    """Return the id of a result: the row's, and what the broker knows it by, or a mark of the task if it knows none."""
    return f"{key}.{receipt or mark_of(path)}"


def mark_of(path: str) -> str:
    """Return what tells a task from others where nobody can be asked which one an id is of."""
    return hashlib.blake2b(path.encode(), digest_size=8).hexdigest()


def enqueued_at(key: str) -> datetime | None:
    """Return the time in an id, None if it has none."""
    now, found = time.time(), int(key[:12], 16) / 1000
    if not now - LONG_AGO.total_seconds() < found < now + 60:
        return None
    return moment(found)


# Tasks


def unknown(*args: Any, **kwargs: Any) -> None:
    """Stand for a function that is not known, since the broker does not tell which one it is."""
    raise LookupError("The function of this task is not known here.")


def missing(path: str) -> Any:
    """Return what stands for a function that is not there any more."""

    def function(*args: Any, **kwargs: Any) -> None:
        unknown()

    function.__module__, _, function.__qualname__ = path.rpartition(".")
    function.__name__ = function.__qualname__
    return function


def unchecked(kind: Any, **values: Any) -> Any:
    """Return a task of this class, not validated: what was queued stays what it was, whatever TASKS says by now."""
    task = object.__new__(kind)
    for each in fields(kind):
        object.__setattr__(task, each.name, values.get(each.name, each.default))
    return task


def task_of(path: str, backend: str, cluster: str | None, **options: Any) -> Any:
    """Return the task of a path, as it was queued with these options; or what stands for one that is gone."""
    try:
        found = import_string(path)
    except ImportError:
        found = unchecked(base.Task, func=missing(path), backend=backend)
    if not isinstance(found, base.Task):
        raise TaskResultDoesNotExist(f"{path} is no task; django_q.tasks.fetch() finds its result.")
    options["queue_name"] = queue if (queue := queue_of(cluster)) in queues() else None
    changes = {name: value for name, value in options.items() if value is not None}
    return unchecked(type(found), **{each.name: getattr(found, each.name) for each in fields(found)} | changes)


def strict_json_of(what: str, value: Any) -> Any:
    """Return a value as JSON knows it; a TypeError says what it does not know."""
    try:
        value = base.normalize_json(value)  # type: ignore[attr-defined]
        text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # without it, no page shows it
        return json.loads(text)  # a str or int of the project's own class would be pickled as that
    except RecursionError as error:
        raise TypeError(f"{what} is no JSON: it holds itself, or is nested too deeply") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise TypeError(f"{what} is no JSON: it holds the half character {half!r}, which has no UTF-8") from error
    except (TypeError, ValueError) as error:
        hint = f"; {INSTEAD}" if str(error).startswith("Unsupported type") else ""
        raise TypeError(f"{what} is no JSON: {error}{hint}") from error


def json_of(value: Any) -> Any:
    """Return a value as JSON knows it, or a text that shows it; async_task() takes others too."""
    try:
        return strict_json_of("It", value)
    except TypeError:
        return shown(value, most=100_000)


def read(text: str | None) -> Any:
    """Return a value of a row, or a text that says why it cannot be read."""
    try:
        return packages.unpickled(text)
    except Exception as error:  # whatever unpickling raises: a class may be there no more
        return f"<cannot be read: {brief(error)}>"


# Results


def find(backend: str, result_id: str) -> Result:
    """Return what is known of a task."""
    given = ID.fullmatch(result_id) if isinstance(result_id, str) and len(result_id) <= LONGEST else None
    if given is None:
        raise TaskResultDoesNotExist("This is no id of a result.")
    key, receipt = given.groups()
    if running_here and running_here.id.startswith(key):
        return replace(running_here, id=result_id)
    for look in (saved, waiting, saved):  # it may have ended between the first two
        if known := look(key, receipt, backend):
            return Result.of(key=result_id, backend=backend, **known)
    if enqueued_at(key) and receipt is None:  # async_task() returns such an id
        raise TaskResultDoesNotExist("Nothing is known of this task yet, or any more.")
    if enqueued_at(key):
        raise ResultNoLongerKept("The result of this task is no longer kept, or it was queued again, under another id.")
    raise TaskResultDoesNotExist("There is no task of this id.")


def saved(key: str, receipt: str | None, backend: str) -> dict[str, Any] | None:
    """Return what is saved of a task, None if nothing is: no attempt has ended, or too long ago."""
    failures = Failure.objects.filter(task=OuterRef("pk"))
    more = {name: Subquery(failures.values(name)) for name in ("errors", "exception", "max_attempts", "next_try")}
    row = packages.table().filter(pk=key).annotate(**more, **TEXTS).values(*COLUMNS, *more, *TEXTS).first()
    if row is None:
        return None
    args, kwargs, value = (read(row[name]) for name in TEXTS)
    kwargs = {"?": kwargs} if isinstance(kwargs, str) else kwargs
    errors = row["errors"] or ([] if row["success"] else [{"traceback": str(value)}])
    before = row["attempt_count"] - len(errors) - row["success"]  # of many attempts only the newest are kept
    if row["exception"] == CANCELLED != errors[-1].get("exception_class_path"):
        errors = [*errors, {"exception_class_path": CANCELLED, "traceback": str(value)}]  # between two attempts
    made = [each for each in errors if each.get("worker") or each.get("exception_class_path") != CANCELLED]
    begun = [each.get("started") for each in made]
    by = [""] * before + [each.get("worker", "") for each in made]
    if row["success"]:
        begun.append(row["started"])
        by.append(row["cluster"] or "")
    status = Status.SUCCESSFUL if row["success"] else Status.READY if row["next_try"] else Status.FAILED
    if status == Status.READY and row["next_try"] < timezone.now() - OVERDUE and is_gone(row["cluster"], receipt):
        status = Status.FAILED
    if status == Status.READY and (run := running(key)) and run.attempt > len(by):
        status = Status.RUNNING
        begun.append(run.since)
        by.append(run.worker)
    times = [datetime.fromisoformat(time) if isinstance(time, str) else time for time in begun if time]
    return {
        "task": task_of(row["func"], backend, row["cluster"]),
        "status": status,
        "args": [json_of(it) for it in ([args] if isinstance(args, str) else args or ())],
        "kwargs": {name: json_of(it) for name, it in (kwargs or {}).items()},
        "enqueued_at": enqueued_at(key) or row["started"],
        "started_at": times[0] if times else None,
        "last_attempted_at": times[-1] if times else None,
        "finished_at": row["stopped"] if status in {Status.SUCCESSFUL, Status.FAILED} else None,
        "worker_ids": by,
        "errors": errors_of(errors),
        "_return_value": json_of(value) if row["success"] else None,
        "max_attempts": row["max_attempts"],
        "next_attempt_at": row["next_try"],
    }


def is_gone(cluster: str | None, receipt: str | None) -> bool:
    """Say whether a task is in the queue no more, as far as the broker can tell."""
    broker: Leasing = get_broker(cluster)
    return bool(receipt and broker.can_peek and broker.peek(receipt) is None)


def errors_of(errors: list[dict[str, Any]]) -> list[Any]:
    """Return what is kept of attempts that have failed; of those before there was the table of failures, less."""
    unnamed = "builtins.Exception"
    return [
        base.TaskError(exception_class_path=error.get("exception_class_path", unnamed), traceback=error["traceback"])
        for error in errors
    ]


def waiting(key: str, receipt: str | None, backend: str) -> dict[str, Any] | None:
    """Return what the broker has of a task of which no attempt has ended, None if it has nothing."""
    queued, run = enqueued_at(key), running(key)
    for cluster in clusters():
        broker: Leasing = get_broker(cluster)
        if not broker.can_peek:
            if queued is None or timezone.now() - queued > timedelta(days=setting("Q_KEEP_RESULTS")):
                return None
            known: dict[str, Any] = {"task": unchecked(base.Task, func=unknown, backend=backend)}
        elif package := opened(broker.peek(receipt) if receipt else None, key):
            func, policy = packages.function_label(package["func"]), ("run_after", "max_attempts", "timeout", "backoff")
            options = {name: package.get(name) for name in policy}
            known = {"task": task_of(func, backend, package.get("cluster"), **options)}
            known["args"] = [json_of(value) for value in package["args"]]
            known["kwargs"] = {name: json_of(value) for name, value in package["kwargs"].items()}
            queued = queued or package["started"]
        elif run and receipt is None:
            known = {"task": unchecked(base.Task, func=unknown, backend=backend)}
        else:
            continue
        known |= {"status": Status.READY, "enqueued_at": queued}
        if run:
            begun = run.since
            known |= {"status": Status.RUNNING, "started_at": begun, "last_attempted_at": begun}
            known["worker_ids"] = [""] * (run.attempt - 1) + [run.worker]
        return known
    return None


def opened(payload: str | None, key: str = "") -> Task | None:
    """Return the package of a payload, if it is that of the task, or of any."""
    try:
        package = packages.opened(payload) if payload else None
    except Exception:  # whatever unpickling raises
        return None
    return package if package and key in {"", package["id"]} else None
