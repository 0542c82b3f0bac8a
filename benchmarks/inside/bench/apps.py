"""Notes when a process begins its first task, and when each result is saved."""

import logging
import os
import struct
import time
from functools import cache
from pathlib import Path
from typing import Any

from django.apps import AppConfig

logger = logging.getLogger("django-q")


@cache
def file(name: str) -> int:
    """Open a file to add to, once in each process: what is measured is not to pay for the measuring."""
    return os.open(Path(os.environ["BENCH_FOLDER"]) / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(name: str, value: float | None = None) -> None:
    """Add the time to a file, or another number."""
    os.write(file(name), struct.pack("d", time.time() if value is None else value))


class Saved(logging.Filter):
    """Hears of each result from the line that whoever has saved it logs.

    All engines log it, and at the same point of a task's way; a receiver of `post_execute` would be a worker's work.
    """

    def __init__(self) -> None:
        """Show no more of the log than there was without it."""
        super().__init__()
        self.shown = logger.getEffectiveLevel()

    def filter(self, record: logging.LogRecord) -> bool:
        """Note the time of a result, and say whether the line is to be shown."""
        if str(record.msg).startswith("Processed"):
            note("saved")
        return record.levelno >= self.shown


class BenchConfig(AppConfig):  # type: ignore[misc]
    """The app."""

    name = "bench"
    began = False

    def ready(self) -> None:
        """Listen to workers, and to whoever saves results."""
        from django_q.signals import pre_execute

        pre_execute.connect(self.begin)
        logger.addFilter(Saved())
        logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))

    def begin(self, **options: Any) -> None:
        """Hear from a worker that a task begins."""
        if not self.began:
            self.began = True
            note("began")
