"""What all processes of a cluster see: numbers and names in shared memory. Each has one writer, and needs no lock."""

import math
import mmap
import time
from collections.abc import Iterator

IDLE = 0.0  #: the limit of a worker that has no task
NO_LIMIT = math.inf  #: the limit of a task that may run for ever
NAME = 160  #: bytes of a task's name that are kept
KEY = 32  #: bytes of a task's id
NUMBER = 8  #: bytes of a number
THREADS = ("hands tasks out", "keeps leases", "saves results", "looks at schedules")  #: what the agent's threads do
HAND_OUT, LEASES, RESULTS, SCHEDULES = range(len(THREADS))
LIMIT, TAKEN, SENT, TELLS, SINCE, ATTEMPT, FIELDS = range(7)  #: of a worker


class Board:
    """The beats of the agent's threads, and the states of the workers, by their seats."""

    def __init__(self, seats: int) -> None:
        """Begin with idle workers; each thread is expected to move within a minute."""
        numbers = (len(THREADS) + seats * FIELDS) * NUMBER
        self._memory = mmap.mmap(-1, numbers + seats * (NAME + KEY))
        self._numbers = memoryview(self._memory)[:numbers].cast("d")
        self._seats, self._names, self._keys = seats, numbers, numbers + seats * NAME
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

    # The workers: each writes its own, but for what the agent has sent it

    def _at(self, seat: int, field: int) -> int:
        return len(THREADS) + seat * FIELDS + field

    def clear(self, seat: int, *fields: int) -> None:
        """Make a seat ready for another worker: the supervisor what that one writes, the agent what it sends."""
        for field in fields:
            self._numbers[self._at(seat, field)] = 0.0

    def begin(self, seat: int, limit: float) -> None:
        """Note when a worker must have ended what it does, or that it is IDLE."""
        self._numbers[self._at(seat, LIMIT)] = limit
        if limit == IDLE:
            self._numbers[self._at(seat, TELLS)] = 0.0

    def call(self, seat: int, name: str) -> None:
        """Note the name of what a worker does."""
        begin = self._names + seat * NAME
        self._memory[begin : begin + NAME] = name.encode(errors="replace")[:NAME].ljust(NAME, b"\0")

    def attempt(self, seat: int, task: str, number: int) -> None:
        """Note the id of the task that a worker begins to run, and which attempt this is."""
        at, begin = self._at(seat, SINCE), self._keys + seat * KEY
        self._numbers[at] = 0.0  # nobody reads what is half written
        self._memory[begin : begin + KEY] = task.encode(errors="replace")[:KEY].ljust(KEY, b"\0")
        self._numbers[self._at(seat, ATTEMPT)] = number
        self._numbers[at] = time.monotonic()

    def end(self, seat: int) -> None:
        """Note that an attempt has ended."""
        self._numbers[self._at(seat, SINCE)] = 0.0

    def attempts(self) -> Iterator[tuple[int, str, float, int]]:
        """Yield the seats of workers that run tasks, with the task's id, since when, and which attempt it is."""
        for seat in range(self._seats):
            since, begin = self._numbers[self._at(seat, SINCE)], self._keys + seat * KEY
            task = self._memory[begin : begin + KEY].rstrip(b"\0").decode(errors="replace")
            attempt = int(self._numbers[self._at(seat, ATTEMPT)])
            if since and since == self._numbers[self._at(seat, SINCE)]:
                yield seat, task, since, attempt

    def limit(self, seat: int) -> float:
        """Return when the worker must have ended what it does: IDLE without a task, NO_LIMIT if it need not."""
        return self._numbers[self._at(seat, LIMIT)]

    def name(self, seat: int) -> str:
        """Return the name of the task that the worker has, or had last."""
        begin = self._names + seat * NAME
        return self._memory[begin : begin + NAME].rstrip(b"\0").decode(errors="replace")

    def count(self, seat: int, field: int) -> None:
        """Count a message that the worker has TAKEN, or that was SENT to it, or that a user's code comes (TELLS)."""
        self._numbers[self._at(seat, field)] += 1

    def uncount(self, seat: int) -> None:
        """Note that a message was taken back."""
        self._numbers[self._at(seat, SENT)] -= 1

    def tells(self, seat: int) -> bool:
        """Say whether the worker has come to the user's code, as a task or a hook, of what it was told to do."""
        return self._numbers[self._at(seat, TELLS)] > 0

    def taken(self, seat: int) -> int:
        """Return how many messages the worker has taken."""
        return int(self._numbers[self._at(seat, TAKEN)])

    def waits(self, seat: int) -> bool:
        """Say whether a message waits for an idle worker."""
        return self.limit(seat) == IDLE and self._numbers[self._at(seat, SENT)] > self._numbers[self._at(seat, TAKEN)]
