"""What a test asks of Django: a request a line on stdin, {"call": …, "with": {…}}, and an answer a line on stdout."""

import base64
import json
import os
import sys
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import django

django.setup()

import lab_tasks  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core import signing  # noqa: E402
from django.db import close_old_connections, connection  # noqa: E402
from django.utils import timezone  # noqa: E402
from django.utils.module_loading import import_string  # noqa: E402
from django_q.brokers import get_broker  # noqa: E402
from django_q.conf import Conf  # noqa: E402
from django_q.models import Schedule, Task  # noqa: E402
from django_q.signing import PickleSerializer, SignedPackage  # noqa: E402
from django_q.status import Stat  # noqa: E402
from django_q.tasks import async_chain, async_iter, async_task  # noqa: E402

SHOWN = 1000  #: characters of a result that are shown


def enqueue(func: str, calls: list[list[Any]], options: dict[str, Any]) -> list[str]:
    """Queue a task for each call, and return their ids."""
    broker = get_broker()
    return [async_task(func, *call, broker=broker, **options) for call in calls]


def enqueue_at_once(func: str, calls: list[list[Any]], options: dict[str, Any]) -> list[str]:
    """Queue a task for each call by our own function for many, and return their ids."""
    return list(import_module("worker.enqueue").enqueue_many(func, map(tuple, calls), **options))


def enqueue_or_not(func: str, calls: list[list[Any]]) -> list[str]:
    """Queue a task for each call, and return for each what went wrong, "" if nothing did."""
    broker, answers = get_broker(), []
    for call in calls:
        try:
            async_task(func, *call, broker=broker)
            answers.append("")
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
            close_old_connections()
    return answers


def enqueue_with_policy(
    func: str, calls: list[list[Any]], max_attempts: int, seconds: float = 0.0, backoff: str = ""
) -> list[str]:
    """Queue a task for each call, which waits so long for each further attempt, or as a backoff says."""
    policy = import_module("worker.policy")
    asked = import_string(backoff) if backoff else policy.exponential(first=seconds, factor=1, jitter=0)
    options = {"max_attempts": max_attempts, "backoff": asked}
    return list(import_module("worker.enqueue").enqueue_many(func, map(tuple, calls), q_options=options))


def enqueue_later(func: str, delays: dict[str, float]) -> dict[str, tuple[str, float]]:
    """Queue a task for each key, to be run after so many seconds; return their ids, and when they are due."""
    queued = {}
    for key, seconds in delays.items():
        due = timezone.now() + timedelta(seconds=seconds)
        queued[key] = async_task(func, key, q_options={"run_after": due}), due.timestamp()
    return queued


def waiting() -> dict[str, float]:
    """Return the tasks that will be tried again, and when."""
    rows = import_module("worker.models").Failure.objects.filter(next_try__isnull=False)
    return {row.task: row.next_try.timestamp() for row in rows}


def enqueue_inputs(names: list[str]) -> dict[str, str]:
    """Queue the inputs of these names, and return their ids."""
    inputs = import_module("lab_inputs").INPUTS
    # Ours refuses some of them, which may have been queued by a former version.
    queue = getattr(sys.modules.get("worker.enqueue"), "original", async_task)
    return {
        name: queue(function, name, *args, **options)
        for name, (function, args, options) in inputs.items()
        if name in names
    }


def enqueue_payloads() -> int:
    """Queue payloads that are signed and hold no task, and return how many these are."""
    payloads = import_module("lab_inputs").PAYLOADS
    for payload in payloads.values():
        get_broker().enqueue(SignedPackage.dumps(payload))
    return len(payloads)


def enqueue_with_hook(func: str, key: str, hook: str, options: dict[str, Any]) -> str:
    """Queue a task with a hook that is given as a function, and named by its key."""
    return str(async_task(func, key, task_name=key, hook=import_string(hook), **options))


def enqueue_loads(calls: dict[str, int], size: int, seconds: float = 0.0) -> list[str]:
    """Queue tasks by their keys, each with so many bytes of arguments, which return so many characters."""
    return [async_task("lab_tasks.carry", key, b"x" * load, size, seconds) for key, load in calls.items()]


def enqueue_an_argument(key: str) -> str:
    """Queue a task with an argument of a class."""
    return str(async_task("lab_tasks.take", key, lab_tasks.Argument()))


def enqueue_raw(payload: str) -> None:
    """Queue a payload as it is."""
    get_broker().enqueue(payload)


def chain(links: list[Any], options: dict[str, Any]) -> str:
    """Queue a chain of tasks, each a function and its arguments as a rule, and return its group."""
    return str(async_chain([tuple(link) if isinstance(link, list) else link for link in links], **options))


def iterate(func: str, values: list[Any], options: dict[str, Any]) -> str:
    """Queue a task for each value, and return the id of what will hold all results."""
    return str(async_iter(func, values, **options))


def result(identity: str) -> Any:
    """Return the result of a task, None if there is none."""
    row = Task.objects.filter(pk=identity).first()
    return row and row.result


def signed_with(secret: str, key: str) -> str:
    """Return the payload of a task, as signed with another SECRET_KEY."""
    payload = signed(key)
    task = SignedPackage.loads(payload)
    before, settings.SECRET_KEY = settings.SECRET_KEY, secret
    try:
        return str(signing.dumps(task, key=secret, salt=Conf.PREFIX, serializer=PickleSerializer))
    finally:
        settings.SECRET_KEY = before


