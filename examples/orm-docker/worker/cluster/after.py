"""What comes after an attempt is saved: the next link of a chain, a result in the cache, hooks and receivers.

A worker does it, within the task's limit of time and outside of any transaction. If it dies before the hook another
one does it again, so all of that is such as may be done twice; a hook is called once for each attempt.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db.models.signals import post_save
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import Task as Model
from django_q.signals import call_hook, post_execute
from django_q.signing import SignedPackage
from django_q.tasks import async_chain
from django_q.timeout import TimeoutHandler

from worker.cluster import packages
from worker.cluster.packages import PART, Row
from worker.delivery import Task, brief
from worker.enqueue import Collector
from worker.health import silent_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

REMEMBER = 24 * 60 * 60  #: seconds for which the attempts of a task with a cached result are counted
LOCKED_FOR = 5  #: seconds for which a list of cached results is locked at most, in case whoever locked it died

logger = logging.getLogger("django-q")


def after(task: Task, limit: int, note: Callable[[], None], texts: tuple[Any, ...], attempts: int, most: int) -> bool:
    """Do all of it for an attempt, note when hooks come, and return whether the task is done with.

    Raises:
        Exception: If it is to be done again, for a server is away.
    """
    row = Row(*texts)
    task |= {"success": row.success, "result": packages.unpickled(row.result), "stopped": packages.moment(row.stopped)}
    if task.get("cached"):
        attempts = (
            unless_refused(f"save the result of {row.name} in the cache", lambda: save_in_cache(task)) or attempts
        )
    done = row.success or 0 < most <= attempts
    if done and task.get("chain"):
        queue_next(task, row)
    note()
    with TimeoutHandler(limit):
        tell(task, row, attempts)
    return done


def unless_refused(what: str, action: Callable[[], Any]) -> Any:
    """Do something; if it fails though no server is away, log that and go on.

    Raises:
        Exception: If a server is away.
    """
    try:
        return action()
    except Exception as error:  # each cache and broker has exceptions of its own
        if silent_servers():
            raise
        logger.error("Could not %s: %s", what, brief(error), exc_info=True)
        return None


# Hooks and receivers


def tell(task: Task, row: Row, attempts: int) -> None:
    """Call the hook and django-q2's receivers, whatever they raise."""
    instance = packages.instance(row, attempts)
    instance.args, instance.kwargs, instance.result = task["args"], task["kwargs"], task["result"]
    instance._state.adding, instance._state.db = False, packages.table().db  # noqa: SLF001 (a documented part of models)
    instance.hook = task.get("hook")
    with whatever_it_raises(f"The hook of {row.name}"):
        call_hook(Model, instance)
    instance.hook = row.hook
    if not task.get("cached") and (not row.success or task.get("save", Conf.SAVE_LIMIT >= 0)):
        facts = {"created": attempts == 1, "raw": False, "using": packages.table().db, "update_fields": None}
        with whatever_it_raises(f"A receiver of post_save for {row.name}"):
            post_save.send_robust(sender=Model, instance=instance, **facts)
    with whatever_it_raises(f"A receiver of post_execute for {row.name}"):
        post_execute.send_robust(sender="django_q", task=task)


@contextmanager
def whatever_it_raises(who: str) -> "Iterator[None]":
    """Log what somebody raises that is no Exception, which Django's and django-q2's own calls catch and log."""
    try:
        yield
    except BaseException as error:
        logger.error("%s has failed: %s", who, brief(error), exc_info=True)


# Chains


def queue_next(task: Task, row: Row) -> None:
    """Queue the next link of a chain; one that cannot be queued becomes a failed task that says why.

    Its id follows from this one's, so that it runs once though it may be queued twice.
    """
    identity = hashlib.blake2b(row.id.encode(), digest_size=16).hexdigest()
    collector = Collector(Conf.CLUSTER_NAME)
    try:
        link = task["chain"][0]
        async_chain(list(task["chain"]), task.get("group"), task.get("cached"), task.get("sync"), collector)
        queued = [packages.opened(payload) | {"id": identity, "once": True} for payload in collector.payloads]
        for package in queued:
            get_broker(package.get("cluster")).enqueue(SignedPackage.dumps(package))
    except Exception as error:  # of a link that is none, or whatever receivers of pre_enqueue raise
        if silent_servers():
            raise
        reason = f"The link after {row.name} cannot be queued: {brief(error)}"
        logger.error("%s", reason)
        now, func = timezone.now(), link[0] if isinstance(link, tuple) and link else link
        failed = {"id": identity, "name": f"after {row.name}", "func": func, "args": (), "kwargs": {}, "success": False}
        failed |= {"group": task.get("group"), "started": now, "stopped": now, "result": reason}
        packages.table().bulk_create([packages.instance(packages.pack(failed, ""), 1)], ignore_conflicts=True)


# Results in the cache


def save_in_cache(task: Task) -> int:
    """Save a result where django-q2's result_cached() and its like look for it, and return the attempts."""
    broker: Any = get_broker()
    key, timeout = f"{broker.list_key}:{task['id']}", None if task["cached"] is True else task["cached"]
    broker.cache.set(key, SignedPackage.dumps(task), timeout)
    if group := task.get("group"):
        listed = f"{broker.list_key}:{group}:keys"
        with locked(broker.cache, listed):
            keys = broker.cache.get(listed) or []
            if key not in keys:
                broker.cache.set(listed, [*keys, key], timeout)
    if task["success"] or broker.cache.add(f"{key}:attempts", 1, REMEMBER):
        return 1
    attempts: int = broker.cache.incr(f"{key}:attempts")
    return attempts


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


def gather(group: str, number: int, most: int, cached: int | None) -> None:
    """Put the results of an iterable together, once all its parts have ended: in the order in which they were queued.

    django-q2 1.11.1 keeps the parts in the cache, which may drop them, and in a list that two clusters change at once.
    """
    rows = packages.table().filter(group=group, hook=PART).order_by("started")
    parts = [part for part in rows if part.success or 0 < most <= part.attempt_count]
    if len(parts) < number:  # another cluster was faster
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
    broker.cache.delete(arguments)
