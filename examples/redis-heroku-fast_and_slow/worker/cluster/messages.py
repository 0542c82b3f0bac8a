"""What the agent tells a worker, and what it answers.

A worker is told (what to do, ticket, payload, hand-outs, what else it must know):

    RUN       the task of a payload
    FAIL      nothing but who has failed: (the reason, whether for good)
    AFTER     what comes after an attempt is saved, as the hook: (the row, the attempts, how many there may be)
    GATHER    the results of an iterable: (its group, how many, attempts of each, seconds that it is cached for)
    SCHEDULE  a schedule that is due: (its id, why it cannot be queued, or "")
    LEAVE

To RUN and FAIL it answers (RESULT, ticket, row, why it has failed, whether to save it, how many attempts there may
be, whether there is something to do AFTER, what to GATHER or None); to the others (what it was told, ticket, None,
whether the task is done with, why it is to be told again, or "").
"""

from dataclasses import dataclass
from typing import Any

RUN, FAIL, AFTER, GATHER, SCHEDULE, LEAVE, RESULT = "run", "fail", "after", "gather", "schedule", "leave", "result"


@dataclass(slots=True)
class Held:
    """What the agent holds: a task, or something else that a worker has to do."""

    ticket: int
    does: str  #: what a worker is to do with it next
    payload: str = ""
    receipt: str = ""  #: what the broker knows a task by
    count: int = 1  #: how often the broker has handed it out
    extra: tuple[Any, ...] = ()  #: what else a worker must know
    deaths: int = 0  #: of workers that had it, but for those in its own run
    part: tuple[Any, ...] | None = None  #: what is to GATHER once all that comes after it is done
    suspect: bool = False  #: clusters died while they held it, so it is run when nothing else is

    @property
    def message(self) -> tuple[Any, ...]:
        """What a worker is told."""
        return (self.does, self.ticket, self.payload, self.count, self.extra)


def is_done(row: tuple[Any, ...], attempts: int, most: int) -> bool:
    """Say whether a task needs no further attempt."""
    return bool(row[-1]) or 0 < most <= attempts


def size_of(reply: tuple[Any, ...]) -> int:
    """Return the bytes of what is large in a worker's answer."""
    row = reply[2]
    return sum(len(text) for text in (row[4], row[5], row[6]) if text) if row else 0
