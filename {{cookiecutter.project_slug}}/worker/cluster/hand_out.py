"""The thread of the agent that hands tasks to the workers, hears their answers, and finds out what a dead one had."""

import heapq
import logging
import os
import select
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.cluster.board import ENDED, HAND_OUT, SENT, Board
from worker.cluster.channels import Channel
from worker.cluster.leases import MOST_BYTES
from worker.cluster.messages import AFTER, FAIL, GATHER, LEAVE, RUN, SCHEDULE, Held, Result, worker_id
from worker.delivery import brief
from worker.failures import CANCELLED_BY

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

CUT_OFF = "cut off"  #: why a worker was killed that a stop has left no more time
CANCELLED = "Its task was cancelled"
MOVED_ON = "It was killed for a task that was cancelled, and had just ended"
OUT_OF_TIME = "Task exceeded maximum timeout value, and its worker was killed"
DEPTH = 10  #: messages with a worker that is quick at them, as many as Linux lets lie there: it need not wait for each
QUICK = 0.01  #: seconds in which a quick worker is done with one
PAUSE = 0.0005  #: seconds in which answers of workers that have enough to do gather, so that not each wakes this thread
SLOW = 0.05  #: seconds after which what lies behind a task is taken back, for a worker that idles
TRIES = 5  #: workers that may die of what is not a task's own run before it is given up: not each death is its fault

logger = logging.getLogger("django-q")


@dataclass(slots=True)
class Seat:
    """A worker, as the agent sees it."""

    number: int
    pid: int
    channel: Channel
    theirs: Channel  #: the worker's own end, to take back what it has not taken
    out: list[int] = field(default_factory=list)  #: the tickets of what it was sent and has not answered
    since: float = 0.0  #: when it answered last, or was sent the first of these
    quick: bool = False
    fresh: bool = True  #: it was sent nothing yet
    broken: bool = False  #: it has said what cannot be read, and was killed
    keys: dict[str, Any] = field(default_factory=dict)  #: of lines about the attempt that it was at when it ended


