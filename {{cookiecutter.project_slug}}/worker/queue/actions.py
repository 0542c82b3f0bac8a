"""What can be done about a queue: each action logs who has done it, and returns a sentence for that person."""

import logging

logger = logging.getLogger("worker.queue")


class RefusedError(Exception):
    """An action is not possible; its text says why, in a sentence."""


def pause(queue: str, by: str) -> str:
    """Let no cluster begin another task of a queue.

    Raises:
        RefusedError: If there is no such queue.
    """
    raise NotImplementedError


def resume(queue: str, by: str) -> str:
    """Let the clusters go on.

    Raises:
        RefusedError: If there is no such queue.
    """
    raise NotImplementedError


def purge(queue: str, by: str) -> str:
    """Remove all tasks of a queue that no cluster holds.

    Raises:
        RefusedError: If there is no such queue, or the broker does not answer.
    """
    raise NotImplementedError


def retry(by: str, *, task: str = "", function: str = "", exception: str = "", reason: str = "") -> str:
    """Queue again what has failed for good: the task of an id, those of a function or of a group, or all.

    Raises:
        RefusedError: If there is nothing of the kind, or the broker does not answer.
    """
    raise NotImplementedError


def cancel(task: str, by: str) -> str:
    """Take a task out of its queue, or end the worker that runs it, by the id of the task or of its result.

    Raises:
        RefusedError: If there is none that waits or runs.
    """
    raise NotImplementedError


def run_schedule(schedule: str | int, by: str) -> str:
    """Let a schedule be due now, by its name or its id.

    Raises:
        RefusedError: If there is none, or more than one.
    """
    raise NotImplementedError
