"""Hooks for tests, which the worker imports."""

from django.core.cache import cache
from django_q.models import Task


async def later(task: Task) -> None:
    """Remember the result of a task, as a coroutine."""
    await cache.aset(f"hook-{task.name}", task.result, 60)


def result(task: Task) -> None:
    """Remember the result of a task."""
    cache.set(f"hook-{task.name}", task.result, 60)
