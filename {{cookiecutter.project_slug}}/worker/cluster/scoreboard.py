"""What all processes of a cluster see: numbers and names in shared memory. Each has one writer, and needs no lock.

As on the scoreboard of Apache's httpd, each worker process has a slot, which the next one in its place takes over.
"""

import math
import mmap
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

IDLE = 0.0  #: the limit of a worker that has no task
NO_LIMIT = math.inf  #: the limit of a task that may run for ever
NAME = 160  #: bytes of a task's name that are kept
KEY = 32  #: bytes of a task's id
NUMBER = 8  #: bytes of a number
THREADS = ("hands tasks out", "keeps leases", "saves results", "looks at schedules")  #: what the agent's threads do
HAND_OUT, LEASES, RESULTS, SCHEDULES = range(len(THREADS))
LATE_AFTER = 10.0  #: seconds without a move that was promised, after which somebody is told
SUPERVISOR, CANCELLED, HEAD = range(len(THREADS), len(THREADS) + 3)  #: numbers behind the beats of the threads
SUPERVISED = 3.0  #: seconds for which a beat of the supervisor counts, which comes each second
FUNC = 256  #: bytes of the path of a task's function that are kept
LISTED = 64  #: cancelled tasks whose ids are kept
LIMIT, TAKEN, SENT, USER_CODE, SINCE, ATTEMPT, ENDED, FIELDS = range(8)  #: of a worker


class RunningAttempt(NamedTuple):
    slot: int
    task: str  #: its id
    func: str
    name: str
    since: float  #: by the monotonic clock
    attempt: int


def _fixed(text: str, size: int) -> bytes:
    return text.encode(errors="replace")[:size].ljust(size, b"\0")


