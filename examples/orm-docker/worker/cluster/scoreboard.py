"""What all processes of a cluster see, in shared memory. Each value has one writer, and needs no lock.

As on the scoreboard of Apache's httpd, each worker process has a slot, which the next one in its place takes over.
"""

import ctypes
import math
import mmap
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

IDLE = 0.0  #: the limit of a worker that has no task
NO_LIMIT = math.inf  #: the limit of a task that may run for ever
NAME, KEY, FUNC = 160, 32, 256  #: bytes that are kept of a task's name, of its id, and of the path of its function
THREADS = ("hands tasks out", "keeps leases", "saves results", "looks at schedules")  #: what the agent's threads do
HAND_OUT, LEASES, RESULTS, SCHEDULES = range(len(THREADS))
LATE_AFTER = 10.0  #: seconds without a move that was promised, after which somebody is told
SUPERVISED = 3.0  #: seconds for which a beat of the supervisor counts, which comes each second
LISTED = 64  #: cancelled tasks whose ids are kept


class RunningAttempt(NamedTuple):
    slot: int
    task: str  #: its id
    func: str
    name: str
    since: float  #: by the monotonic clock
    attempt: int


def _cut(text: str, size: int) -> bytes:
    return text.encode(errors="replace")[:size]


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


class WorkerState(ctypes.Structure):
    """What is known of the worker in a slot. It writes this itself, but for what the agent has sent and wants ended."""

    _fields_ = [
        (
            "limit",
            ctypes.c_double,
        ),  # when it must have ended what it does: IDLE without a task, NO_LIMIT if it need not
        ("taken", ctypes.c_long),  # messages that it has taken
        ("sent", ctypes.c_long),  # messages that the agent has sent it, and not taken back
        ("in_user_code", ctypes.c_bool),  # whether it has come to the user's code, as a task or a hook
        ("since", ctypes.c_double),  # when the attempt began that goes on, 0 if none does
        ("attempt", ctypes.c_long),  # which attempt it has begun, 0 if none
        ("ended", ctypes.c_double),  # since when the attempt goes on that the agent wants to be ended
        ("_name", ctypes.c_char * NAME),
        ("_task", ctypes.c_char * KEY),
        ("_func", ctypes.c_char * FUNC),
    ]

    def reset(self) -> None:
        """Make the slot ready for another worker, but for what the agent writes."""
        self.begin(IDLE)
        self.taken, self.since = 0, 0.0

    def begin(self, limit: float) -> None:
        """Note when what the worker does must have ended, or that it is IDLE."""
        self.limit = limit
        if limit == IDLE:  # no hook that follows is told of as the attempt before it
            self.in_user_code, self.attempt = False, 0

    def call(self, name: str) -> None:
        """Note the name of what the worker does."""
        self._name = _cut(name, NAME)

    def start(self, task: str, func: str, number: int) -> None:
        """Note the id and the function of the task that begins to run, and which attempt this is."""
        self.since = 0.0  # nobody reads what is half written
        self._task, self._func, self.attempt = _cut(task, KEY), _cut(func, FUNC), number
        self.since = time.monotonic()

    @property
    def name(self) -> str:
        """The name of the task that it has, or had last."""
        return _text(self._name)

    @property
    def keys(self) -> dict[str, Any]:
        """By which the log finds the attempt that it has begun; none if it has not."""
        if not (self.in_user_code and self.attempt):
            return {}
        return {"task_id": _text(self._task), "task": _text(self._func), "attempt": self.attempt}

    @property
    def is_ended(self) -> bool:
        """Whether it is at the attempt that is wanted to end."""
        return bool(self.ended == self.since != 0.0)

    @property
    def waits(self) -> bool:
        """Whether it is idle though a message waits for it."""
        return bool(self.limit == IDLE and self.sent > self.taken)

    def running(self, slot: int) -> RunningAttempt | None:
        """Return the attempt that goes on."""
        since = self.since
        found = RunningAttempt(slot, _text(self._task), _text(self._func), self.name, since, self.attempt)
        return found if since and since == self.since else None


class Scoreboard:
    """The beats of the agent's threads, and the states of the workers, by their slots."""

    def __init__(self, slots: int) -> None:
        class Memory(ctypes.Structure):
            _fields_ = [
                ("beats", ctypes.c_double * len(THREADS)),  # until when the threads have promised to move again
                ("supervised", ctypes.c_double),  # when the supervisor has moved
                ("cancelled", ctypes.c_long),  # how many tasks are cancelled and may wait
                ("ids", (ctypes.c_char * KEY) * LISTED),  # of these
                ("workers", WorkerState * slots),
            ]

        self._memory = Memory.from_buffer(mmap.mmap(-1, ctypes.sizeof(Memory)))
        self.workers: Any = self._memory.workers
        self.supervise()
        for thread in range(len(THREADS)):
            self.expect(thread, 60.0)

    # The beats: the agent's threads write, the supervisor reads

    def expect(self, thread: int, seconds: float) -> None:
        """Promise that this thread of the agent moves again within so many seconds."""
        self._memory.beats[thread] = time.monotonic() + seconds

    def late(self, since: float) -> Iterator[tuple[str, float]]:
        """Yield what threads do that have not moved as promised, and for how many seconds, from `since` at most."""
        now = time.monotonic()
        for does, beat in zip(THREADS, self._memory.beats, strict=True):
            if (late := now - max(beat, since)) > 0:
                yield does, late

    # The supervisor's own, for the agent, which speaks for the cluster

    def supervise(self) -> None:
        """Note that the supervisor moves."""
        self._memory.supervised = time.monotonic()

    def is_supervised(self) -> bool:
        return bool(time.monotonic() - self._memory.supervised < SUPERVISED)

    # The cancelled tasks: the agent writes, workers read, and ask the database of those that are here

    def cancel(self, tasks: Collection[str]) -> None:
        """Note the ids of all tasks that are cancelled and may wait."""
        for place, task in enumerate([*tasks][:LISTED]):
            self._memory.ids[place].value = _cut(task, KEY)
        self._memory.cancelled = len(tasks)

    def may_be_cancelled(self, task: str) -> bool:
        """Say whether a task is one of them, or one of too many."""
        number = self._memory.cancelled
        if not 0 < number <= LISTED:
            return bool(number)
        return any(each.value == _cut(task, KEY) for each in self._memory.ids[:number])

    def attempts(self) -> Iterator[RunningAttempt]:
        """Yield what workers run."""
        for slot, worker in enumerate(self.workers):
            if running := worker.running(slot):
                yield running
