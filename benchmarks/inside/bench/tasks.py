"""The tasks."""

import time
from uuid import uuid4


def nothing(payload: bytes = b"") -> None:
    """Do nothing: what is left is the queue's own cost."""


def work() -> None:
    """Wait for something, as a request to another service does, and write a row."""
    from django.contrib.auth.models import Group

    time.sleep(0.005)
    Group.objects.create(name=str(uuid4()))


def wait() -> None:
    """Wait for something, and do no more."""
    time.sleep(0.1)


def note_the_time() -> None:
    """Note when the task has begun."""
    from bench.apps import note

    note("ran")