class Scoreboard:
    """The beats of the agent's threads, and the states of the workers, by their slots."""

    def __init__(self, slots: int) -> None:
        numbers = (HEAD + slots * FIELDS) * NUMBER
        self._slots, self._names, self._keys = slots, numbers, numbers + slots * NAME
        self._functions = self._keys + slots * KEY
        self._cancelled = self._functions + slots * FUNC
        self._memory = mmap.mmap(-1, self._cancelled + LISTED * KEY)
        self._numbers = memoryview(self._memory)[:numbers].cast("d")
        self.supervise()
        for thread in range(len(THREADS)):
            self.expect(thread, 60.0)

    # The beats: the agent's threads write, the supervisor reads

    def expect(self, thread: int, seconds: float) -> None:
        """Promise that this thread of the agent moves again within so many seconds."""
        self._numbers[thread] = time.monotonic() + seconds

    def late(self, since: float) -> Iterator[tuple[str, float]]:
        """Yield what threads do that have not moved as promised, and for how many seconds, from `since` at most."""
        now = time.monotonic()
        for thread, does in enumerate(THREADS):
            if (late := now - max(self._numbers[thread], since)) > 0:
                yield does, late

    # The supervisor's own, for the agent, which speaks for the cluster

    def supervise(self) -> None:
        """Note that the supervisor moves."""
        self._numbers[SUPERVISOR] = time.monotonic()

    def is_supervised(self) -> bool:
        return time.monotonic() - self._numbers[SUPERVISOR] < SUPERVISED

    # The cancelled tasks: the agent writes, workers read, and ask the database of those that are here

    def cancel(self, tasks: Collection[str]) -> None:
        """Note the ids of all tasks that are cancelled and may wait."""
        text = b"".join(_fixed(task, KEY) for task in [*tasks][:LISTED])
        self._memory[self._cancelled : self._cancelled + len(text)] = text
        self._numbers[CANCELLED] = len(tasks)

    def may_be_cancelled(self, task: str) -> bool:
        """Say whether a task is one of them, or one of too many."""
        number = int(self._numbers[CANCELLED])
        if not 0 < number <= LISTED:
            return number > 0
        key = _fixed(task, KEY)
        found = range(self._cancelled, self._cancelled + number * KEY, KEY)
        return any(self._memory[begin : begin + KEY] == key for begin in found)

    # The workers: each writes its own, but for what the agent has sent it, and which attempt it wants ended

    def _at(self, slot: int, field: int) -> int:
        return HEAD + slot * FIELDS + field

    def _text(self, begin: int, size: int) -> str:
        return self._memory[begin : begin + size].rstrip(b"\0").decode(errors="replace")

    def clear(self, slot: int, *fields: int) -> None:
        """Make a slot ready for another worker: the supervisor what that one writes, the agent what it sends."""
        for field in fields:
            self._numbers[self._at(slot, field)] = 0.0

    def begin(self, slot: int, limit: float) -> None:
        """Note when a worker must have ended what it does, or that it is IDLE."""
        self._numbers[self._at(slot, LIMIT)] = limit
        if limit == IDLE:  # no hook that follows is told of as the attempt before it
            self._numbers[self._at(slot, USER_CODE)] = self._numbers[self._at(slot, ATTEMPT)] = 0.0

    def call(self, slot: int, name: str) -> None:
        """Note the name of what a worker does."""
        begin = self._names + slot * NAME
        self._memory[begin : begin + NAME] = _fixed(name, NAME)

    def attempt(self, slot: int, task: str, func: str, number: int) -> None:
        """Note the id and the function of the task that a worker begins to run, and which attempt this is."""
        at, begin, place = self._at(slot, SINCE), self._keys + slot * KEY, self._functions + slot * FUNC
        self._numbers[at] = 0.0  # nobody reads what is half written
        self._memory[begin : begin + KEY] = _fixed(task, KEY)
        self._memory[place : place + FUNC] = _fixed(func, FUNC)
        self._numbers[self._at(slot, ATTEMPT)] = number
        self._numbers[at] = time.monotonic()

    def end(self, slot: int) -> None:
        self._numbers[self._at(slot, SINCE)] = 0.0

    def attempts(self) -> Iterator[RunningAttempt]:
        """Yield what workers run."""
        for slot in range(self._slots):
            since, number = self._numbers[self._at(slot, SINCE)], int(self._numbers[self._at(slot, ATTEMPT)])
            task, func = self._text(self._keys + slot * KEY, KEY), self._text(self._functions + slot * FUNC, FUNC)
            running = RunningAttempt(slot, task, func, self.name(slot), since, number)
            if since and since == self._numbers[self._at(slot, SINCE)]:
                yield running

    def keys(self, slot: int) -> dict[str, Any]:
        """Return by which keys the log finds the attempt that the worker has begun; none if it has not."""
        task, func = self._text(self._keys + slot * KEY, KEY), self._text(self._functions + slot * FUNC, FUNC)
        number = int(self._numbers[self._at(slot, ATTEMPT)])
        return {"task_id": task, "task": func, "attempt": number} if self.in_user_code(slot) and number else {}

    def end_attempt(self, running: RunningAttempt) -> None:
        """Want the worker of an attempt that goes on to be killed."""
        self._numbers[self._at(running.slot, ENDED)] = running.since

    def is_ended(self, slot: int) -> bool:
        """Say whether the worker is at the attempt that is wanted to end."""
        return self._numbers[self._at(slot, ENDED)] == self._numbers[self._at(slot, SINCE)] != 0.0

    def limit(self, slot: int) -> float:
        """Return when the worker must have ended what it does: IDLE without a task, NO_LIMIT if it need not."""
        return self._numbers[self._at(slot, LIMIT)]

    def name(self, slot: int) -> str:
        """Return the name of the task that the worker has, or had last."""
        return self._text(self._names + slot * NAME, NAME)

    def count(self, slot: int, field: int) -> None:
        """Count a message that the worker has TAKEN, or that was SENT to it, or that USER_CODE comes."""
        self._numbers[self._at(slot, field)] += 1

    def uncount(self, slot: int) -> None:
        """Note that a message was taken back."""
        self._numbers[self._at(slot, SENT)] -= 1

    def in_user_code(self, slot: int) -> bool:
        """Say whether the worker has come to the user's code, as a task or a hook, of what it was told to do."""
        return self._numbers[self._at(slot, USER_CODE)] > 0

    def taken(self, slot: int) -> int:
        return int(self._numbers[self._at(slot, TAKEN)])

    def waits(self, slot: int) -> bool:
        """Say whether a message waits for an idle worker."""
        return self.limit(slot) == IDLE and self._numbers[self._at(slot, SENT)] > self._numbers[self._at(slot, TAKEN)]
