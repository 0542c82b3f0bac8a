"""What comes after an attempt is saved: the next link of a chain, a result in the cache, hooks and receivers.

A worker does it, within the task's limit of time and outside of any transaction. If it dies before the hook, another
one does it again; if it dies in the hook, nobody does. So a hook is called once for each attempt, unless the whole
cluster dies before the broker has been told: then it may be called again, or not at all
for an attempt that is not the last.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from django.db import DatabaseError, OperationalError, connections
from django.db.models import Q
from django.db.models.signals import post_save
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import Task as Model
from django_q.signals import call_hook, post_execute
from django_q.signing import SignedPackage
from django_q.tasks import async_chain
from django_q.timeout import TimeoutHandler

from worker import failures, packages
from worker.delivery import Task, brief
from worker.enqueue import Collector
from worker.health import may_pass
from worker.models import Failure
from worker.packages import PART, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCKED_FOR = 5  #: seconds for which a list of cached results is locked at most, in case whoever locked it died

logger = logging.getLogger("django-q")


def after(
    task: Task, enter_user_code: Callable[[], None], texts: tuple[Any, ...], attempts: int, next_try: float | None
) -> None:
    """Do all of it for an attempt, and note when hooks come; raises if a server is away, and it is to be done again."""
    row = Row(*texts)
    task |= {
        "success": row.success,
        "result": packages.unpickled(row.result),
        "stopped": datetime.fromisoformat(row.stopped),
    }
    if is_cached(task, row):
        try:
            save_in_cache(task)
        except Exception as error:  # each cache has exceptions of its own
            if may_pass(error):
                raise
            logger.error("The result of %s cannot be cached: %s", row.name, brief(error), exc_info=True)
    if task.get("chain") and next_try is None and not is_cancelled(row):
        queue_next(task, row)
    enter_user_code()
    limit = task.get("timeout", Conf.TIMEOUT)
    with TimeoutHandler(math.ceil(limit) if isinstance(limit, int | float) and limit > 0 else -1):
        tell(task, row, attempts)


def is_cached(task: Task, row: Row) -> bool:
    """Say whether a result goes into the cache: in the table are all others, failures, and parts of iterables."""
    return bool(task.get("cached")) and row.hook != PART


def is_cancelled(row: Row) -> bool:
    """Say whether somebody has cancelled a task, which ends its chain; one that fails by itself does not."""
    kept = Failure.objects.using(packages.table().db).filter(pk=row.id, exception=failures.CANCELLED)
    return not row.success and kept.exists()


# Hooks and receivers


def tell(task: Task, row: Row, attempts: int) -> None:
    """Call the hook and django-q2's receivers, whatever they raise."""
    instance = packages.instance(row, attempts)
    instance.args, instance.kwargs, instance.result = task["args"], task["kwargs"], task["result"]
    instance._state.adding, instance._state.db = False, packages.table().db  # noqa: SLF001 (a documented part of models)
    with whatever_it_raises(f"The hook of {row.name}"), without_hooks():  # one that saves its task is not called again
        instance.hook = task.get("hook")
        if iscoroutinefunction(hook := packages.named(instance.hook)):
            instance.hook = async_to_sync(hook)
        call_hook(Model, instance)
    instance.hook = row.hook
    if not row.success or (task.get("save", Conf.SAVE_LIMIT >= 0) and not is_cached(task, row)):
        facts = {"created": attempts == 1, "raw": False, "using": packages.table().db, "update_fields": None}
        with whatever_it_raises(f"A receiver of post_save for {row.name}"), without_hooks():
            post_save.send_robust(sender=Model, instance=instance, **facts)
    with whatever_it_raises(f"A receiver of post_execute for {row.name}"):
        post_execute.send_robust(sender="django_q", task=task)


def listeners() -> bool:
    """Say whether anybody wants to know of each task once it is saved, beside django-q2, which calls hooks."""
    with without_hooks():
        return post_save.has_listeners(Model) or post_execute.has_listeners()


@contextmanager
def without_hooks() -> "Iterator[None]":
    """Let django-q2 call no hook when a row is saved, as it does for tasks that run at once (`sync`)."""
    post_save.disconnect(call_hook, sender=Model)
    try:
        yield
    finally:
        post_save.connect(call_hook, sender=Model)


@contextmanager
def whatever_it_raises(who: str, *others: type[BaseException]) -> "Iterator[None]":
    """Log what somebody raises that is no Exception, which Django's and django-q2's own calls catch and log."""
    try:
        yield
    except others:
        raise
    except BaseException as error:
        logger.error("%s has failed: %s", who, brief(error), exc_info=True)


# Chains


