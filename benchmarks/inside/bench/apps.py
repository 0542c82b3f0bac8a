"""Notes when a process begins its first task, and when each result is saved and its task acknowledged."""

import os
import struct
import time
from functools import cache
from pathlib import Path
from typing import Any

from django.apps import AppConfig


@cache
def file(name: str) -> int:
    """Open a file to add to, once in each process: what is measured is not to pay for the measuring."""
    return os.open(Path(os.environ["BENCH_FOLDER"]) / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(name: str) -> None:
    """Add the time to a file."""
    os.write(file(name), struct.pack("d", time.time()))


class BenchConfig(AppConfig):  # type: ignore[misc]
    """The app."""

    name = "bench"
    began = False

    def ready(self) -> None:
        """Listen to django-q2's signals."""
        from django_q.signals import post_execute, pre_execute

        pre_execute.connect(self.begin)
        post_execute.connect(self.end)

    def begin(self, **options: Any) -> None:
        """Hear from a worker that a task begins."""
        if not self.began:
            self.began = True
            note("began")

    def end(self, **options: Any) -> None:
        """Hear from a monitor that a task is done."""
        note("saved")
