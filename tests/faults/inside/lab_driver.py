"""What a test asks of Django: a request a line on stdin, {"call": …, "with": {…}}, and an answer a line on stdout."""

import json
import os
import sys
from datetime import datetime, timedelta
from typing import Any

import django

django.setup()

import lab_tasks  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core import signing  # noqa: E402
from django.db import close_old_connections, connection  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_q.brokers import get_broker  # noqa: E402
from django_q.conf import Conf  # noqa: E402
from django_q.models import Schedule, Task  # noqa: E402
from django_q.scheduler import scheduler  # noqa: E402
from django_q.signing import PickleSerializer, SignedPackage  # noqa: E402
from django_q.status import Stat  # noqa: E402
from django_q.tasks import async_task  # noqa: E402


def enqueue(func: str, calls: list[list[Any]], options: dict[str, Any]) -> list[str]:
    """Queue a task for each call, and return their ids."""
    broker = get_broker()
    return [async_task(func, *call, broker=broker, **options) for call in calls]


def enqueue_an_argument(key: str) -> str:
    """Queue a task with an argument of a class."""
    return str(async_task("lab_tasks.take", key, lab_tasks.Argument()))


def enqueue_raw(payload: str) -> None:
    """Queue a payload as it is."""
    get_broker().enqueue(payload)


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
    """Return the results."""
    return [
        {
            "id": row.id,
            "name": row.name,
            "func": row.func,
            "success": row.success,
            "result": str(row.result),
            "attempts": row.attempt_count,
        }
        for row in Task.objects.order_by("stopped")
    ]


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
    if hasattr(broker, "queue"):  # of Amazon's library, which keeps what it has read
        broker.queue.reload()
    # Waiting ones are counted before and after: none is missed that is taken or given back meanwhile.
    before, taken = broker.queue_size(), broker.lock_size() or 0
    if hasattr(broker, "queue"):
        broker.queue.reload()
    return int(max(before, broker.queue_size()) + taken)


def stats() -> list[dict[str, Any]]:
    """Return what the clusters report of their processes."""
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


def schedule(name: str, seconds_ago: float, **fields: Any) -> float:
    """Add a schedule that was due so many seconds ago, and return that time."""
    due = timezone.now() - timedelta(seconds=seconds_ago)
    Schedule.objects.create(name=name, next_run=due, minutes=1, **fields)
    return float(due.timestamp())


def move_schedule(name: str, to: str) -> None:
    """Let a schedule be due at another time."""
    Schedule.objects.filter(name=name).update(next_run=datetime.fromisoformat(to))


def look_at_schedules(time_zone: str = "UTC") -> None:
    """Do what a cluster does every half minute, in a time zone."""
    settings.TIME_ZONE = Conf.TIME_ZONE = time_zone
    timezone.get_default_timezone.cache_clear()
    scheduler(broker=get_broker())


def schedules() -> list[dict[str, Any]]:
    """Return the schedules."""
    return [{"name": each.name, "next_run": each.next_run.isoformat()} for each in Schedule.objects.order_by("pk")]


def connections() -> int:
    """Return the number of connections to the database, this one not included."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
        return int(cursor.fetchone()[0])


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
