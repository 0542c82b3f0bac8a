"""What django-q2 offers beside plain tasks, through the real worker."""

import json

import pytest
from project import Site, manage

QUEUE = {
    "a result and its options": """
        name = async_task("math.copysign", 2, -1, task_name="plain", group="g")
        answer = lambda: [result("plain", wait=1), count_group("g"), result_group("g")]
    """,
    "a hook": """
        async_task("math.copysign", 3, -1, task_name="hooked", hook="remember.result")
        answer = lambda: cache.get("hook-hooked")
    """,
    "a hook that is a coroutine": """
        async_task("math.copysign", 13, -1, task_name="hooked-later", hook="remember.later")
        answer = lambda: cache.get("hook-hooked-later")
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
    "a failure with a cached result": """
        failing = async_task("math.sqrt", -3, cached=60, ack_failure=True)
        answer = lambda: "math domain error" in (result(failing, cached=True) or "")
    """,
    "a cached group": """
        for number in (9, "x"):
            async_task("math.floor", number, group="cached", cached=60, ack_failure=True)
        answer = lambda: [
            count_group("cached", cached=True), count_group("cached", cached=True, failures=True),
            result_group("cached", cached=True), count_group("cached"),
        ]
    """,
    "a cached iterable": """
        parts = Iter("math.floor", [6.5, 7.5], cached=60)
        parts.run()
        answer = lambda: sorted(parts.result() or [])
    """,
    "a chain of which a task fails": """
        chain = Chain(group="broken")
        chain.append("math.floor", 5.5)
        chain.append("math.sqrt", -1, ack_failure=True)
        chain.append("math.floor", 6.5)
        chain.run()
        answer = lambda: [sorted(result_group("broken") or []), count_group("broken", failures=True)]
    """,
    "a task of the class": """
        task = AsyncTask("math.fsum", [1, 2])
        task.group = "class"
        task.run()
        answer = lambda: [task.result(), [other.result for other in task.fetch_group() or []]]
    """,
    "a task that runs at once": """
        answer = lambda: result(async_task("math.copysign", 11, -1, sync=True))
    """,
    "a hook that is not there": """
        async_task("math.copysign", 12, -1, task_name="hookless", hook="core.tasks.gone")
        answer = lambda: [result("hookless"), result(async_task("math.floor", 12.5), wait=5000)]
    """,
    "a model and a function as arguments": """
        async_task(str, Group(name="of nobody"), task_name="objects")
        answer = lambda: result("objects")
    """,
    "a task submitted again by an admin": """
        from django.contrib.auth import get_user_model
        from django.test import Client
        from django_q.models import Failure
        admin = get_user_model().objects.create_superuser("admin")
        client = Client(headers={"host": "localhost"})
        client.force_login(admin)
        async_task("math.sqrt", -2, task_name="again", ack_failure=True)
        while not (failure := Failure.objects.filter(name="again").first()):
            time.sleep(0.1)
        Failure.objects.filter(name="again").update(args=(4,))
        client.post(reverse("admin:django_q_failure_changelist"), {
            "action": "resubmit_task", "_selected_action": [failure.pk],
        })
        answer = lambda: [[task.result for task in Task.objects.filter(func="math.sqrt", success=True)],
                          Failure.objects.filter(name="again").count()]
    """,
    "a success that is not saved": """
        async_task("math.copysign", 6, -1, task_name="unsaved", save=False, hook="remember.result")
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
    "a task that kills its worker": """
        async_task("signal.raise_signal", 9, task_name="fatal", ack_failure=True)
        answer = lambda: result("fatal")
    """,
    "a task that hears of its time limit": """
        async_task("time.sleep", 30, task_name="slow", timeout=1, ack_failure=True)
        answer = lambda: "Task exceeded maximum timeout value (1 seconds)" in (result("slow") or "")
    """,
    "a task that is deaf to its time limit": """
        async_task("os.system", "sleep 30", task_name="deaf", timeout=1, ack_failure=True)
        answer = lambda: result("deaf")
    """,
    "a result that cannot be pickled": """
        async_task("threading.Lock", task_name="unpicklable", ack_failure=True)
        answer = lambda: "The result cannot be pickled" in (result("unpicklable") or "")
    """,
    "a payload that cannot be read": """
        get_broker().enqueue("nonsense")
        answer = lambda: [task.result for task in Task.objects.filter(func="worker.delivery.run_payload")]
    """,
    "a schedule": """
        schedule("core.tasks.count_words", "one two three", name="soon")
        answer = lambda: [task.result for task in Task.objects.filter(group="soon")]
    """,
}
ANSWER = {
    "a result and its options": [-2.0, 1, [-2.0]],
    "a hook": -3.0,
    "a hook that is a coroutine": -13.0,
    "a chain": [-4.0, 4],
    "an iterable": [1, 2, 3],
    "a cached result": -5.0,
    "a failure with a cached result": True,
    "a cached group": [2, 1, [9], 1],
    "a cached iterable": [6, 7],
    "a chain of which a task fails": [[5, 6], 1],
    "a task of the class": [3.0, [3.0]],
    "a task that runs at once": -11.0,
    "a hook that is not there": [-12.0, 12],
    "a model and a function as arguments": "of nobody",
    "a task submitted again by an admin": [[2.0], 0],
    "a success that is not saved": [-7.0, None],
    "a failure": True,
    "a function that is not there": True,
    "a task that ends its worker": "The worker ended with code 3 while it ran this task",
    "a task that kills its worker": "The worker died (SIGKILL) while it ran this task",
    "a task that hears of its time limit": True,
    "a task that is deaf to its time limit": "Task exceeded maximum timeout value, and its worker was killed",
    "a result that cannot be pickled": True,
    "a payload that cannot be read": ['The task cannot be read: BadSignature: No ":" found in value'],
    "a schedule": [3],
}
SCRIPT = """
import json, time
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.urls import reverse
from django_q.brokers import get_broker
from django_q.models import Task
from django_q.tasks import (
    AsyncTask, Chain, Iter, async_chain, async_iter, async_task, count_group, fetch, result, result_group, schedule
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
