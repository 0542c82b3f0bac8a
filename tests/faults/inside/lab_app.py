"""What a test changes of the cluster that is no setting: LAB_AHEAD, LAB_RECEIVERS, and the default backoff."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.apps import AppConfig


class Lab(AppConfig):  # type: ignore[misc]
    """Lets a task that fails wait for two seconds, and a cluster fetch LAB_AHEAD tasks for each worker ahead.

    Connects LAB_RECEIVERS: functions of this module, each with the signal before a colon.
    """

    name = "lab_app"

    def ready(self) -> None:
        """Change it."""
        from worker import policy

        policy.DEFAULT = policy.exponential(first=2, factor=1)
        if ahead := os.environ.get("LAB_AHEAD"):
            from worker.cluster import leases

            leases.LEAST_AHEAD = int(ahead)
        if "FAKETIME" in os.environ:
            # libfaketime 0.9 lets the call fail that time.sleep() makes since Python 3.11.
            setattr(time, "sleep", lambda seconds: threading.Event().wait(seconds))  # noqa: B010
        for pair in os.environ.get("LAB_RECEIVERS", "").split():
            name, _, function = pair.partition(":")
            receiver: Callable[..., None] = globals()[function]
            if name == "post_save":
                from django.db.models.signals import post_save
                from django_q.models import Task

                post_save.connect(receiver, sender=Task)
            else:
                from django_q import signals

                getattr(signals, name).connect(receiver)


def name_of(options: dict[str, Any]) -> str:
    """Return the name of the task that a signal is about: a row's, or that in a package."""
    return str(options["instance"].name if "instance" in options else options["task"]["name"])


def take_a_while(sender: Any, **options: Any) -> None:
    """Be slow."""
    time.sleep(0.1)


def refuse(sender: Any, **options: Any) -> None:
    """Raise for one task."""
    if name_of(options) == "refused":
        raise ValueError("this receiver refuses the task")


def never_end(sender: Any, **options: Any) -> None:
    """Sleep for ever for one task."""
    if name_of(options) == "refused":
        time.sleep(10**6)


def leave(sender: Any, **options: Any) -> None:
    """End the process for one task."""
    if name_of(options) == "refused":
        os._exit(1)


def leave_at_once(sender: Any, **options: Any) -> None:
    """End the process, with the code LAB_CODE."""
    os._exit(int(os.environ["LAB_CODE"]))


def be_killed(sender: Any, **options: Any) -> None:
    """Be killed by the system twice for the schedule "unlucky", and each time for "guilty"."""
    from lab_tasks import note

    group, ledger = options["task"].get("group"), Path(os.environ["LAB_LEDGER"])
    if group == "guilty" or (group == "unlucky" and ledger.read_text().count("killed unlucky") < 2):
        note("killed", group)
        os.kill(os.getpid(), signal.SIGKILL)


def take_note(sender: Any, **options: Any) -> None:
    """Note that the signal came, and whether a transaction was under way."""
    from django.db import connection
    from lab_tasks import note

    note("signal", f"{name_of(options)}:{connection.in_atomic_block}")
