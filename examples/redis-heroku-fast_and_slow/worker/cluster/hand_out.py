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

from worker.cluster.channels import Channel
from worker.cluster.leases import MOST_BYTES
from worker.cluster.messages import AFTER, FAIL, GATHER, LEAVE, RUN, SCHEDULE, Held, Result, worker_id
from worker.cluster.scoreboard import HAND_OUT, Scoreboard
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
class Slot:
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
    def __init__(self, agent: "Agent", control: Channel, scoreboard: Scoreboard) -> None:
        self.agent, self.control, self.scoreboard, self.lock = agent, control, scoreboard, agent.lock
        self.slots: dict[int, Slot] = {}
        self.by_descriptor: dict[int, Slot] = {}
        self.unread: deque[Held] = deque()  #: tasks that did not begin: the first ones of workers that come
        self.stopping = 0.0  #: since when, 0 if it is not told to
        self.scheduled = False  #: what was handed out last was a schedule: if a task waits, it is the task's turn
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    def run(self) -> None:
        """Work until told to stop, and all is settled; then let the workers leave."""
        while not (self.agent.draining and self.agent.returned and not self.agent.held):
            self.turn()
        for slot in self.slots.values():
            with suppress(OSError):  # it has ended by itself
                slot.channel.send((LEAVE,), wait=False)

    def turn(self) -> None:
        """Wait for whoever has something to say, and do what follows."""
        self.scoreboard.expect(HAND_OUT, 5.0)
        if all(len(slot.out) > DEPTH // 2 for slot in self.slots.values()):
            time.sleep(PAUSE)
        pressing = any(len(slot.out) > 1 for slot in self.slots.values())
        for descriptor, _ in self.poll.poll(SLOW * 1000 if pressing else 500):
            if slot := self.by_descriptor.get(descriptor):
                self.hear(slot)
            elif descriptor == self.control.fileno():
                self.take_notice()
        with self.lock:
            now = time.monotonic()
            while self.agent.later and self.agent.later[0][0] <= now:
                if again := self.agent.held.get(heapq.heappop(self.agent.later)[1]):
                    self.agent.urgent.append(again)
            while self.agent.draining and not self.slots and self.agent.urgent:  # nobody is left to do it
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
                case ("slot", number, pid, ours, theirs):
                    state = self.scoreboard.workers[number]
                    state.sent, state.ended = 0, 0.0
                    self.slots[number] = slot = Slot(number, pid, Channel.of(ours), Channel.of(theirs))
                    self.by_descriptor[slot.channel.fileno()] = slot
                    self.poll.register(slot.channel, select.POLLIN)
                case ("gone", number, reason, name, in_user_code, keys):
                    self.slots[number].keys = keys
                    self.remove(self.slots.pop(number), reason, name, in_user_code)
                case ("stop",):
                    self.agent.draining, self.stopping = True, time.monotonic()
                    self.agent.wake()

    def remove(self, slot: Slot, reason: str, name: str, in_user_code: bool) -> None:
        """Find out what a worker that has ended had: what it was sent, less what it answered and did not take."""
        slot.broken = True  # at least it cannot be killed any more
        self.hear(slot)
        self.take_back(slot)
        self.poll.unregister(slot.channel)
        del self.by_descriptor[slot.channel.fileno()]
        slot.channel.close()
        slot.theirs.close()
        for ticket in slot.out:
            self.died(self.agent.held[ticket], slot, reason, name, in_user_code)

    def died(self, held: Held, slot: Slot, reason: str, name: str, in_user_code: bool) -> None:
        """Decide what becomes of what a worker had when it ended: it has a name, and may have come to a user's code."""
        if held.does == AFTER and in_user_code:
            keys = {"task_id": held.extra[0][0], "task": held.extra[0][2]}
            logger.error("The hook of %s has failed: %s", name, reason, extra=keys)
            self.agent.answer((AFTER, held.ticket, None, ""))
        elif reason == CUT_OFF or (reason == MOVED_ON and held.does == RUN):
            if held.does == RUN:
                after = f" {time.monotonic() - self.stopping:.0f} s after the stop" if reason == CUT_OFF else ""
                logger.warning("%s was cut off%s; it is given back, and run again", name, after, extra=slot.keys)
            self.agent.forget(held)
        elif held.does == RUN and in_user_code:  # another worker opens it, and says of whom an attempt has failed
            is_cancelled = reason == CANCELLED
            reason = f"{CANCELLED_BY}{self.agent.orders.ended[slot.number]}" if is_cancelled else reason
            started = time.time() - (time.monotonic() - slot.since)
            held.does, held.extra = FAIL, (reason, is_cancelled, worker_id(slot.pid), True, started)
            self.agent.offer(held)
        elif held.does == SCHEDULE and in_user_code:  # of a receiver of pre_enqueue, or of no fault of its own
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

    def hear(self, slot: Slot) -> None:
        """Take what a worker has answered, and send it more."""
        while slot.out:
            try:
                if (reply := slot.channel.receive(wait=False)) is None:
                    return
                known = reply[1] in slot.out
            except (EOFError, IndexError, OSError, TypeError, ValueError) as error:  # a task has written there
                logger.error("A worker has said what cannot be read (%s): it is killed", brief(error))
                if not slot.broken:
                    with suppress(ProcessLookupError):
                        os.kill(slot.pid, signal.SIGKILL)
                slot.broken = True
                continue
            with self.lock:
                if not known:  # it has answered already: what a task has left there may interfere
                    continue
                now = time.monotonic()
                slot.quick = now - slot.since < QUICK
                slot.since = now
                slot.out.remove(reply[1])
                self.agent.answer(reply)
                self.feed_one(slot)

    def feed(self) -> None:
        """Send something to each worker that idles, if there is something."""
        with self.lock:
            for slot in self.slots.values():
                if not slot.out:
                    self.feed_one(slot)

    def feed_one(self, slot: Slot) -> None:
        """Send a worker as much as it is to have."""
        while len(slot.out) < (DEPTH if slot.quick else 1) and (held := self.next(slot)):
            try:
                if not slot.channel.send(held.message, wait=False):
                    self.put_back(held)
                    return
            except (MemoryError, OSError) as error:  # of a large message: there is no room, or no descriptor
                logger.error("A worker could not be sent its task (%s); next try in a while", brief(error))
                self.agent.try_again(held)
                return
            if not slot.out:
                slot.since = time.monotonic()
            slot.fresh = False
            slot.out.append(held.ticket)
            self.scoreboard.workers[slot.number].sent += 1

    def next(self, slot: Slot) -> Held | None:
        """Take what a worker is to do next."""
        if slot.fresh and self.unread and not self.agent.begins_nothing:
            return self.unread.popleft()
        urgent = self.agent.urgent
        waits = bool(self.agent.waiting) and not self.agent.begins_nothing and self.agent.unsaved_bytes <= MOST_BYTES
        skips = bool(urgent) and urgent[0].does == SCHEDULE and ((waits and self.scheduled) or not self.may_queue(slot))
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

    def may_queue(self, slot: Slot) -> bool:
        """Say whether a worker may have a schedule: half of them are kept for tasks, if schedules are locked, say."""
        held = self.agent.held
        others = [each for each in self.slots.values() if each is not slot]
        return 2 * sum(any(held[it].does == SCHEDULE for it in each.out) for each in others) < len(others) or not others

    def put_back(self, held: Held) -> None:
        if held.does != RUN:
            self.agent.urgent.appendleft(held)
            return
        self.agent.begun -= 1
        self.agent.line_up(held)

    def take_back(self, slot: Slot) -> None:
        """Take back what a worker was sent and has not taken."""
        while (message := slot.theirs.receive(wait=False)) is not None:
            slot.out.remove(message[1])
            self.scoreboard.workers[slot.number].sent -= 1
            self.put_back(self.agent.held[message[1]])

    def balance(self, now: float) -> None:
        """Let nothing wait behind a long task."""
        for slot in self.slots.values():
            if len(slot.out) > 1 and now - slot.since > SLOW:
                slot.quick = False
                self.take_back(slot)

    def take_all_back(self) -> list[Held]:
        """Take out all tasks that no worker has begun."""
        with self.lock:
            for slot in self.slots.values():
                self.take_back(slot)
            found = [*self.unread, *self.agent.waiting, *self.agent.suspects()]
            self.unread.clear()
            self.agent.waiting.clear()
            self.agent.waiting_bytes = 0
            return found
