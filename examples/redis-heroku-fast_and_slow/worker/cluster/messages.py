"""What the agent tells a worker, and what it answers.

A worker is told (what to do, ticket, payload, hand-outs, whether something may be saved of it, its receipt when it was
queued, what else it must know):

    RUN       the task of a payload
    FAIL      nothing but who has failed: (the reason, whether for good, the worker's id, whether its backoff is asked,
              when the attempt began or None)
    AFTER     what comes after an attempt is saved, as the hook: (the row, the attempts, when the next one is)
    GATHER    the results of an iterable: (its group, how many, seconds that it is cached for)
    SCHEDULE  a schedule that is due: (its id, what a worker died of that had it, or "", whether to try again)
    LEAVE

To RUN and FAIL it answers (RESULT, ticket, and what Result says), or (WAIT, ticket, None, when the next attempt is) if
that is not due yet; to the others (what it was told, ticket, None, why it is to be told again, or "").
"""

from dataclasses import dataclass
from functools import cache
from socket import gethostname
from time import time
from typing import Any, NamedTuple

from worker.delivery import signed_at
from worker.failures import CANCELLED, Failed
from worker.packages import Row

RUN, FAIL, AFTER, GATHER, SCHEDULE, LEAVE = "run", "fail", "after", "gather", "schedule", "leave"
RESULT, WAIT = "result", "wait"


@dataclass(slots=True)
class Held:
    """What the agent holds: a task, or something else that a worker has to do."""

    ticket: int
    does: str  #: what a worker is to do with it next
    payload: str = ""
    receipt: str = ""  #: what the broker knows a task by
    queued_as: str = ""  #: what it called the task when that was queued
    claimed: float = 0.0  #: when
    count: int = 1  #: how often the broker has handed it out
    again: bool = False  #: whether something may be saved of it
    due: bool = False  #: whether that, or it was delayed: it comes before what waits
    extra: tuple[Any, ...] = ()  #: what else a worker must know
    deaths: int = 0  #: of workers that had it, but for those in its own run
    tries: int = 0  #: that failed for want of a server
    part: tuple[Any, ...] | None = None  #: what is to GATHER once all that comes after it is done
    suspect: bool = False  #: clusters died while they held it, so it is run when nothing else is
    next_try: float | None = None  #: when its next attempt is, once one has failed

    @property
    def turn(self) -> tuple[bool, int]:
        """When it is handed out, among others of its kind."""
        return (not self.due, self.ticket)

    @property
    def may_begin(self) -> float:
        """Since when it might have begun, about: of what was delayed, the payload does not say."""
        return self.claimed if self.due else signed_at(self.payload) or self.claimed

    @property
    def message(self) -> tuple[Any, ...]:
        """What a worker is told."""
        return (self.does, self.ticket, self.payload, self.count, self.again, self.queued_as, self.extra)

    @property
    def delay(self) -> float:
        """The seconds from now after which it may be handed out again."""
        return max(0.0, self.next_try - time()) if self.next_try else 0.0


class Result(NamedTuple):
    """What a worker answers of an attempt; plain tuples, for marshal takes no others."""

    row: tuple[Any, ...]
    reason: str = ""  #: why it has failed
    save: bool = True
    next_try: float | None = None
    follows: bool = False  #: whether there is something to do AFTER
    part: tuple[Any, ...] | None = None  #: what to GATHER
    failure: tuple[Any, ...] | None = None  #: what is kept of one
    times: tuple[float | None, float | None] | None = None  #: that it waited, and ran; None if it had ended before
    keys: dict[str, Any] = {}  #: of the line about it

    def message(self, ticket: int) -> tuple[Any, ...]:
        """Return this as the agent takes it."""
        return RESULT, ticket, *self


class Outcome:
    """What has become of an attempt: the result of what was held."""

    def __init__(self, held: Held, result: Result) -> None:
        row, self.reason, self.save, self.next_try, self.follows, self.part, failure, times, self.keys = result
        self.held, self.row, self.failure = held, Row(*row), Failed(*failure) if failure else None
        self.counts = times is not None  #: whether it has not ended before
        self.waited, self.ran = times or (None, None)
        self.attempts = 1

    @property
    def is_cancelled(self) -> bool:
        """Whether the task has ended since somebody has cancelled it."""
        return bool(self.failure and self.failure.exception == CANCELLED)


def receipts(tasks: list[Held]) -> list[str]:
    """Return what the broker knows tasks by."""
    return [held.receipt for held in tasks if held.receipt]


def delays(tasks: list[Held]) -> dict[str, float]:
    """Return in how many seconds from now tasks are to be handed out again, by what the broker knows them by."""
    return {held.receipt: held.delay for held in tasks if held.receipt}


@cache
def worker_id(pid: int) -> str:
    """Return what a worker is called in what is kept of a failure."""
    return f"{gethostname()}:{pid}"


def size_of(reply: tuple[Any, ...]) -> int:
    """Return the bytes of what is large in a worker's answer."""
    row = reply[2]
    if not row:
        return 0
    large = (row[4], row[5], row[6], *(reply[8][6:] if reply[8] else ()))
    return sum(len(text) for text in large if text)
