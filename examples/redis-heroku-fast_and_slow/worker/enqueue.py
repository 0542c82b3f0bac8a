"""What is queued: many tasks at once, for which django-q2 1.11.1 asks the broker one by one, and no wrong ones."""

import inspect
import logging
import pickle
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from typing import Any

from django_q import tasks as upstream
from django_q.brokers import get_broker
from django_q.signals import pre_enqueue

from worker import logs, traces
from worker.delivery import Leasing
from worker.django_tasks import base
from worker.policy import check, shown
from worker.processes import cluster_named, cluster_of, did_you_mean, queue_of, unknown_cluster

#: of async_task(), in its q_options or beside the arguments of the task
OPTIONS = {
    *("ack_failure", "broker", "cached", "chain", "cluster", "group", "hook", "iter_cached", "iter_count"),
    *("save", "sync", "task_name", "timeout"),
}

#: what q_options may hold beside them; the last, arguments of the task, in case one is named as an option is
POLICY = ("max_attempts", "backoff", "run_after", "kwargs")

#: of which types some of them are, and how a sentence calls these
KINDS: tuple[tuple[str, Any, str], ...] = (
    ("kwargs", Mapping | None, "dict"),
    ("chain", list | tuple | None, "list"),
    ("hook", str | Callable | None, "dotted path and no function"),
)

policy: ContextVar[dict[str, Any]] = ContextVar("policy", default={})  # noqa: B039 (nobody changes it)
collecting = ContextVar("collecting", default=False)  #: whether async_task() is asked for many tasks, one by one
#: of the task that is being queued, for django-q2's line about it
queued: ContextVar[dict[str, Any] | None] = ContextVar("queued", default=None)
logger = logging.getLogger("django-q")
logger.addFilter(lambda record: not collecting.get() and not record.__dict__.update(queued.get() or {}))


class Noting:
    """Takes the broker's place in async_task(): queues by it, perhaps for later, and keeps the receipt."""

    def __init__(self, broker: Any, after: datetime | None = None) -> None:
        self.broker, self.list_key, self.after = broker, broker.list_key, after
        self.receipt: Any = ""  #: of what was queued last

    def enqueue(self, payload: str, after: datetime | None = None) -> Any:
        self.receipt = self.broker.enqueue(payload, after or self.after)
        return self.receipt


