"""Lines of the log about tasks, and the keys by which they are found."""

import logging
from datetime import UTC, datetime
from functools import cache
from typing import Any

from django_q.conf import Conf

from worker import failures, packages
from worker.cluster.messages import Outcome
from worker.delivery import Task
from worker.processes import queue_of

logger = logging.getLogger("django-q")


@cache
def queue() -> str:
    """Return the queue that this cluster serves."""
    return queue_of(Conf.CLUSTER_NAME)


def keys_of(task: Task, attempt: int = 0) -> dict[str, Any]:
    """Return what is known of a task, and of the attempt if that is: plain values, which channels carry."""
    keys: dict[str, Any] = {"task_id": packages.label("id", task["id"]), "task": packages.function_label(task["func"])}
    keys["queue"] = queue()
    if attempt:
        keys |= {"attempt": attempt, "of": packages.most_of(task) or None}
    if "request_id" in task:
        keys["request_id"] = packages.text_of(task["request_id"], 64)
    return keys


def tell(outcome: Outcome) -> None:
    """Write what has become of an attempt."""
    row, failure = outcome.row, outcome.failure
    keys: dict[str, Any] = {"task_id": row.id, "task": row.func, "queue": queue()} | outcome.keys
    for key, seconds in {"wait": outcome.waited, "duration": outcome.ran}.items():
        if seconds is not None:
            keys[key] = round(seconds, 6)
    if row.success:
        logger.info("Processed '%s' (%s)", row.func, row.name, extra=keys)
        return
    reason, _, details = outcome.reason.partition("\n")
    if failure:
        reason += f"; {failures.stage(failure.attempts, failure.max_attempts, failure.next_try)}"
    if outcome.next_try:
        keys["next_try"] = datetime.fromtimestamp(outcome.next_try, UTC).isoformat(timespec="milliseconds")
    if details:
        keys["traceback"] = details
    logger.error("Failed '%s' (%s) - %s", row.func, row.name, reason, extra=keys)
