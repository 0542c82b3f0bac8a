"""Background tasks: ordinary functions, which a worker calls with the arguments that they were queued with.

Arguments and results are pickled: pass the primary key of a row, not the row. A task whose worker dies is run again,
so it should bear to be run twice.
"""

import time
from collections.abc import Callable
from typing import NamedTuple


class Offer(NamedTuple):
    """A task that the start page offers to run."""

    label: str
    task: Callable[[str], object]
    cluster: str | None = None  #: whose queue it goes to; None is the default cluster


def count_words(text: str) -> int:
    """Return the number of words in a text."""
    return len(text.split())


def read_slowly(text: str) -> str:
    """Read a text at five words a second, as a task of minutes would take its time."""
    words = text.split()
    time.sleep(len(words) / 5)
    return f"{len(words)} words read"


OFFERS = {
    "count": Offer("Count its words", count_words),
    "read": Offer("Read it slowly", read_slowly, cluster="slow"),
}
