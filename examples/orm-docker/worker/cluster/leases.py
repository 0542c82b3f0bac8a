"""The thread of the agent that claims tasks, keeps their leases, and gives back what was not begun.

It takes the place of django-q2 1.11.1's pusher, which ends at the first error of the broker, deletes a payload that
it cannot verify, dies of one that it cannot unpickle, and lets the lease of a task run while it waits for its turn.
"""

import logging
import time
from multiprocessing.connection import wait
from secrets import choice
from typing import TYPE_CHECKING

from django.db import close_old_connections
from django_q.conf import Conf

from worker.cluster.messages import FAIL, RUN, delays
from worker.cluster.scoreboard import LEASES
from worker.delivery import MAX_DELIVERIES, SUSPECT_AFTER, Delivery, brief

if TYPE_CHECKING:
    from worker.cluster.agent import Agent

AHEAD = 1.0  #: seconds of the workers' work to fetch ahead: if the cluster is killed, this much waits for its leases
LEAST_AHEAD = 5  #: tasks for each worker to fetch ahead, however long it is at one
MOST = 500  #: tasks that may run or be done, and not be reported as saved: what a `kill -9` may have run twice
MOST_LATER = 5000  #: that wait for a server, and beside which others run
#: of what waits here, and of results that are not saved yet: a hundred of 300 kB, half of what an idle cluster takes
MOST_BYTES = 32 << 20
IDLE = 30.0  #: seconds after which an empty queue is looked at even if nothing has announced a task
SOONEST = 0.005  #: seconds after which a full queue is looked at again; twice as many each time that nobody took a task
LONGEST_PAUSE = 5.0  #: seconds between two tries while the broker is away
ANSWER = 20.0  #: seconds in which the broker's client answers, or says that it cannot

logger = logging.getLogger("django-q")


