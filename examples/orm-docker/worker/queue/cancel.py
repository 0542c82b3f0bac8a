"""How a task is cancelled: taken out of its queue while it waits, or by an order to the cluster that holds it.

Either way it is recorded as cancelled, a worker calls its hook, and its chain ends.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator

from django.db import transaction
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.signing import SignedPackage
from picklefield.fields import PickledObject

from worker import failures, packages
from worker.announcements import ORDERS, announce
from worker.delivery import Leasing, Task
from worker.models import Cancellation, Failure
from worker.processes import clusters
from worker.queue import signs
from worker.results import ID, LONGEST, enqueued_at, opened

SOUGHT = 100_000  #: tasks among which one is looked for by its id alone
BEGINNING = re.compile(r"[0-9a-f]{8,31}")  #: of an id: its first eight characters are a minute's
NAMED = 3  #: ids that are named where some begin alike


class RefusedError(Exception):
    """An action is not possible; its text says why, in a sentence."""


def key_of(task: str, known: Callable[[str], Iterable[str]]) -> tuple[str, str | None]:
    """Return django-q2's id of a task, and what the broker knows it by, if its id says so.

    Of an id that is not whole, those are known that begin with it.
    """
    if len(task) <= LONGEST and (given := ID.fullmatch(task)):
        return given[1], given[2]
    if not BEGINNING.fullmatch(task):
        how = "write its 32 characters, as the admin shows them, or at least the first eight"
        raise RefusedError(f"{task[:LONGEST]!r} is no id of a task: {how}.")
    found = sorted(set(known(task)))
    if not found:
        raise RefusedError(f"The id of no task that is known here begins with {task}.")
    if len(found) > 1:
        some = ", ".join(found[:NAMED]) + ", …" * (len(found) > NAMED)
        raise RefusedError(f"The ids of {len(found)} tasks begin with {task}: {some}. Write more of one.")
    return found[0], None


def waiting_or_running(beginning: str) -> Iterator[str]:
    """Yield the ids that begin so of tasks that wait or run, as far as they can be told."""
    rows = packages.table().filter(failures.is_waiting(), pk__startswith=beginning, success=False)
    yield from rows.values_list("pk", flat=True)
    yield from (run.id for cluster in signs.look() for run in cluster.running if run.id.startswith(beginning))
    for broker in [get_broker(cluster) for cluster in clusters()]:
        for _, payload in broker.payloads(SOUGHT) if broker.can_peek else ():
            if (package := opened(payload)) and package["id"].startswith(beginning):
                yield package["id"]


def cancelled(key: str, receipt: str | None, by: str, patience: float) -> str:
    """Cancel a task, and return what has become of it."""
    row = packages.table().filter(pk=key).values("name", "success", "cluster", again=failures.is_waiting()).first()
    if row and row["success"]:
        raise RefusedError(f"{row['name']} has succeeded: there is nothing left to cancel.")
    if row and not row["again"]:
        raise RefusedError(f"{row['name']} has failed for good: there is nothing left to cancel.")
    is_held = False
    for cluster in clusters():
        broker: Leasing = get_broker(cluster)
        if not broker.can_peek:
            is_held = is_held or bool(row or enqueued_at(key))
            continue
        for each, payload in broker.payloads(SOUGHT) if receipt is None else [(receipt, broker.peek(receipt))]:
            if package := opened(payload, key):
                then = follow_up(package, by)
                if then is not None and broker.remove(each):
                    record(package, payload or "", by, cluster, is_new=row is None)
                    if then:
                        broker.enqueue(then)
                    return f"Cancelled {package['name']}, which was waiting."
                is_held = True
                break
    if not is_held and not is_with_a_cluster(key):
        if row is None:
            raise RefusedError(f"No task {key} waits or runs: the id is wrong, or its result is no longer kept.")
        end(key, by)  # its queue has lost it
        return f"Cancelled {row['name']}, of which its queue knew nothing."
    return order(key, row["name"] if row else key, by, patience)


def is_with_a_cluster(key: str) -> bool:
    """Say whether a cluster runs a task, or may have fetched it."""
    alive = [cluster for cluster in signs.look() if cluster.alive]
    may_be = enqueued_at(key) is not None and any(cluster.ahead for cluster in alive)
    return may_be or any(run.id == key for cluster in alive for run in cluster.running)


def order(key: str, name: str, by: str, patience: float) -> str:
    """Tell the clusters, and wait for a while until one has done it."""
    alias = packages.table().db
    Cancellation.objects.using(alias).get_or_create(pk=key, defaults={"since": timezone.now(), "by": by})
    announce(alias, ORDERS)
    ended = packages.table().filter(~failures.is_waiting(), pk=key)
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if (success := ended.values_list("success", flat=True).first()) is not None:
            return f"{name} has succeeded meanwhile." if success else f"Cancelled {name}, and ended its worker."
        time.sleep(0.1)
    return f"{name} will be cancelled: no cluster has done so yet."


def follow_up(package: Task, by: str) -> str | None:
    """Return the payload by which a worker does what comes after the task, as its hook: "" if nothing does.

    None if it cannot be packed again; then the worker has to find the task where it waits.
    """
    if not (package.get("hook") or package.get("cached") or packages.part_of(package)):
        return ""
    try:
        return str(SignedPackage.dumps({**package, "once": True, "cancelled": by}))
    except Exception:  # whatever a class's own __reduce__ raises
        return None


def record(package: Task, payload: str, by: str, cluster: str, *, is_new: bool) -> None:
    """Record a task that was taken out of its queue as one that has failed for good."""
    reason, alias = f"{failures.CANCELLED_BY}{by}", packages.table().db
    with transaction.atomic(alias):
        if not is_new and end(package["id"], by):
            return
        known = {name: value for name, value in package.items() if name in {*packages.NEEDED, "group", "hook"}}
        known |= {"hook": packages.PART} if packages.part_of(package) else {}
        row = packages.failed(payload, reason, **known)._replace(cluster=cluster)
        packages.table().bulk_create([packages.instance(row, 0)])
        error = {"exception_class_path": failures.CANCELLED, "traceback": reason, "worker": "", "started": None}
        errors = json.dumps([{**error, "stopped": row.stopped}], ensure_ascii=False)
        options = packages.pickled_options(packages.options_of(package))
        most, shown = packages.most_of(package), packages.text_of(reason, 256)
        kept = failures.Failed(row.id, 0, most, None, failures.CANCELLED, shown, errors, options)
        failures.write([kept], alias)


def end(key: str, by: str) -> int:
    """Record that a task which was to be tried again will not be."""
    reason, alias = f"{failures.CANCELLED_BY}{by}", packages.table().db
    with transaction.atomic(alias):
        changes = {"next_try": None, "exception": failures.CANCELLED, "reason": packages.text_of(reason, 256)}
        number = Failure.objects.using(alias).filter(pk=key, next_try__isnull=False).update(**changes)
        if number:
            result = PickledObject(packages.pickled("result", reason))
            packages.table().filter(pk=key, success=False).update(result=result, stopped=timezone.now())
    return number