def queue_next(task: Task, row: Row) -> None:
    """Queue the next link of a chain; one that cannot be queued becomes a failed task that says why.

    Its id follows from this one's, so that it runs once though it may be queued twice.
    """
    identity = hashlib.blake2b(row.id.encode(), digest_size=16).hexdigest()
    collector, queued = Collector(Conf.CLUSTER_NAME), []
    try:
        link = task["chain"][0]
        async_chain(list(task["chain"]), task.get("group"), task.get("cached"), task.get("sync"), collector)
        queued += [packages.opened(payload) | {"id": identity, "once": True} for payload in collector.payloads]
        for package in queued:
            add(package)
    except Exception as error:  # of a link that is none, or whatever receivers of pre_enqueue raise
        if queued and may_pass(error):  # of the broker: no other server was asked
            raise
        reason = f"The link after {row.name} cannot be queued: {brief(error)}"
        logger.error("%s", reason)
        func, *given = link if isinstance(link, tuple) and link else (link,)
        args = given[0] if given and isinstance(given[0], tuple) else ()
        failed = packages.failed(
            "", reason, id=identity, name=f"after {row.name}", func=func, args=args, group=task.get("group")
        )
        packages.table().bulk_create([packages.instance(failed, 1)], ignore_conflicts=True)


def add(package: Task) -> None:
    """Queue a task; a role, or a path of schemas, that a task has left on this connection is none of its business."""
    arguments = SignedPackage.dumps(package), package.get("run_after")
    try:
        get_broker(package.get("cluster")).enqueue(*arguments)
    except DatabaseError:
        connections.close_all()
        get_broker(package.get("cluster")).enqueue(*arguments)


# Results in the cache


@contextmanager
def of_the_cache() -> "Iterator[None]":
    """Raise what passes, if it is the cache that is away: none of the servers that are asked otherwise."""
    try:
        yield
    except Exception as error:  # each cache has exceptions of its own
        try:
            get_broker().cache.get("")
        except Exception as silence:
            raise OperationalError(f"The cache does not answer ({brief(silence)})") from error
        raise


@of_the_cache()
def save_in_cache(task: Task) -> None:
    """Save a result where django-q2's result_cached() and its like look for it; the table counts what has failed."""
    broker: Any = get_broker()
    key, timeout = f"{broker.list_key}:{task['id']}", None if task["cached"] is True else task["cached"]
    broker.cache.set(key, SignedPackage.dumps(task), timeout)
    if group := task.get("group"):
        listed = f"{broker.list_key}:{group}:keys"
        with locked(broker.cache, listed):
            keys = broker.cache.get(listed) or []
            if key not in keys:
                broker.cache.set(listed, [*keys, key], timeout)
    if task["success"]:
        identity = packages.label("id", task["id"])
        packages.table().filter(pk=identity, success=False).delete()
        failures.delete([identity], packages.table().db)


@contextmanager
def locked(cache: Any, key: str) -> "Iterator[None]":
    """Let one worker at a time change an entry that is read, changed and written."""
    end = time.monotonic() + LOCKED_FOR
    while not cache.add(f"{key}:lock", 1, LOCKED_FOR) and time.monotonic() < end:
        time.sleep(0.01)
    try:
        yield
    finally:
        cache.delete(f"{key}:lock")


# Iterables


@of_the_cache()
def gather(group: str, number: int, cached: int | None) -> None:
    """Put the results of an iterable together, once all its parts have ended: in the order in which they were queued.

    django-q2 1.11.1 keeps the parts in the cache, which may drop them, and in a list that two clusters change at once.
    """
    rows = packages.table().filter(Q(success=True) | ~failures.is_waiting(), group=group, hook=PART)
    if rows.count() < number:  # others are still under way, or another cluster was faster
        return
    parts = list(rows.order_by("started"))
    if len(parts) < number:
        return
    broker: Any = get_broker()
    arguments = f"{broker.list_key}:{group}:args"
    signed = broker.cache.get(arguments)
    last = parts[-1]
    task = {"id": group, "name": last.name, "func": last.func, "kwargs": last.kwargs, "success": True}
    task |= {"args": SignedPackage.loads(signed) if signed else [part.args for part in parts]}
    task |= {"result": [part.result for part in parts]}
    task |= {"started": parts[0].started, "stopped": max(part.stopped for part in parts)}
    if cached is None:
        packages.table().bulk_create([packages.instance(packages.pack(task, ""), 1)], ignore_conflicts=True)
    else:
        broker.cache.set(f"{broker.list_key}:{group}", SignedPackage.dumps(task), cached or None)
    packages.table().filter(pk__in=[part.pk for part in parts]).delete()
    failures.delete([part.pk for part in parts], packages.table().db)
    broker.cache.delete(arguments)
