"""Prints, as JSON, the milliseconds of a claim and other questions with so many tasks waiting and results kept."""

import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import django

RESULTS = """
INSERT INTO django_q_task (id, name, func, args, kwargs, started, stopped, success, attempt_count)
SELECT md5(number::text), 'task', 'bench.tasks.nothing', 'gAV9lC4=', 'gAV9lC4=', now(), now() - number * interval '1 s',
       number %% 50 <> 0, 1
FROM generate_series(%s, %s) AS number
"""
FAILURES = """
INSERT INTO worker_failure (task, attempts, max_attempts, next_try, exception, reason, errors)
SELECT md5(number::text), 1, 3, CASE WHEN number %% 200 = 0 THEN now() END, 'builtins.ValueError', number::text, '[]'
FROM generate_series(%s, %s) AS number WHERE number %% 50 = 0
"""


def cost(action: Callable[[], Any]) -> float:
    """Return the median of ten, after one that warms up."""
    action()
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) * 1000


def main() -> None:
    """Fill the queue and the results step by step, and look at each."""
    django.setup()
    from core.views import start
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.db import connection
    from django.test import RequestFactory
    from django.utils import timezone
    from django_q.brokers import get_broker
    from django_q.models import Success
    from django_q.models import Task as Row
    from django_q.signing import SignedPackage

    broker: Any = get_broker()
    request = RequestFactory().get("/")
    request.user = get_user_model()(is_staff=True)
    call_command("collectstatic", interactive=False, verbosity=0)  # the page names files of it
    task = {"id": "0" * 32, "name": "task", "func": "bench.tasks.nothing", "args": (), "kwargs": {}}
    payload = SignedPackage.dumps(task | {"started": timezone.now()})
    found: dict[str, list[float]] = {}
    there = 0

    bounds = [50, sys.maxsize][: len(inspect.signature(broker.claim).parameters)]  # former versions know no bytes

    def claim() -> None:
        deliveries = broker.claim(*bounds)
        broker.acknowledge_all([delivery.receipt for delivery in deliveries])

    def save() -> None:
        now, stamp = timezone.now(), time.perf_counter_ns()
        fields = {"name": "task", "func": "bench.tasks.nothing", "started": now, "stopped": now, "success": True}
        ids = [f"{stamp:x}{number:x}" for number in range(100)]
        list(Row.objects.filter(id__in=ids))
        Row.objects.bulk_create([Row(id=key, args=(), kwargs={}, attempt_count=1, **fields) for key in ids])

    for number in map(int, sys.argv[1:]):
        for begin in range(there, number, 10_000):
            broker.enqueue_all([payload] * min(10_000, number - begin))
        with connection.cursor() as cursor:
            cursor.execute(RESULTS, [there + 1, number])
            cursor.execute(FAILURES, [there + 1, number])
            cursor.execute("ANALYZE")
        there = number
        actions = {
            "claim 50 tasks and acknowledge them": claim,
            "count the waiting tasks": broker.queue_size,
            "save 100 results": save,
            "show the start page": lambda: start(request),
            "list the newest 10 results": lambda: list(Success.objects.order_by("-stopped")[:10]),
        }
        with suppress(ImportError):  # former versions have none
            from worker.queue.overview import overview

            actions["look at all queues"] = overview
        for name, action in actions.items():
            found.setdefault(name, []).append(cost(action))
    broker.purge_queue()
    print(json.dumps(found))


main()
