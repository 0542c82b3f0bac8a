"""Background tasks: functions that a worker calls with the arguments that they were queued with, by `.enqueue()`.

Arguments and results are JSON: pass the primary key of a row, not the row. A task that fails, or whose worker dies, is
run again, so it should bear to be run twice.
"""

from typing import Any, NamedTuple

from django.core.management import call_command

from worker.retention import prune
from worker.schedules import schedule
from worker.tasks import Task, task


class Offer(NamedTuple):
    """A task that the start page offers to run."""

    label: str
    task: Task[[str], Any]


@task
def count_words(text: str) -> int:
    """Return the number of words in a text."""
    return len(text.split())


@schedule(daily_at="03:00", timeout=600)
@task
def tidy() -> None:
    """Delete expired sessions, and results that are older than Q_KEEP_RESULTS and Q_KEEP_FAILURES say."""
    call_command("clearsessions")
    prune()


OFFERS = {
    "count": Offer("Count its words", count_words),
}
