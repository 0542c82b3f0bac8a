"""What django-q2 offers beside plain tasks, through the real worker."""

import json

import pytest

from tests.conftest import Site
from tests.processes import manage

QUEUE = {
    "a result and its options": """
        name = async_task("math.copysign", 2, -1, task_name="plain", group="g")
        answer = lambda: [result("plain", wait=1), count_group("g"), result_group("g")]
    """,
    "a hook": """
        async_task("math.copysign", 3, -1, task_name="hooked", hook="tests.remember.result")
        answer = lambda: cache.get("hook hooked")
    """,
    "a chain": """
        chain = async_chain([("math.copysign", (4, -1)), ("math.floor", (4.5,))])
        answer = lambda: sorted(result_group(chain) or [])
    """,
    "an iterable": """
        parts = async_iter("math.floor", [1.5, 2.5, 3.5])
        answer = lambda: sorted(result(parts) or [])
    """,
    "a cached result": """
        key = async_task("math.copysign", 5, -1, cached=60)
        answer = lambda: result(key, cached=True)
    """,
    "a success that is not saved": """
        async_task("math.copysign", 6, -1, task_name="unsaved", save=False, hook="tests.remember.result")
        async_task("math.copysign", 7, -1, task_name="after it")
        answer = lambda: [result("after it", wait=1), fetch("unsaved")]
    """,
    "a failure": """
        async_task("math.sqrt", -1, task_name="failing", ack_failure=True)
        answer = lambda: "math domain error" in (result("failing") or "")
    """,
    "a function that is not there": """
        async_task("core.tasks.gone", task_name="gone", ack_failure=True)
        answer = lambda: "Function core.tasks.gone is not defined" in (result("gone") or "")
    """,
    "a task that ends its worker": """
        async_task("os._exit", 3, task_name="deadly", ack_failure=True)
        answer = lambda: result("deadly")
    """,
    "a result that cannot be pickled": """
        async_task("threading.Lock", task_name="unpicklable", ack_failure=True)
        answer = lambda: "The result cannot be pickled" in (result("unpicklable") or "")
    """,
    "a payload that cannot be read": """
        get_broker().enqueue("nonsense")
        answer = lambda: [task.result for task in Task.objects.filter(name__startswith="unreadable")]
    """,
    "a schedule": """
        schedule("math.copysign", 8, -1, name="soon")
        answer = lambda: [task.result for task in Task.objects.filter(group="soon")]
    """,
}
ANSWER = {
    "a result and its options": [-2.0, 1, [-2.0]],
    "a hook": -3.0,
    "a chain": [-4.0, 4],
    "an iterable": [1, 2, 3],
    "a cached result": -5.0,
    "a success that is not saved": [-7.0, None],
    "a failure": True,
    "a function that is not there": True,
    "a task that ends its worker": "The worker ended with code 3 while it ran this task",
    "a result that cannot be pickled": True,
    "a payload that cannot be read": ['The task cannot be read: BadSignature: No ":" found in value'],
    "a schedule": [-8.0],
}
SCRIPT = """
import json, time
from django.core.cache import cache
from django_q.brokers import get_broker
from django_q.models import Task
from django_q.tasks import (
    async_chain, async_iter, async_task, count_group, fetch, result, result_group, schedule
)
{queue}
end = time.monotonic() + 60
while True:
    found = answer()
    found = list(found) if not isinstance(found, (list, str, int, float, type(None))) else found
    text = json.dumps(found, default=list)
    if json.loads(text) == {expected!r} or time.monotonic() > end:
        break
    time.sleep(0.1)
print(text)
"""


@pytest.mark.parametrize("feature", QUEUE)
def test_a_feature_works(site: Site, feature: str) -> None:
    lines = "\n".join(line.removeprefix(" " * 8) for line in QUEUE[feature].splitlines())
    code = SCRIPT.format(queue=lines, expected=ANSWER[feature])
    done = manage("shell", "--no-imports", "-c", code, env=site.env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ANSWER[feature]
