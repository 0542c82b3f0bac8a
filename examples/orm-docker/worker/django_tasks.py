"""Django's tasks, whatever their name: until Django 6.0 they are the package django-tasks, which is the same code."""

from django.tasks import base, checks, default_task_backend, exceptions, signals, task
from django.tasks.backends.base import BaseTaskBackend

TaskResultDoesNotExist = exceptions.TaskResultDoesNotExist
InvalidTask = exceptions.InvalidTask

# `checks` and `signals` register what checks TASKS, and logs, for the package is not in INSTALLED_APPS.
__all__ = [
    "BaseTaskBackend",
    "InvalidTask",
    "TaskResultDoesNotExist",
    "base",
    "checks",
    "default_task_backend",
    "exceptions",
    "signals",
    "task",
]
