"""What the cluster's processes share, so made that one which is killed takes nothing along.

multiprocessing's Queue holds its read lock while it waits, and its Event and Value take a lock in each call: a process
that is killed meanwhile keeps it, and the others wait for ever, though the cluster looks alive
(https://github.com/django-q2/django-q2/issues/23, django-q2 1.11.1). Here nobody waits with a lock in his hand.
"""

import contextlib
import ctypes
import math
import multiprocessing
import queue
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

from worker.delivery import Task, brief, failed

CONTEXT = multiprocessing.get_context("fork")  # as django-q2; the start method of Python 3.14 would pickle brokers
STOP = "STOP"  #: what ends the monitor and, as django-q2 has it, a worker


class Flag:
    """An Event for processes: a pipe in which a byte lies once it is set."""

    def __init__(self) -> None:
        """Begin unset."""
        self._reader, self._writer = CONTEXT.Pipe(duplex=False)

    def set(self) -> None:
        """Set it; a signal handler may do so."""
        if not self.is_set():
            self._writer.send_bytes(b"1")

    def is_set(self) -> bool:
        """Say whether it is set."""
        return self._reader.poll()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for so many seconds, and say whether it is set."""
        return self._reader.poll(timeout)

    def fileno(self) -> int:
        """Return what multiprocessing.connection.wait() can wait for."""
        return self._reader.fileno()


class Timer:
    """A worker's time limit, in the place of a Value: the time at which it ends, not what is left of it.

    django-q2 sets it to the seconds that a task may take, and to -1 when idle, 0 when out of time, -2 when recycled.
    """

    def __init__(self) -> None:
        """Begin idle."""
        self._end = RawValue(ctypes.c_double, -1.0)

    @property
    def value(self) -> float:
        """The seconds left, at least 0; -1 without a limit or a task, -2 if the worker is recycled."""
        end: float = self._end.value
        return max(0.0, end - time.monotonic()) if end > 0 else end

    @value.setter
    def value(self, seconds: float) -> None:
        self._end.value = time.monotonic() + seconds if seconds > 0 else seconds

    def get_lock(self) -> contextlib.AbstractContextManager[None]:
        """Return no lock: the worker alone writes, in one go."""
        return contextlib.nullcontext()


class Board:
    """Numbers that all processes of a cluster see. Each has one writer, so none needs a lock."""

    def __init__(self, workers: int) -> None:
        """Begin with nothing taken."""
        self.tickets = RawArray(ctypes.c_uint64, workers)  #: by seat, the task that its worker took last
        self.sent = RawValue(ctypes.c_uint64, 0)  #: the ticket of the last task in the queue, 0 once it is taken out
        self._left = RawValue(ctypes.c_uint64, 0)  #: the highest ticket of workers that are gone
        self.draining = Flag()  #: no task is to begin any more, and those that wait are to be given back
        self.drained = RawValue(ctypes.c_bool, False)  #: the pusher's answer
        self.quitting = Flag()  #: the pusher is to end
        self.pusher_beat = RawValue(ctypes.c_double, time.monotonic())
        self.starving = RawValue(ctypes.c_double, 0.0)  #: since when tasks wait that the broker keeps back, or 0
        self.monitor_beat = RawValue(ctypes.c_double, time.monotonic())

    @property
    def taken(self) -> int:
        """The highest ticket that a worker has taken: the queue keeps its order, so all lower ones are taken too."""
        taken: int = max(self._left.value, *self.tickets)
        return taken

    def vacate(self, seat: int) -> None:
        """Make a seat free for another worker."""
        self._left.value = max(self._left.value, self.tickets[seat])
        self.tickets[seat] = 0


class Tasks:
    """The tasks on their way from the pusher to the workers."""

    def __init__(self) -> None:
        """Begin empty, without a limit: the pusher counts what it has fetched."""
        self._reader, self._writer = CONTEXT.Pipe(duplex=False)
        self._reading, self._writing = CONTEXT.Lock(), CONTEXT.Lock()
        self._buffer: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._feeder: threading.Thread | None = None

    def fileno(self) -> int:
        """Return what multiprocessing.connection.wait() can wait for."""
        return self._reader.fileno()

    def put(self, task: Task) -> None:
        """Add a task. It never waits, though the pipe may be full: a thread does."""
        if self._feeder is None:
            self._feeder = threading.Thread(target=self._feed, daemon=True)
            self._feeder.start()
        self._buffer.put(bytes(ForkingPickler.dumps(task)))

    def _feed(self) -> None:
        while True:
            data = self._buffer.get()
            with self._writing:
                self._writer.send_bytes(data)

    def get(self, timeout: float | None = None) -> Any:
        """Return the next task, holding the lock only while one is there.

        Raises:
            queue.Empty: If none came in so many seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            if not self._reader.poll(None if end is None else max(0.0, end - time.monotonic())):
                raise queue.Empty
            with self._reading:
                if self._reader.poll():  # another process may have been faster
                    data = self._reader.recv_bytes()
                    break
        return ForkingPickler.loads(data)

    def empty(self) -> bool:
        """Say whether nothing waits, for django-q2's Stat."""
        return not self._reader.poll()

    def qsize(self) -> int:
        """Return what can be known of the size, for django-q2's Stat."""
        return int(not self.empty())


class Inbox:
    """A worker's end of the tasks: notes which one it has taken."""

    def __init__(self, tasks: Tasks, board: Board, seat: int) -> None:
        """Take tasks for the worker in this seat."""
        self._tasks, self._board, self._seat = tasks, board, seat

    def get(self) -> Any:
        """Wait for the next task; return STOP, and begin none, once the pusher is to give them back."""
        while not self._board.draining.is_set():
            try:
                task = self._tasks.get(timeout=0)
            except queue.Empty:
                wait([self._tasks.fileno(), self._board.draining.fileno()])
                continue
            self._board.tickets[self._seat] = task["ticket"]
            if "timeout" in task:  # None would end django-q2 1.11.1's worker, 0 its task, and 1.5 fail it
                seconds = task["timeout"] or 0
                task["timeout"] = math.ceil(seconds) if seconds > 0 else -1
            return task
        return STOP


class Results:
    """The results on their way from the workers to the monitor, each behind its ticket.

    put() returns once the result is in the pipe: what a worker has ended is not lost if it is killed afterwards.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._reader, self._writer = CONTEXT.Pipe(duplex=False)
        self._writing = CONTEXT.Lock()

    def put(self, task: Any) -> None:
        """Hand on a task with its result, or STOP; a result that cannot be pickled becomes a failure."""
        ticket = 0 if task == STOP else task["ticket"]
        try:
            data = ForkingPickler.dumps(task)
        except Exception as error:  # whatever a class's own __reduce__ raises
            data = ForkingPickler.dumps(failed(task, f"The result cannot be pickled: {brief(error)}"))
        with self._writing:
            self._writer.send_bytes(ticket.to_bytes(8) + bytes(data))

    def get(self, timeout: float) -> tuple[int, bytes] | None:
        """Return the ticket and the pickled task of the next result, None if none came in time. For one reader."""
        if not self._reader.poll(timeout):
            return None
        data = self._reader.recv_bytes()
        return int.from_bytes(data[:8]), data[8:]

    def empty(self) -> bool:
        """Say whether nothing waits, for django-q2's Stat."""
        return not self._reader.poll()

    def qsize(self) -> int:
        """Return what can be known of the size, for django-q2's Stat."""
        return int(not self.empty())
