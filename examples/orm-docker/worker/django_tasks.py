"""Django's tasks, whatever their name: until Django 6.0 they are the package django-tasks, which is the same code."""

from typing import ParamSpec, TypeVar

from django.tasks import base, checks, default_task_backend, exceptions, signals, task
from django.tasks.backends.base import BaseTaskBackend

TaskResultDoesNotExist = exceptions.TaskResultDoesNotExist
InvalidTask = exceptions.InvalidTask

# Of generic tasks: not in the module that uses them, where ruff wants what Python 3.11, with Django 5.2, does not know.
P = ParamSpec("P")
R = TypeVar("R")

# `checks` and `signals` register what checks TASKS, and logs, for the package is not in INSTALLED_APPS.
__all__ = [
    "BaseTaskBackend",
    "InvalidTask",
    "P",
    "R",
    "TaskResultDoesNotExist",
    "base",
    "checks",
    "default_task_backend",
    "exceptions",
    "signals",
    "task",
]