def signed(key: str) -> str:
    """Return the payload of a task."""
    taken: list[str] = []

    class Taker(type(get_broker())):  # type: ignore[misc]
        def enqueue(self, task: str) -> int:
            taken.append(task)
            return 0

    async_task("lab_tasks.work", key, broker=Taker())
    return taken[0]


def rows() -> list[dict[str, Any]]:
    """Return the results, without arguments: some do harm to whoever opens them."""
    return [
        {
            "id": row.id,
            "name": row.name,
            "func": row.func,
            "hook": row.hook,
            "group": row.group,
            "success": row.success,
            "result": shown(row.result),
            "attempts": row.attempt_count,
        }
        for row in Task.objects.defer("args", "kwargs").order_by("stopped")
    ]


def shown(value: Any) -> str:
    """Return the beginning of a result as text."""
    try:
        return str(value)[:SHOWN].rstrip()
    except Exception:
        return f"a {type(value).__name__} that cannot be printed"


def outcomes(ids: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the results of inputs that have one, by their names.

    What could not be opened has a row of another id, in which the payload tells by its text which input it is.
    """
    set_aside = list(Task.objects.filter(func="worker.delivery.run_payload"))
    found = {row["id"]: row for row in rows()}
    named = {name: found[identity] for name, identity in ids.items() if identity in found}
    for row in set_aside:
        text = row.args[0].rpartition(":")[0].rpartition(":")[0].encode()
        content = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
        named |= {name: found[row.id] for name in ids if name.encode() in content}
    return named


def settled(ids: list[str]) -> list[str]:
    """Return which of these tasks have an outcome, in their order."""
    found = set(Task.objects.filter(pk__in=ids).values_list("pk", flat=True))
    return [identity for identity in ids if identity in found]


def counts() -> dict[str, int]:
    """Return the number of results by their outcome."""
    return {
        "succeeded": Task.objects.filter(success=True).count(),
        "failed": Task.objects.filter(success=False).count(),
    }


def resubmit(identity: str) -> str:
    """Do what the admin does when somebody submits a failed task again."""
    task = Task.objects.get(pk=identity)
    again = async_task(
        task.func, *task.args or (), hook=task.hook, group=task.group, cluster=task.cluster, **task.kwargs or {}
    )
    task.delete()
    return str(again)


def queued() -> int:
    """Return the number of tasks that the broker has, those that a cluster holds included."""
    broker = get_broker()
    # Amazon's library keeps what it has read, and upstream's broker does not tell it to read again.
    read_again = getattr(getattr(broker, "queue", None), "reload", lambda: None)
    read_again()
    # Waiting ones are counted before and after: none is missed that is taken or given back meanwhile.
    before, taken = broker.queue_size(), broker.lock_size() or 0
    read_again()
    return int(max(before, broker.queue_size()) + taken)


def stats() -> list[dict[str, Any]]:
    """Return what upstream's clusters report of their processes."""
    return [
        {
            "main": stat.pid,
            "sentinel": stat.sentinel,
            "pusher": stat.pusher,
            "monitor": stat.monitor,
            "workers": stat.workers,
        }
        for stat in Stat.get_all()
    ]


def is_alive() -> bool:
    """Say what the start page says of our cluster."""
    signs = import_module("worker.queue.signs").look()
    return any(sign.alive and sign.name == Conf.CLUSTER_NAME for sign in signs)


def schedule(name: str, seconds_ago: float, **fields: Any) -> float:
    """Add a schedule that was due so many seconds ago, and return that time."""
    due = timezone.now() - timedelta(seconds=seconds_ago)
    # Not create(): it would set the first time of a cron expression, and so open it.
    Schedule.objects.bulk_create([Schedule(name=name, next_run=due, **{"minutes": 1, **fields})])
    return float(due.timestamp())


def move_schedule(name: str, to: str) -> None:
    """Let a schedule be due at another time."""
    Schedule.objects.filter(name=name).update(next_run=datetime.fromisoformat(to))


def schedules() -> dict[str, dict[str, Any]]:
    """Return the schedules by name, with the time at which each is due next."""
    return {
        each.name: {"next_run": each.next_run and each.next_run.isoformat(), "repeats": each.repeats}
        for each in Schedule.objects.order_by("pk")
    }


def connections() -> int:
    """Return the number of connections to the database, this one not included."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
        return int(cursor.fetchone()[0])


def lock(table: str, mode: str) -> None:
    """Hold a table until this process ends."""
    connection.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {table} IN {mode} MODE")


def end_waiting() -> None:
    """End the sessions that wait for a lock: else the server does what was asked, even by the dead."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )


def lock_row(name: str) -> None:
    """Hold the result of a task until this process ends."""
    connection.set_autocommit(False)
    assert Task.objects.select_for_update().get(name=name)


def slow_down(table: str, seconds: int) -> None:
    """Let each statement that inserts into a table take so many seconds, 0 for no longer."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER IF EXISTS slow ON {table}")
        if seconds:
            body = f"BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END"
            cursor.execute(f"CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
            cursor.execute(f"CREATE TRIGGER slow BEFORE INSERT ON {table} EXECUTE FUNCTION slow()")


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is logged must not stand between the answers
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        close_old_connections()
        try:
            answer = {"answer": globals()[request["call"]](**request["with"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


main()