def async_task(func: str | Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Queue a task, and return its id: django-q2's, with max_attempts, backoff and run_after in q_options.

    It takes the place of django_q.tasks.async_task, whose version 1.11.1 drops options that it does not know.

    Raises:
        TypeError, ValueError: If it could not run as it is meant, before the broker is asked.
        Exception: What the broker's client raises.
    """
    return queue_as({}, func, *args, **kwargs)


def queue_as(known: Mapping[str, Any], func: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
    """Queue a task as async_task() does, of which something is known that else is made up: its id."""
    refuse(func, kwargs)
    options = dict(kwargs.pop("q_options", None) or {})
    source = kwargs if "iter_count" in kwargs else options  # async_iter() makes one of the other
    if isinstance(func, base.Task):
        source |= {name: value for name, value in options_of(func).items() if name not in {*kwargs, *options}}
        func = str(func)
    wanted = {name: value for name in POLICY if (value := source.pop(name, None)) is not None}
    for given in (options, kwargs):
        if "cluster" in given:
            given["cluster"] = cluster_named(given["cluster"])
        if "timeout" in given and given["timeout"] is None:  # the cluster's own
            del given["timeout"]
    check({"timeout": options.get("timeout", kwargs.get("timeout")), **wanted}, travels=True)
    if after := wanted.get("run_after"):
        broker = options.pop("broker", None) or kwargs.pop("broker", None)
        broker = broker or get_broker(options.get("cluster") or kwargs.get("cluster"))
        kwargs["broker"] = Noting(broker, after)
    tokens = policy.set({**wanted, **known}), queued.set({})
    try:
        identity: str = original(func, *args, q_options=options, **kwargs)
    finally:
        policy.reset(tokens[0])
        queued.reset(tokens[1])
    return identity


def options_of(task: Any) -> dict[str, Any]:
    """Return what a task of Django's says of how it is to run, without a backoff that a worker finds at its path."""
    options = {"run_after": task.run_after, "cluster": cluster_of(task.queue_name), **getattr(task, "policy", {})}
    if options.get("backoff") is getattr(found_at(task), "backoff", None):
        options.pop("backoff", None)
    return options


def found_at(task: Any) -> Any:
    """Return what is at the path of a task."""
    return getattr(sys.modules.get(task.func.__module__), task.func.__qualname__, None)


def new_id() -> str:
    """Return an id that begins with the time in milliseconds: it says when the task was queued."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class Collector:
    """Takes the broker's place in async_task(), and keeps what would be queued."""

    def __init__(self, list_key: str) -> None:
        self.list_key = list_key
        self.payloads: list[str] = []
        self.after: datetime | None = None

    def enqueue(self, payload: str, after: datetime | None = None) -> int:
        """Keep a task, and return how many there are; they are all to be taken after the same time."""
        self.payloads.append(payload)
        self.after = after
        return len(self.payloads)


def enqueue_many(func: str | Callable[..., Any], calls: Iterable[tuple[Any, ...]], **options: Any) -> list[str]:
    """Queue a task for each tuple of arguments, in this order, and return their ids.

    Options, keyword arguments of the tasks and signals are those of async_task(), and the same for all.

    The tasks come all or none where the server can do that. Where they wait in the database, they are part of the
    transaction under way. Other servers take them at once, or in some requests, and then keep those before the one that
    they refuse; there a worker may begin before the transaction is committed:
    `transaction.on_commit(partial(enqueue_many, func, calls))`.

    Raises:
        TypeError, ValueError: If they could not run as they are meant, before the broker is asked.
        Exception: What the broker's client raises.
    """
    refuse(func, options)
    if isinstance(func, base.Task):
        options.setdefault("cluster", cluster_of(func.queue_name))
    cluster = cluster_named({**options, **(options.get("q_options") or {})}.get("cluster"))
    broker: Leasing = options.pop("broker", None) or get_broker(cluster)
    collector = Collector(broker.list_key)
    more = {name: value for name, value in options.items() if name not in {*OPTIONS, "q_options"}}
    more |= (options.get("q_options") or {}).get("kwargs") or {}
    token = collecting.set(True)
    try:
        ids = []
        for arguments in calls:
            if not isinstance(arguments, tuple | list):
                what = "takes a tuple of arguments for each task, as in [(1,), (2,)]"
                raise TypeError(f"enqueue_many() {what}; it was given {shown(arguments)}.")
            if isinstance(func, base.Task):
                refuse_call(func, arguments, more)
            ids.append(async_task(func, *arguments, broker=collector, **options))
    finally:
        collecting.reset(token)
    if collector.payloads:  # with the option `sync`, they have been run
        broker.enqueue_all(collector.payloads, collector.after)
        logger.info("Enqueued [%s] %s tasks", broker.list_key, len(collector.payloads))
    return ids


def refuse(func: Any, keywords: Mapping[str, Any]) -> None:
    """Refuse a task that nobody would run, or not as it is meant, and a chain that holds one.

    Raises:
        TypeError: If a keyword is neither an option nor the function's, or an option in q_options is none.
        ValueError: If there is no such cluster, or no worker would find the function.
    """
    more = keywords.get("q_options") or {}
    if not isinstance(more, Mapping):
        raise TypeError(f"q_options are a dict, not {more!r}.")
    known = {*OPTIONS, *POLICY}
    for key in sorted(more.keys() - known, key=str):
        raise TypeError(f"{key!r} is no option of async_task(), in q_options. {did_you_mean(str(key), known)}")
    options = {**keywords, **more}
    for name, kinds, what in KINDS:
        given = (more if name in POLICY else options).get(name)
        if not isinstance(given, kinds):
            raise TypeError(f"{name} {shown(given)} is no {what}.")
    for function in (func, options.get("hook")):
        if isinstance(function, str | base.Task):
            continue
        try:
            pickle.dumps(function)
        except Exception as error:  # whatever a class's own __reduce__ raises
            what = "which no worker finds; write a function at the top of a module"
            raise ValueError(f"async_task() cannot queue {shown(function)}, {what}.") from error
    for cluster in options.get("cluster"), getattr(options.get("broker"), "cluster", None):
        if problem := unknown_cluster(cluster_named(cluster)):
            raise ValueError(problem)
    refuse_words(func, keywords.keys() - (known if "iter_count" in keywords else OPTIONS) - {"q_options"}, OPTIONS)
    refuse_words(func, {*more.get("kwargs", ())}, set())
    for link in options.get("chain") or ():
        match link:
            case (function, _, dict(given)):
                refuse(function, given)
            case (function, *_) | function:
                refuse(function, {})


@cache  # of Django's tasks, which are functions of modules: it takes longer to find out than to queue one
def signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function, follow_wrapped=False)


