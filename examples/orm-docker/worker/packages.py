"""Packages: tasks as the queue carries them, and rows as the table keeps them.

Workers verify and open packages, and pack results; the agent writes them down. So in a cluster only workers pickle and
unpickle, and a row's texts are such as every database takes.
"""

import inspect
import pydoc
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache, partial
from typing import Any, NamedTuple

from django.conf import settings
from django.core.signing import TimestampSigner
from django.db import connection, router
from django.db.models import QuerySet
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Task as Model
from django_q.signing import PickleSerializer
from picklefield.fields import PickledObject, dbsafe_decode, wrap_conflictual_object

from worker import traces
from worker.delivery import Task, brief, run_payload

FIELDS = {field.name: field for field in Model._meta.concrete_fields}  # noqa: SLF001 (a documented part of models)
PLAIN = {type(None), bool, int, float, str, bytes}  #: what can be unpickled if it could be pickled
for _name in ("args", "kwargs", "result"):
    # django-picklefield 3.4 copies each value before it pickles it, for those who look rows up by one: nobody does.
    FIELDS[_name].copy = False
REASON = 200_000  #: characters that are kept of why a task has failed
PART = "worker.cluster.after.gather"  #: the hook of a row that is part of an iterable, until all of them are there
NEEDED = {"id", "name", "func", "args", "kwargs", "started"}  #: in each package
#: of a package, what is not an option of the task
NO_OPTIONS = {*NEEDED, "sync", "once", "cancelled", "run_after", "request_id", traces.KEY}
NO_OPTIONS |= {"result", "success", "stopped"}  # what a worker adds
MOST = 2**31 - 1  #: what an integer of a database holds


class Row(NamedTuple):
    """A row of django-q2's table of results, as texts that the database takes; times in ISO format."""

    id: str
    name: str
    func: str
    hook: str | None
    args: str | None
    kwargs: str | None
    result: str | None
    group: str | None
    cluster: str | None
    started: str
    stopped: str
    success: bool


@cache
def _signer() -> TimestampSigner:
    fallbacks: list[str | bytes] = [*settings.SECRET_KEY_FALLBACKS]
    return TimestampSigner(key=settings.SECRET_KEY, salt=Conf.PREFIX, fallback_keys=fallbacks)


def opened(payload: str) -> Task:
    """Return the task of a payload; raises a BadSignature, or whatever unpickling does."""
    task = _signer().unsign_object(payload, serializer=PickleSerializer)
    if not isinstance(task, dict) or not task.keys() >= NEEDED:
        raise ValueError("it is no package of django-q2")
    return task


# What is in one


@cache
def found(path: str) -> Any:
    """Return what a task names as its function."""
    if not path or (function := pydoc.locate(path)) is None:
        raise LookupError(path)
    return function


def named(function: Any) -> Any:
    """Return what a task names as its function, or is; None if there is nothing."""
    try:
        return found(function) if isinstance(function, str) else function
    except LookupError:
        return None


def options_of(task: Task) -> dict[str, Any]:
    """Return what a task was queued with beside its arguments, and a function that nobody finds by its label."""
    options = {name: value for name, value in task.items() if name not in NO_OPTIONS}
    return options if is_path(function_label(task["func"])) else options | {"func": task["func"]}


def most_of(task: Task) -> int:
    """Return how many attempts a task may have, 0 for no limit."""
    if task.get("ack_failure"):
        return 1
    most = task.get("max_attempts")
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        most = int(Conf.MAX_ATTEMPTS)
    return min(int(most), MOST)  # a member of an IntEnum goes through no channel


def part_of(task: Task) -> tuple[str, int, int | None] | None:
    """Return what gathers an iterable that a task is part of, None if it is not: its last is None without a cache."""
    number, cached = task.get("iter_count"), task.get("iter_cached")
    if not isinstance(number, int) or number < 1 or not task.get("group"):
        return None
    seconds = None if not cached else 0 if cached is True or not isinstance(cached, int) else int(cached)
    return label("group", task["group"]), int(number), seconds


def pickled_options(options: Mapping[str, Any]) -> str | None:
    """Return them as a text, None if they could be pickled once, and cannot again."""
    try:
        return pickled("result", dict(options))
    except BaseException:  # whatever a class's own __reduce__ raises
        return None


# Texts that a database takes


def text_of(value: Any, most: int | None = None) -> str:
    """Return a text without what databases refuse, cut to so many characters."""
    try:
        text = str(value)
    except Exception:  # whatever a class's own __str__ raises
        text = f"<{type(value).__name__}>"
    if type(text) is str and text.isascii() and "\0" not in text:
        return text[:most]
    return text.replace("\0", "�").encode(errors="replace").decode()[:most]


