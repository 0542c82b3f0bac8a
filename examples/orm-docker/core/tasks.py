"""Background tasks: ordinary functions, which a worker calls with the arguments that they were queued with.

Arguments and results are pickled: pass the primary key of a row, not the row. A task whose worker dies is run again,
so it should bear to be run twice.
"""

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


OFFERS = {
    "count": Offer("Count its words", count_words),
}
