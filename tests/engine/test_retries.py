"""Tasks that fail are tried again by a real worker: how often, when, and what is kept of each attempt."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from project import Site, manage
from tried import SOON

#: By name: what is queued, the attempts there are to be, whether the last succeeds, and the errors that are kept.
TASKS: dict[str, tuple[str, int, bool, list[str]]] = {
    "thrice": (
        "fail('ValueError', 'KeyError', 'OSError'), backoff=tried.soon",
        3,
        False,
        ["builtins.ValueError", "builtins.KeyError", "builtins.OSError"],
    ),
    "at last": (
        "fail('ValueError', 'KeyError'), backoff=tried.soon",
        3,
        True,
        ["builtins.ValueError", "builtins.KeyError"],
    ),
    "five times": (
        "fail(*['OSError'] * 9), backoff=exponential(first=0.5, factor=1), max_attempts=5",
        5,
        False,
        ["builtins.OSError"] * 5,
    ),
    "discarded": (
        "fail('OSError', 'KeyError'), backoff=exponential(first=1, discard_on=KeyError), max_attempts=5",
        2,
        False,
        ["builtins.OSError", "builtins.KeyError"],
    ),
    "not retried": ("fail('OSError'), backoff=exponential(retry_on='KeyError')", 1, False, ["builtins.OSError"]),
    "stopped": ("fail('OSError'), backoff=tried.stop", 1, False, ["builtins.OSError"]),
    "stopped later": (
        "fail('OSError', 'KeyError'), backoff=tried.after_two",
        2,
        False,
        ["builtins.OSError", "builtins.KeyError"],
    ),
    "killed": ("die(), backoff=tried.soon, max_attempts=2", 2, False, ["worker.policy.WorkerDied"] * 2),
    "too long": (
        "sleep(), backoff=tried.soon, max_attempts=2, timeout=1",
        2,
        False,
        ["django_q.exceptions.TimeoutException"] * 2,
    ),
    "deaf": ("be_deaf(), backoff=tried.stop, max_attempts=2, timeout=1", 1, False, ["worker.policy.WorkerDied"]),
    "not kept": ("return_a_lambda(), backoff=tried.soon, max_attempts=2", 2, False, ["builtins.TypeError"] * 2),
    "at once": ("fail('OSError'), backoff=tried.soon, ack_failure=True", 1, False, ["builtins.OSError"]),
    "not saved": ("fail('OSError'), backoff=tried.soon, save=False", 2, True, ["builtins.OSError"]),
    "succeeds": ("fail()", 1, True, []),
}
SCRIPT = """
import re, json, time, tried
from django_q.models import Task
from django_q.tasks import async_task
from worker.models import Failure
from worker.policy import exponential

def options(**given):
    return given

for name, code in {tasks!r}.items():
    function, arguments, given = re.fullmatch(r"(\\w+)\\((.*?)\\)(.*)", code).groups()
    arguments = eval(f"[{{arguments}}]")
    given = eval(f"options({{given.lstrip(', ')}})")
    async_task(f"tried.{{function}}", {folder!r}, name, *arguments, task_name=name, q_options=given)

def is_over():
    waiting = set(Failure.objects.filter(next_try__isnull=False).values_list("task", flat=True))
    return {{task.name for task in Task.objects.filter(name__in={tasks!r}) if task.pk not in waiting}}

end = time.monotonic() + 60
while is_over() < {tasks!r}.keys() and time.monotonic() < end:
    time.sleep(0.1)
print(json.dumps({{
    task.name: [task.attempt_count, task.success, failure and [failure.attempts, failure.max_attempts, failure.errors]]
    for task in Task.objects.filter(name__in={tasks!r})
    for failure in [Failure.objects.filter(pk=task.pk).first()]
}}))
"""


@pytest.fixture(scope="module")
def outcomes(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Queue all tasks at once, and return what has become of them, and where they have left their notes."""
    folder = tmp_path_factory.mktemp("tried")
    code = SCRIPT.format(tasks={name: task for name, (task, *_) in TASKS.items()}, folder=str(folder))
    done = manage("shell", "--no-imports", "-c", code, env=site.env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_its_attempts_and_each_leaves_its_error(name: str, outcomes: tuple[dict[str, Any], Path]) -> None:
    _, attempts, success, paths = TASKS[name]
    tried, succeeded, failure = outcomes[0][name]
    starts = [float(line.split()[1]) for line in (outcomes[1] / name).read_text().splitlines()]
    assert (tried, succeeded, len(starts)) == (attempts, success, attempts)
    failed, most, errors = failure or (0, 0, [])
    assert [error["exception_class_path"] for error in errors] == paths
    assert failed == len(paths)
    assert not failure or most >= tried
    for error in errors:
        assert error["exception_class_path"].rpartition(".")[2] in error["traceback"].rstrip().rpartition("\n")[2]
    if "tried.soon" in TASKS[name][0]:
        gaps = [later - earlier for earlier, later in pairwise(starts)]
        assert all(gap >= SOON for gap in gaps), gaps


def test_the_log_says_which_attempt_it_was_and_when_the_next_one_is(
    site: Site, outcomes: tuple[dict[str, Any], Path]
) -> None:
    text = (site.logs / "worker.log").read_text()
    line = r"Failed 'tried.fail' (thrice) - ValueError: no 1; attempt 1 of 3, next at "
    time = text.partition(line)[2][:8]
    assert [part.isdigit() for part in time.split(":")] == [True] * 3, text
    assert "Failed 'tried.fail' (thrice) - OSError: no 3; attempt 3 of 3, no further one" in text
    assert "Failed 'tried.fail' (discarded) - KeyError: 'no 2'; attempt 2 of 5, no further one" in text
    died = "WorkerDied: The worker died (SIGKILL) while it ran this task"
    assert f"Failed 'tried.die' (killed) - {died}; attempt 2 of 2, no further one" in text
