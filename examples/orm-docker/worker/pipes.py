"""What the cluster's processes share, so made that one which is killed takes nothing along.

multiprocessing's Queue holds its read lock while it waits, and its Event and Value take a lock in each call: a process
that is killed meanwhile keeps it, and the others wait for ever, though the cluster looks alive
(https://github.com/django-q2/django-q2/issues/23, django-q2 1.11.1). Here nobody waits with a lock in his hand.
"""

import contextlib
import ctypes
import math
import multiprocessing
import os
import pickle
import queue
import select
import struct
import threading
import time
from datetime import datetime
from functools import partial
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

from worker.delivery import Task, brief, failed

CONTEXT = multiprocessing.get_context("fork")  # as django-q2; the start method of Python 3.14 would pickle brokers
STOP = "STOP"  #: what ends the monitor and, as django-q2 has it, a worker
TIMES = ("started", "stopped")  #: of a task


class Flag:
    """An Event for processes: a value, and a pipe in which a byte lies once it is set, to wait for."""

    def __init__(self) -> None:
        """Begin unset."""
        self._reader, self._writer = CONTEXT.Pipe(duplex=False)
        self._set = RawValue(ctypes.c_bool, False)  # a look at it costs a twentieth of one at the pipe

    def set(self) -> None:
        """Set it; a signal handler may do so."""
        if not self._set.value:
            self._set.value = True
            self._writer.send_bytes(b"1")

    def is_set(self) -> bool:
        """Say whether it is set."""
        found: bool = self._set.value
        return found

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


def pack(task: Any) -> bytes:
    """Return a task as it goes through a pipe; raises what pickling raises."""
    if task != STOP:  # pickle imports the class of a time for each, which takes longer than all else
        task = task | {key: task[key].isoformat() for key in TIMES if key in task}
    return pickle.dumps(task, pickle.HIGHEST_PROTOCOL)


def unpack(data: bytes) -> Any:
    """Return what was packed; raises what unpickling raises."""
    task = pickle.loads(data)  # noqa: S301 (a process of this cluster has packed it)
    if task != STOP:
        task.update((key, datetime.fromisoformat(task[key])) for key in TIMES if key in task)
    return task


class Pipe:
    """A pipe of frames. What multiprocessing's Connection does for one frame, this does for as many as there are."""

    HEADER = struct.Struct("!QI")  #: ahead of each frame: a number, and the length of what follows

    def __init__(self) -> None:
        """Begin empty."""
        self._reader, self._writer = os.pipe()
        self._ready = select.poll()  # made once: Connection.poll() makes one for each look, which costs 10 µs
        self._ready.register(self._reader, select.POLLIN)
        self._rest = b""  #: what get_all() has read of a frame that is not whole yet

    def fileno(self) -> int:
        """Return what can be waited for."""
        return self._reader

    def is_ready(self, timeout: float | None = 0.0) -> bool:
        """Say whether there is something to read, at once or within so many seconds; None waits for ever."""
        return bool(self._ready.poll(None if timeout is None else max(0.0, timeout) * 1000))

    @classmethod
    def frame(cls, number: int, data: bytes) -> bytes:
        """Return a frame."""
        return cls.HEADER.pack(number, len(data)) + data

    def write(self, data: bytes) -> None:
        """Write all of it, however often the pipe is full meanwhile."""
        left = memoryview(data)
        while left:
            left = left[os.write(self._writer, left) :]

    def read(self, size: int) -> bytes:
        """Read just so many bytes, waiting for them."""
        data = os.read(self._reader, size)
        while len(data) < size:
            data += os.read(self._reader, size - len(data))
        return data

    def get(self) -> tuple[int, bytes]:
        """Read a frame, waiting for it. For several readers, who agree on whose turn it is."""
        number, size = self.HEADER.unpack(self.read(self.HEADER.size))
        return number, self.read(size)

    def get_all(self) -> list[tuple[int, bytes]]:
        """Read what there is, and return the frames that are whole. For one reader."""
        data = self._rest + os.read(self._reader, 1 << 16)
        frames, begin = [], 0
        while begin + self.HEADER.size <= len(data):
            number, size = self.HEADER.unpack_from(data, begin)
            end = begin + self.HEADER.size + size
            if end > len(data):
                break
            frames.append((number, data[begin + self.HEADER.size : end]))
            begin = end
        self._rest = data[begin:]
        return frames