def refuse_call(task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments with which the function of one of Django's tasks cannot be called."""
    refuse_words(task, {*kwargs}, set())
    context = (None,) if task.takes_context else ()
    try:
        signature(task.func).bind(*context, *args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{task.name}() cannot be called so: {error}.") from None
    except ValueError:  # of what is written in C, which does not tell
        return


def schedule(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Add a schedule, as django_q.tasks.schedule() does, which keeps no more of a task than its path."""
    if "cluster" in kwargs:
        kwargs["cluster"] = cluster_named(kwargs["cluster"])
    declared = found_at(func) if isinstance(func, base.Task) else None
    if isinstance(declared, base.Task):
        there, wanted = options_of(declared), options_of(func)
        lost = {name: wanted.get(name) for name in there | wanted if wanted.get(name) != there.get(name)}
        options = {name: lost[name] for name in ("max_attempts", "timeout") if name in lost}
        advice = [
            *([f"cluster={lost['cluster']!r}"] if "cluster" in lost else []),
            *([f"next_run={lost['run_after']!r}"] if "run_after" in lost else []),
            *([f"q_options={options}"] if options else []),
        ]
        write = f" write schedule({func.name}, …, {', '.join(advice)})" if advice else ""
        write += f"{';' * bool(write)} write its backoff in @task" if "backoff" in lost else ""
        if write:
            raise ValueError(f"A schedule keeps the path {func}, and not what using() has changed:{write}.")
    return original_schedule(func, *args, **kwargs)


def refuse_words(function: Any, words: set[str], options: set[str]) -> None:
    """Refuse keywords that are not the function's, if it can be told; they could have been these options."""
    if not words:
        return
    try:
        if isinstance(function, str):  # its module need not be here, and is not imported for this
            module, _, name = function.rpartition(".")
            function = getattr(sys.modules[module], name)
        if isinstance(function, base.Task):
            function = function.func
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
        code = getattr(function, "__code__", None)  # a decorator may have set another signature
        takes_all = code and code.co_flags & inspect.CO_VARKEYWORDS
    except Exception:  # of what is no function, or written in C; a module may have a __getattr__ of its own
        return
    if not takes_all and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        takes = {parameter.name for parameter in parameters}
        for word in sorted(words - takes):
            problem = f"{word!r} is {'no option of async_task(), and ' if options else ''}no argument of "
            hint = did_you_mean(word, {*options, "q_options"} if options else takes)
            if options and word in POLICY:
                hint = f"Write it in q_options: q_options={ {word: ...} }.".replace("Ellipsis", "…")
            raise TypeError(f"{problem}{getattr(function, '__name__', function)}(). {hint}")


def add_policy(task: dict[str, Any], **signal: Any) -> None:
    """Put what django-q2 does not know into the package of the task that is being queued."""
    task.update({"id": new_id(), **policy.get()})
    if request_id := logs.known().get("request_id"):
        task["request_id"] = request_id
    traces.inject(task)
    if (keys := queued.get()) is not None:
        path = task["func"] if isinstance(task["func"], str) else shown(task["func"])
        keys.update(task_id=task["id"], task=path, queue=queue_of(task.get("cluster")))


def run_at_once(payload: str) -> str:
    """Run a task here, for the option `sync`, and return its id."""
    from worker.cluster import functions  # which needs models

    return functions.run_at_once(payload, original_sync)


original, original_schedule, original_sync = upstream.async_task, upstream.schedule, upstream._sync  # noqa: SLF001
upstream.async_task, upstream.schedule, upstream._sync = async_task, schedule, run_at_once  # noqa: SLF001
pre_enqueue.connect(add_policy)