def label(name: str, value: Any) -> str:
    """Return a text for a column of the table."""
    return text_of(value, FIELDS[name].max_length)


def function_label(function: Any) -> str:
    """Return the dotted path of a function, or what else there is of one: the same for all of its kind."""
    if isinstance(function, str):
        return label("func", function)
    try:
        if inspect.iscoroutinefunction(wrapped := getattr(function, "__wrapped__", None)):  # as a worker calls it
            function = wrapped
        if isinstance(function, partial):
            return label("func", f"<partial {function_label(function.func)}>")
        owner = getattr(function, "__self__", None) if inspect.ismethod(function) else None
        if isinstance(owner, type):  # which may have inherited it
            return label("func", f"{owner.__module__}.{owner.__qualname__}.{function.__name__}")
        path = ".".join((function.__module__, function.__qualname__))  # of "a".upper the first is None
        return label("func", path if owner is None else f"<method {path}>")
    except Exception:  # of what has no name, or whatever its class's own code raises
        return label("func", f"<{type(function).__module__}.{type(function).__qualname__}>")


def is_path(text: str) -> bool:
    """Say whether the label of a function is a path, by which it may be found."""
    return "<" not in text


def pickled(name: str, value: Any) -> str | None:
    """Return a value as its column holds it; raises what pickling raises."""
    encoded = FIELDS[name].get_db_prep_value(wrap_conflictual_object(value), connection)
    return None if encoded is None else str(encoded)


def unpickled(text: str | None) -> Any:
    """Return a value that a column holds; raises what unpickling raises."""
    return None if text is None else FIELDS["result"].to_python(PickledObject(text))


# Rows


def table() -> "QuerySet[Any]":
    """Return the table of results, never a replica of it that lags."""
    rows: QuerySet[Any] = Model.objects.using(router.db_for_write(Model))
    return rows


def pack(task: Task, payload: str) -> Row:
    """Return the row of a task with its result; one whose result cannot be kept has failed."""
    success, result, problem = task["success"], task["result"], ""
    if not success:
        result = text_of(result, REASON)
    try:
        packed = pickled("result", result)
    except BaseException as error:  # whatever a class's own __reduce__ raises
        problem = f"The result cannot be pickled: {brief(error)}"
    else:
        try:
            if type(result) not in PLAIN and packed is not None:
                dbsafe_decode(packed)
        except BaseException as error:  # or its __setstate__
            problem = f"The result cannot be unpickled: {brief(error)}"
    if problem:
        success, packed = False, pickled("result", problem)
    func = function_label(task["func"])
    try:
        args, kwargs = pickled("args", task["args"]), pickled("kwargs", task["kwargs"])
    except BaseException:  # they could be pickled once, and cannot again
        args = kwargs = None
        if not success:  # "resubmit" must find them
            func, args, kwargs = function_label(run_payload), pickled("args", (payload,)), pickled("kwargs", {})
    return Row(
        id=label("id", task["id"]),
        name=label("name", task["name"]),
        func=func,
        hook=_optional("hook", task.get("hook"), function_label),
        args=args,
        kwargs=kwargs,
        result=packed,
        group=_optional("group", task.get("group")),
        cluster=label("cluster", Conf.CLUSTER_NAME),
        started=task["started"].isoformat(),
        stopped=task["stopped"].isoformat(),
        success=success,
    )


def _optional(name: str, value: Any, text: Callable[[Any], str] = text_of) -> str | None:
    return None if value is None else text(value)[: FIELDS[name].max_length]


def instance(row: Row, attempts: int) -> Any:
    """Return a row as django-q2's model."""
    texts = {
        name: PickledObject(text) for name in ("args", "kwargs", "result") if (text := getattr(row, name)) is not None
    }
    times = {name: datetime.fromisoformat(getattr(row, name)) for name in ("started", "stopped")}
    return Model(**row._asdict() | texts | times, attempt_count=attempts)


def failed(payload: str, reason: str, **known: Any) -> Row:
    """Return the row of a task that was never run, of which this is known."""
    now = timezone.now()
    given = {"args": (), "kwargs": {}, "started": now, "stopped": now, "success": False, "result": reason}
    return pack(given | known, payload)


def set_aside(payload: str, reason: str) -> Row:
    """Return a row that stands for a payload which cannot be opened, and runs it when the admin's "resubmit" does."""
    identity = uuid.uuid4().hex
    return failed(payload, reason, id=identity, name=f"set-aside-{identity[:8]}", func=run_payload, args=(payload,))