class HandOut:
    """Hands out for an agent."""

    def __init__(self, agent: "Agent", control: Channel, board: Board) -> None:
        self.agent, self.control, self.board, self.lock = agent, control, board, agent.lock
        self.seats: dict[int, Seat] = {}
        self.by_descriptor: dict[int, Seat] = {}
        self.unread: deque[Held] = deque()  #: tasks that did not begin: the first ones of workers that come
        self.stopping = 0.0  #: since when, 0 if it is not told to
        self.scheduled = False  #: what was handed out last was a schedule: if a task waits, it is the task's turn
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    def run(self) -> None:
        """Work until told to stop, and all is settled; then let the workers leave."""
        while not (self.agent.draining and self.agent.returned and not self.agent.held):
            self.turn()
        for seat in self.seats.values():
            with suppress(OSError):  # it has ended by itself
                seat.channel.send((LEAVE,), wait=False)

    def turn(self) -> None:
        """Wait for whoever has something to say, and do what follows."""
        self.board.expect(HAND_OUT, 5.0)
        if all(len(seat.out) > DEPTH // 2 for seat in self.seats.values()):
            time.sleep(PAUSE)
        pressing = any(len(seat.out) > 1 for seat in self.seats.values())
        for descriptor, _ in self.poll.poll(SLOW * 1000 if pressing else 500):
            if seat := self.by_descriptor.get(descriptor):
                self.hear(seat)
            elif descriptor == self.control.fileno():
                self.take_notice()
        with self.lock:
            now = time.monotonic()
            while self.agent.later and self.agent.later[0][0] <= now:
                if again := self.agent.held.get(heapq.heappop(self.agent.later)[1]):
                    self.agent.urgent.append(again)
            while self.agent.draining and not self.seats and self.agent.urgent:  # nobody is left to do it
                self.agent.forget(self.agent.urgent.popleft())
            self.balance(now)
            self.feed()

    # What the supervisor says

    def take_notice(self) -> None:
        notice = self.control.receive(wait=False)
        if notice is None:
            os._exit(1)  # the supervisor is gone, and this process about to be
        with self.lock:
            match notice:
                case ("seat", number, pid, ours, theirs):
                    self.board.clear(number, SENT, ENDED)
                    self.seats[number] = seat = Seat(number, pid, Channel.of(ours), Channel.of(theirs))
                    self.by_descriptor[seat.channel.fileno()] = seat
                    self.poll.register(seat.channel, select.POLLIN)
                case ("gone", number, reason, name, tells, keys):
                    self.seats[number].keys = keys
                    self.remove(self.seats.pop(number), reason, name, tells)
                case ("stop",):
                    self.agent.draining, self.stopping = True, time.monotonic()
                    self.agent.wake()

    def remove(self, seat: Seat, reason: str, name: str, tells: bool) -> None:
        """Find out what a worker that has ended had: what it was sent, less what it answered and did not take."""
        seat.broken = True  # at least it cannot be killed any more
        self.hear(seat)
        self.take_back(seat)
        self.poll.unregister(seat.channel)
        del self.by_descriptor[seat.channel.fileno()]
        seat.channel.close()
        seat.theirs.close()
        for ticket in seat.out:
            self.died(self.agent.held[ticket], seat, reason, name, tells)

    def died(self, held: Held, seat: Seat, reason: str, name: str, tells: bool) -> None:
        """Decide what becomes of what a worker had when it ended: it has a name, and may have come to a user's code."""
        if held.does == AFTER and tells:
            keys = {"task_id": held.extra[0][0], "task": held.extra[0][2]}
            logger.error("The hook of %s has failed: %s", name, reason, extra=keys)
            self.agent.answer((AFTER, held.ticket, None, ""))
        elif reason == CUT_OFF or (reason == MOVED_ON and held.does == RUN):
            if held.does == RUN:
                after = f" {time.monotonic() - self.stopping:.0f} s after the stop" if reason == CUT_OFF else ""
                logger.warning("%s was cut off%s; it is given back, and run again", name, after, extra=seat.keys)
            self.agent.forget(held)
        elif held.does == RUN and tells:  # another worker opens it, and says of whom an attempt has failed
            is_cancelled = reason == CANCELLED
            reason = f"{CANCELLED_BY}{self.agent.orders.ended[seat.number]}" if is_cancelled else reason
            started = time.time() - (time.monotonic() - seat.since)
            held.does, held.extra = FAIL, (reason, is_cancelled, worker_id(seat.pid), True, started)
            self.agent.offer(held)
        elif held.does == SCHEDULE and tells:  # perhaps of a receiver of pre_enqueue, perhaps of no fault of its own
            held.deaths += 1
            held.extra = (held.extra[0], reason, held.deaths < TRIES)
            self.agent.offer(held)
        elif held.does in {AFTER, GATHER} and reason == OUT_OF_TIME:  # it has waited for a server
            self.agent.try_again(held)
        elif held.deaths + 1 < TRIES:
            held.deaths += 1
            if held.does == FAIL:  # perhaps of the backoff, which is not asked again
                held.extra = (*held.extra[:3], False, held.extra[4])
            if held.does != RUN:
                self.agent.offer(held)
            elif self.agent.begins_nothing:
                self.agent.forget(held)
            else:
                self.unread.append(held)
        elif held.does in {RUN, FAIL}:
            reason = held.extra[0] if held.extra else reason
            self.agent.set_aside(held, f"The task cannot be read: {TRIES} workers died of it. {reason}.")
        else:
            logger.error("What a worker had to do (%s) is given up: %s of them died. %s", name, TRIES, reason)
            if held.does == AFTER and held.extra[0][-1]:  # a success, perhaps for the cache, goes into the table
                self.agent.answer(Result(held.extra[0], part=held.part).message(held.ticket))
            else:
                self.agent.answer((held.does, held.ticket, None, ""))

    # What workers say and are told

    def hear(self, seat: Seat) -> None:
        """Take what a worker has answered, and send it more."""
        while seat.out:
            try:
                if (reply := seat.channel.receive(wait=False)) is None:
                    return
                known = reply[1] in seat.out
            except (EOFError, IndexError, OSError, TypeError, ValueError) as error:  # a task has written there
                logger.error("A worker has said what cannot be read (%s): it is killed", brief(error))
                if not seat.broken:
                    with suppress(ProcessLookupError):
                        os.kill(seat.pid, signal.SIGKILL)
                seat.broken = True
                continue
            with self.lock:
                if not known:  # it has answered already: what a task has left there may interfere
                    continue
                now = time.monotonic()
                seat.quick = now - seat.since < QUICK
                seat.since = now
                seat.out.remove(reply[1])
                self.agent.answer(reply)
                self.feed_one(seat)

    def feed(self) -> None:
        """Send something to each worker that idles, if there is something."""
        with self.lock:
            for seat in self.seats.values():
                if not seat.out:
                    self.feed_one(seat)

    def feed_one(self, seat: Seat) -> None:
        """Send a worker as much as it is to have."""
        while len(seat.out) < (DEPTH if seat.quick else 1) and (held := self.next(seat)):
            try:
                if not seat.channel.send(held.message, wait=False):
                    self.put_back(held)
                    return
            except (MemoryError, OSError) as error:  # of a large message: there is no room, or no descriptor
                logger.error("A worker could not be sent its task (%s); next try in a while", brief(error))
                self.agent.try_again(held)
                return
            if not seat.out:
                seat.since = time.monotonic()
            seat.fresh = False
            seat.out.append(held.ticket)
            self.board.count(seat.number, SENT)

    def next(self, seat: Seat) -> Held | None:
        """Take what a worker is to do next."""
        if seat.fresh and self.unread and not self.agent.begins_nothing:
            return self.unread.popleft()
        urgent = self.agent.urgent
        waits = bool(self.agent.waiting) and not self.agent.begins_nothing and self.agent.unsaved_bytes <= MOST_BYTES
        skips = bool(urgent) and urgent[0].does == SCHEDULE and ((waits and self.scheduled) or not self.may_queue(seat))
        self.scheduled = False
        for held in urgent:
            if held.does != SCHEDULE or not skips:
                urgent.remove(held)
                self.scheduled = held.does == SCHEDULE
                return held
        if not waits:
            return None
        held = self.agent.waiting.popleft()
        self.agent.waiting_bytes -= len(held.payload)
        self.agent.begun += 1
        return held

    def may_queue(self, seat: Seat) -> bool:
        """Say whether a worker may have a schedule: half of them are kept for tasks, if schedules are locked, say."""
        held = self.agent.held
        others = [each for each in self.seats.values() if each is not seat]
        return 2 * sum(any(held[it].does == SCHEDULE for it in each.out) for each in others) < len(others) or not others

    def put_back(self, held: Held) -> None:
        """Put something back to where it was."""
        if held.does != RUN:
            self.agent.urgent.appendleft(held)
            return
        self.agent.begun -= 1
        self.agent.line_up(held)

    def take_back(self, seat: Seat) -> None:
        """Take back what a worker was sent and has not taken."""
        while (message := seat.theirs.receive(wait=False)) is not None:
            seat.out.remove(message[1])
            self.board.uncount(seat.number)
            self.put_back(self.agent.held[message[1]])

    def balance(self, now: float) -> None:
        """Let nothing wait behind a long task."""
        for seat in self.seats.values():
            if len(seat.out) > 1 and now - seat.since > SLOW:
                seat.quick = False
                self.take_back(seat)

    def take_all_back(self) -> list[Held]:
        """Take out all tasks that no worker has begun."""
        with self.lock:
            for seat in self.seats.values():
                self.take_back(seat)
            found = [*self.unread, *self.agent.waiting, *self.agent.suspects()]
            self.unread.clear()
            self.agent.waiting.clear()
            self.agent.waiting_bytes = 0
            return found