class Leases:
    def __init__(self, agent: "Agent") -> None:
        self.agent, self.broker = agent, agent.broker
        self.alone = 0  #: the ticket of a task beside which no other one is to begin
        self.renewed = time.monotonic()
        self.claim_from = 0.0
        self.cut_off = 0.0  #: when the broker was found to be away, 0 if it is not
        self.away = 0.0  #: the same, until it has handed out something
        self.pause = 0.0
        self.drained = False  #: what was not begun is taken back, since the agent was told to stop
        self.moment, self.seen = SOONEST, 0  #: how long to wait for room, and what workers had begun then
        self.pace = 0  #: what workers began within AHEAD seconds
        self.paced, self.begun_then = self.renewed, 0  #: since when that is counted anew, and what they had begun

    def run(self) -> None:
        self.agent.orders.await_first()
        while True:
            self.agent.scoreboard.expect(LEASES, ANSWER)
            try:
                self.turn()
            except Exception as error:  # each broker has exceptions of its own
                self.wait_for_broker(error)

    def turn(self) -> None:
        """Renew, give back, then claim what there is room for, or wait."""
        close_old_connections()
        if self.agent.draining and not self.drained:
            self.drained = True
            for held in self.agent.hand_out.take_all_back():
                self.agent.forget(held)
            self.agent.returned = not self.agent.returning  # for which the broker is not needed
        if self.cut_off:
            self.reconnected()
        if time.monotonic() - self.renewed > Conf.RETRY / 3:
            self.renew()
        self.give_back()
        if self.agent.draining:
            self.agent.returned = not self.agent.returning
            self.rest(0.5)
            return
        if self.agent.orders.paused:
            for held in self.agent.hand_out.take_all_back():
                self.agent.forget(held)
            self.give_back()
            self.rest(0.5)
            return
        self.try_alone()
        limit, size = self.room()
        if limit < 1 or size < 1:
            self.wait_for_room()
            return
        deliveries = self.broker.claim(limit, size)
        if self.pause:
            self.pause = 0.0
            logger.info("The broker answers again after %.0f s", time.monotonic() - self.away)
        if deliveries:
            self.agent.orders.refresh()
        if self.agent.begins_nothing:  # it was told so during the claim, which may have waited
            self.broker.release(dict.fromkeys((delivery.receipt for delivery in deliveries), 0.0))
            return
        for delivery in deliveries:
            self.take(delivery)
        self.agent.hand_out.feed()
        if not deliveries:
            idle = min(IDLE, Conf.RETRY / 3)
            self.agent.scoreboard.expect(LEASES, idle + ANSWER)
            self.broker.idle(idle, [self.agent.woken])
            self.rest(0)

    def rest(self, seconds: float) -> None:
        """Wait until there is news, or so many seconds are over."""
        if wait([self.agent.woken], seconds):
            self.agent.woken.recv(4096)

    # How much to claim

    def room(self) -> tuple[int, int]:
        """Return how many tasks to claim, and of how many bytes: what has begun does not count."""
        agent = self.agent
        with agent.lock:
            if time.monotonic() < self.claim_from or self.alone in agent.held or agent.suspects():
                return 0, 0
            ahead, waiting = self.ahead(), len(agent.waiting)
            if ahead - waiting < min(Conf.BULK, ahead // 2):  # too few to be worth a request
                return 0, 0
            pausing = min(len(agent.later), MOST_LATER)
            limit = min(Conf.BULK, ahead - waiting, MOST + Conf.QUEUE_LIMIT - len(agent.held) + pausing)
            return limit, MOST_BYTES - agent.waiting_bytes - agent.unsaved_bytes

    def ahead(self) -> int:
        """Return how many tasks may wait here: a stop or a death costs each of them a hand-out, or a lease."""
        now, begun = time.monotonic(), self.agent.begun
        if now - self.paced > AHEAD:
            self.pace = int((begun - self.begun_then) * AHEAD / (now - self.paced))
            self.paced, self.begun_then = now, begun
        pace = max(self.pace, begun - self.begun_then)
        ahead: int = min(Conf.QUEUE_LIMIT, LEAST_AHEAD * Conf.WORKERS + pace)
        return ahead

    def wait_for_room(self) -> None:
        """Wait until there may be room: for a moment while workers begin tasks, longer while they are long at them."""
        begun = self.agent.begun
        self.moment = SOONEST if begun != self.seen else min(self.moment * 2, 1.0)
        self.seen = begun
        self.rest(self.moment)

    # What is claimed

    def take(self, delivery: Delivery) -> None:
        """Hold a task, and offer it to the workers if it can be run."""
        if delivery.again:
            with self.agent.lock:
                # One with a next try is just being given back, and may come again before it is let go.
                mine = (held.receipt for held in self.agent.held.values() if not held.next_try)
                if delivery.receipt in mine:
                    return  # its lease was lost to nobody else, and is this cluster's anew
        held = self.agent.hold(
            RUN,
            payload=delivery.payload,
            receipt=delivery.receipt,
            queued_as=self.broker.receipt_of(delivery.receipt),
            claimed=time.time(),
            count=delivery.count,
            again=delivery.again,
            due=delivery.due,
        )
        died = f"The task was handed out {delivery.count - 1} times, and each time its cluster died."
        if delivery.count > 2 * MAX_DELIVERIES:
            self.agent.set_aside(held, died)
        elif delivery.count > MAX_DELIVERIES:
            held.does, held.extra = FAIL, (died, True, "", False, None)
            self.agent.offer(held)
        elif delivery.count > SUSPECT_AFTER:
            held.suspect = True
        else:
            self.agent.offer(held)

    def try_alone(self) -> None:
        """Offer one of the suspects once all else is settled: if the cluster dies again, no other one was begun.

        It is any of them, for whatever stands behind the one they die of would be handed out as often, and set aside.
        For the same reason this cluster keeps no other task meanwhile, if the broker does not count that.
        """
        suspects = self.agent.suspects()
        if not suspects or self.alone in self.agent.held:
            return
        chosen = choice(suspects)
        if self.broker.forgets_returned:
            for held in self.agent.hand_out.take_all_back():
                if held is not chosen:
                    self.agent.forget(held)
            self.give_back()
            suspects = [chosen]
        with self.agent.lock:
            if len(self.agent.held) == len(suspects):
                logger.warning("A task that was there when clusters died is run alone (hand-out %s)", chosen.count)
                self.alone, chosen.suspect = chosen.ticket, False
                self.agent.offer(chosen)
        self.agent.hand_out.feed()

    # What concerns the leases

    def renew(self) -> None:
        """Renew all leases. A task that was lost meanwhile and is not begun is left to whoever has it now."""
        with self.agent.lock:
            by_receipt = {held.receipt: held for held in self.agent.held.values() if held.receipt}
        lost = self.broker.renew(list(by_receipt))
        self.renewed = time.monotonic()
        if lost:
            self.drop({by_receipt[receipt].ticket for receipt in lost})

    def drop(self, tickets: set[int]) -> None:
        """Hold tasks no more that another cluster may have, unless they are begun."""
        with self.agent.lock:
            idle = self.agent.hand_out.take_all_back()
            gone = [held for held in idle if held.ticket in tickets]
            for held in gone:
                del self.agent.held[held.ticket]
            for held in idle:
                if held.ticket not in tickets and not held.suspect:
                    self.agent.offer(held)
            if gone:
                logger.warning("The leases of %s waiting tasks were lost", len(gone))
        self.agent.hand_out.feed()

    def give_back(self) -> None:
        """Give tasks back to the broker, so that any cluster can start them at once; in the next turn if it is away."""
        with self.agent.lock:
            returning = list(self.agent.returning)
        if not returning:
            return
        self.broker.release(delays(returning))
        with self.agent.lock:
            for held in returning:
                self.agent.returning.remove(held)
                self.agent.held.pop(held.ticket, None)
        logger.info("Gave %s tasks back to %s", len(returning), self.broker.list_key)

    def wait_for_broker(self, error: Exception) -> None:
        """Wait before the next try; a line a try. What was not begun is dropped before its lease runs out."""
        self.pause = min(self.pause * 2 or 1.0, LONGEST_PAUSE)
        logger.error("The broker does not answer (%s); next try in %.0f s", brief(error), self.pause)
        if time.monotonic() - self.renewed > Conf.RETRY * 0.75:
            self.drop(set(self.agent.held))
        self.away = self.away if self.pause > 1 else time.monotonic()
        self.cut_off = self.cut_off or time.monotonic()
        self.rest(self.pause)

    def reconnected(self) -> None:
        """Renew before anything is claimed: after an outage all leases may have run out, those of others too."""
        self.broker.queue_size()  # raises if it is still away, which renew() does not notice while nothing is held
        if time.monotonic() - self.cut_off > Conf.RETRY / 2:
            self.claim_from = time.monotonic() + LONGEST_PAUSE + 1
        self.renew()
        self.cut_off = 0.0