class Tasks:
    """The tasks on their way from the pusher to the workers."""

    def __init__(self) -> None:
        """Begin empty, without a limit: the pusher counts what it has fetched."""
        self._pipe = Pipe()
        self._reading = CONTEXT.Lock()
        self._buffer: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._feeder: threading.Thread | None = None

    def fileno(self) -> int:
        """Return what can be waited for."""
        return self._pipe.fileno()

    def put(self, task: Task) -> None:
        """Add a task. It never waits, though the pipe may be full: a thread does. For one writer."""
        if self._feeder is None:
            self._feeder = threading.Thread(target=self._feed, daemon=True)
            self._feeder.start()
        self._buffer.put(Pipe.frame(task["ticket"], pack(task)))

    def _feed(self) -> None:
        while True:
            frames = [self._buffer.get()]
            while not self._buffer.empty():
                frames.append(self._buffer.get())
            self._pipe.write(b"".join(frames))

    def get(self, timeout: float | None = None) -> Any:
        """Return the next task, None if none came in so many seconds; the lock is held only while one is there."""
        end = None if timeout is None else time.monotonic() + timeout
        while self._pipe.is_ready(None if end is None else end - time.monotonic()):
            with self._reading:
                if self._pipe.is_ready():  # another process may have been faster
                    _, data = self._pipe.get()
                    return unpack(data)
        return None

    def take_back(self) -> list[Task]:
        """Return all tasks that no worker has taken."""
        return list(iter(partial(self.get, 0.1), None))

    def empty(self) -> bool:
        """Say whether nothing waits, for django-q2's Stat."""
        return not self._pipe.is_ready()

    def qsize(self) -> int:
        """Return what can be known of the size, for django-q2's Stat."""
        return int(not self.empty())


class Inbox:
    """A worker's end of the tasks: notes which one it has taken."""

    def __init__(self, tasks: Tasks, board: Board, seat: int) -> None:
        """Take tasks for the worker in this seat."""
        self._tasks, self._board, self._seat = tasks, board, seat
        self._something = select.poll()
        for one in (tasks, board.draining):
            self._something.register(one.fileno(), select.POLLIN)

    def get(self) -> Any:
        """Wait for the next task; return STOP, and begin none, once the pusher is to give them back."""
        while not self._board.draining.is_set():
            task = self._tasks.get(timeout=0)
            if task is None:
                self._something.poll()
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
        self._pipe = Pipe()
        self._writing = CONTEXT.Lock()

    def put(self, task: Any) -> None:
        """Hand on a task with its result, or STOP; a result that cannot be pickled becomes a failure."""
        ticket = 0 if task == STOP else task["ticket"]
        try:
            data = pack(task)
        except Exception as error:  # whatever a class's own __reduce__ raises
            reason = f"The result cannot be pickled: {brief(error)}"
            data = pack(failed(task, reason))
        frame = Pipe.frame(ticket, data)
        with self._writing:
            self._pipe.write(frame)

    def get_all(self, timeout: float) -> list[tuple[int, bytes]]:
        """Return the tickets and the pickled tasks of the results that are there, or come within so many seconds."""
        return self._pipe.get_all() if self._pipe.is_ready(timeout) else []

    def empty(self) -> bool:
        """Say whether nothing waits, for django-q2's Stat."""
        return not self._pipe.is_ready()

    def qsize(self) -> int:
        """Return what can be known of the size, for django-q2's Stat."""
        return int(not self.empty())
