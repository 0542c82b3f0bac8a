"""The tasks as Django's, by the decorator that a system has for them; each notes what is to be known of it."""

import time

from django.conf import settings
from django.utils.module_loading import import_string

from bench import tasks
from bench.apps import note

task = import_string(settings.BENCH_TASK)


@task()  # type: ignore[untyped-decorator]
def nothing() -> None:
    """Do nothing."""
    note("ran")
    note("ended")


@task()  # type: ignore[untyped-decorator]
def wait() -> None:
    """Wait as for another service."""
    note("ran")
    tasks.wait()
    note("ended")


@task()  # type: ignore[untyped-decorator]
def be_due(due: float) -> None:
    """Note by how many seconds it is late."""
    note("late", time.time() - due)
