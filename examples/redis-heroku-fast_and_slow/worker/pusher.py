"""The pusher: claims tasks, keeps their leases, and gives back what was not begun.

It takes the place of django-q2 1.11.1's, which ends at the first error of the broker, deletes a payload that it cannot
verify, dies of one that it cannot unpickle, and lets the lease of a task run while it waits for its turn.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from secrets import choice

from django.conf import settings
from django.db import close_old_connections
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.signing import SignedPackage

from worker.delivery import MAX_DELIVERIES, SUSPECT_AFTER, Delivery, Leasing, Task, brief, failed, unreadable
from worker.pipes import Board, Results, Tasks

AHEAD = 1.0  #: seconds of the workers' work to fetch ahead: if the cluster is killed, this much waits for its leases
LEAST_AHEAD = 5  #: tasks for each worker to fetch ahead, however long it is at one
IDLE = 30.0  #: seconds after which an empty queue is looked at even if nothing has announced a task
UNSAVED = 500  #: tasks that may run or be done, and not be reported as saved: what a `kill -9` may have run twice
SOONEST = 0.005  #: seconds after which a full queue is looked at again; twice as many each time that nobody took a task
LONGEST_PAUSE = 5.0  #: seconds between two tries while the broker is away

logger = logging.getLogger("django-q")


@dataclass(frozen=True)
class Death:
    """What the guard knows when a worker has died."""

    ticket: int  #: the task that it took last
    reason: str
    taken: int  #: the highest ticket that any worker had taken
    alive: frozenset[int]  #: the tickets of the others


class Pusher:
    """Holds the cluster's tasks from their claim until the monitor reports them done."""

    def __init__(self, tasks: Tasks, results: Results, board: Board, orders: Connection, news: Connection) -> None:
        """Put tasks into the queue; hear of deaths from the guard, and of what is done from the monitor."""
        self.tasks, self.results, self.board, self.orders, self.news = tasks, results, board, orders, news
        self.held: dict[int, Task] = {}
        self.deaths: dict[int, tuple[Death, set[int]]] = {}
        self.failing: set[int] = set()  #: tasks of which an attempt has failed, and the monitor has not saved that yet
        self.returning: set[int] = set()  #: to be given back in the next turn
        self.tickets = 0
        self.alone = 0  #: the ticket of a task beside which no other one is to begin
        self.broker: Leasing = get_broker()
        self.renewed = time.monotonic()
        self.looked = self.renewed
        self.claim_from = 0.0
        self.cut_off = 0.0  #: when the broker was found to be away, 0 if it is not
        self.pause = 0.0
        self.moment, self.seen = SOONEST, 0  #: how long to wait for room, and what workers had taken then
        self.pace = 0  #: what workers took within AHEAD seconds
        self.paced, self.taken_then = self.renewed, 0  #: since when what they take is counted anew, and what they had

    def run(self) -> None:
        """Work until the guard says quit; then give back all that is still held."""
        while not self.board.quitting.is_set():
            self.board.pusher_beat.value = time.monotonic()
            self.listen()
            try:
                self.turn()
            except Exception as error:  # each broker has exceptions of its own
                self.wait_for_broker(error)
        self.listen()
        for task in self.held.values():
            logger.warning("%s was cut off after %s s; it is given back, and run again", task["name"], settings.Q_GRACE)
        try:
            self.give_back(self.held)
        except Exception as error:  # the broker is away; whatever it is, the leases run out
            reason = brief(error)
            logger.error("%s tasks could not be given back (%s); they wait for their leases", len(self.held), reason)

    def turn(self) -> None:
        """Renew, then claim what there is room for, or wait."""
        close_old_connections()
        if self.cut_off:
            self.reconnected()
        if time.monotonic() - self.renewed > Conf.RETRY / 3:
            self.renew()
        self.give_back()
        if self.board.draining.is_set() and not self.board.drained.value:
            self.give_back([*self.take_back(), *self.suspects()])
            self.board.drained.value = True
        suspects = self.suspects()
        if suspects and self.alone not in self.held:
            self.try_alone(suspects)
        room = self.room()
        if room < 1:
            self.wait_for_room()
            return
        deliveries = self.broker.claim(room)
        if self.board.draining.is_set():  # it was told so during the claim, which may have waited
            self.broker.release([delivery.receipt for delivery in deliveries])
            return
        for delivery in deliveries:
            self.push(delivery)
        if deliveries:
            self.board.starving.value = 0.0
        else:
            self.broker.idle(min(IDLE, Conf.RETRY / 3), [self.orders, self.news])
            self.look_for_waiting()

    def room(self) -> int:
        """Return how many tasks to claim: what was begun does not take the place of what is to wait here."""
        if self.board.draining.is_set() or time.monotonic() < self.claim_from:
            return 0
        if self.alone in self.held or self.suspects():
            return 0
        waiting = max(0, self.board.sent.value - self.board.taken)
        room: int = min(Conf.BULK, self.ahead() - waiting, UNSAVED + Conf.QUEUE_LIMIT - len(self.held))
        return room

    def ahead(self) -> int:
        """Return how many tasks may wait here: a stop or a death costs each of them a hand-out, or a lease."""
        now, taken = time.monotonic(), self.board.taken
        if now - self.paced > AHEAD:
            self.pace = int((taken - self.taken_then) * AHEAD / (now - self.paced))
            self.paced, self.taken_then = now, taken
        pace = max(self.pace, taken - self.taken_then)
        ahead: int = min(Conf.QUEUE_LIMIT, LEAST_AHEAD * Conf.WORKERS + pace)
        return ahead

    def wait_for_room(self) -> None:
        """Wait until there may be room: for a moment while workers take tasks, longer while they are long at them."""
        taken = self.board.taken
        self.moment = SOONEST if taken != self.seen else min(self.moment * 2, 1.0)
        self.seen = taken
        wait([self.orders, self.news], self.moment)

    def look_for_waiting(self) -> None:
        """Let the guard know if tasks wait though the broker hands out none; not faster than an idle queue is asked."""
        now = time.monotonic()
        if now - self.looked > IDLE:
            self.looked = now
            waits = not self.held and self.broker.queue_size() > 0
            self.board.starving.value = (self.board.starving.value or now) if waits else 0.0

    def push(self, delivery: Delivery) -> None:
        """Put a task into the queue, or report one that cannot be run to the monitor as failed."""
        stamp = {"ack_id": delivery.receipt, "cluster": Conf.CLUSTER_NAME, "ticket": self.next_ticket()}
        try:
            task = SignedPackage.loads(delivery.payload) | stamp
        except Exception as error:  # a wrong signature, or whatever unpickling raises
            reason = f"The task cannot be read: {brief(error)}"
            task = unreadable(delivery.payload, reason) | stamp
        if delivery.count > MAX_DELIVERIES and not task.get("set_aside"):
            reason = f"The task was handed out {delivery.count - 1} times, and each time its cluster died."
            task = failed(task, reason) | {"set_aside": True}
        self.held[task["ticket"]] = task
        if task.get("set_aside"):
            self.results.put(task)
        elif delivery.count > SUSPECT_AFTER:
            task["suspect"] = True
        else:
            self.queue(task)

    def suspects(self) -> list[int]:
        """Return the tasks of which one may be what clusters have died of; they are in no queue."""
        return [ticket for ticket, task in self.held.items() if task.get("suspect")]

    def try_alone(self, suspects: list[int]) -> None:
        """Queue one of them once all else is done and saved: if the cluster dies again, no other one was begun.

        It is any of them, for whatever stands behind the guilty one would be handed out as often, and set aside too.
        For the same reason this cluster keeps no other task meanwhile, if the broker does not count that.
        """
        chosen = choice(suspects)
        if self.broker.forgets_returned:
            self.give_back([*self.take_back(), *set(suspects).difference([chosen])])
            suspects = [chosen]
        if len(self.held) == len(suspects):
            logger.warning("%s was there when clusters died; it is run alone", self.held[chosen]["name"])
            self.alone = self.next_ticket()
            self.held[self.alone] = self.held.pop(chosen) | {"suspect": False, "ticket": self.alone}
            self.queue(self.held[self.alone])

    def queue(self, task: Task) -> None:
        """Put a task into the queue."""
        self.tasks.put(task)
        self.board.sent.value = task["ticket"]

    def next_ticket(self) -> int:
        """Return a number that is higher than all before."""
        self.tickets += 1
        return self.tickets

    # What others report

    def listen(self) -> None:
        """Hear the guard and the monitor."""
        while self.orders.poll():
            if death := self.orders.recv():  # None only wakes
                self.mourn(death)
        while self.news.poll():
            for ticket, unreadable_result in self.news.recv():
                if ticket in self.deaths:
                    self.bury(*self.deaths.pop(ticket))
                elif unreadable_result and ticket in self.held:
                    self.fail(ticket, unreadable_result)
                else:
                    self.held.pop(ticket, None)
                    self.failing.discard(ticket)

    def mourn(self, death: Death) -> None:
        """Find out, by sending a sign behind them, which results the dead worker has still handed on."""
        taken = {ticket for ticket in self.held if ticket <= death.taken}.difference(self.suspects())
        suspects = taken - death.alive - {death.ticket}
        self.failing.add(death.ticket)
        sign = self.next_ticket()
        self.deaths[sign] = (death, suspects)
        self.results.put({"ticket": sign, "sign": True})

    def bury(self, death: Death, suspects: set[int]) -> None:
        """Report the task that the worker died of as failed, and give back what it had ended but not handed on."""
        self.returning |= suspects - self.failing
        self.fail(death.ticket, death.reason)

    def fail(self, ticket: int, reason: str) -> None:
        """Report a task of which an attempt has failed; it stays held until the monitor has saved that."""
        self.failing.discard(ticket)
        if ticket in self.held:
            self.failing.add(ticket)
            self.results.put(failed(self.held[ticket], reason))

    # What concerns the leases

    def renew(self) -> None:
        """Renew all leases. A task that was lost meanwhile and is not begun is left to whoever has it now."""
        by_receipt = {task["ack_id"]: ticket for ticket, task in self.held.items()}
        lost = {by_receipt[receipt] for receipt in self.broker.renew(by_receipt)}
        self.renewed = time.monotonic()
        for ticket in lost.intersection(self.suspects()):
            lost.remove(ticket)
            del self.held[ticket]
        if any(ticket > self.board.taken for ticket in lost):
            waiting = self.take_back()
            logger.warning("The leases of %s waiting tasks were lost", len(lost.intersection(waiting)))
            for ticket in waiting:
                if ticket in lost:
                    del self.held[ticket]
                else:
                    self.queue(self.held[ticket])

    def take_back(self) -> list[int]:
        """Take out of the queue what no worker has taken, and return the tickets."""
        tickets = [task["ticket"] for task in self.tasks.take_back()]
        self.board.sent.value = 0
        return [ticket for ticket in tickets if ticket in self.held]

    def give_back(self, tickets: Iterable[int] = ()) -> None:
        """Give tasks back to the broker, so that any cluster can start them at once; in the next turn if it is away."""
        self.returning.update(tickets)
        self.returning.intersection_update(self.held)
        if self.returning:
            self.broker.release([self.held[ticket]["ack_id"] for ticket in self.returning])
            logger.info("Gave %s tasks back to %s", len(self.returning), self.broker.list_key)
        while self.returning:
            del self.held[self.returning.pop()]

    def wait_for_broker(self, error: Exception) -> None:
        """Wait before the next try; a line a try. What was not begun is dropped before its lease runs out."""
        self.pause = min(self.pause * 2 or 1.0, LONGEST_PAUSE)
        logger.error("The broker does not answer (%s); next try in %.0f s", brief(error), self.pause)
        if time.monotonic() - self.renewed > Conf.RETRY * 0.75:
            for ticket in [*self.take_back(), *self.suspects()]:
                del self.held[ticket]
        self.cut_off = self.cut_off or time.monotonic()
        self.board.starving.value = 0.0  # what it said before it went away does not count
        wait([self.orders, self.news], self.pause)

    def reconnected(self) -> None:
        """Renew before anything is claimed: after an outage all leases may have run out, those of others too."""
        self.broker.queue_size()  # raises if it is still away, which renew() does not notice while nothing is held
        if time.monotonic() - self.cut_off > Conf.RETRY / 2:
            self.claim_from = time.monotonic() + LONGEST_PAUSE + 1
        self.renew()
        self.cut_off, self.pause = 0.0, 0.0
        logger.info("The broker answers again")


def pusher(tasks: Tasks, results: Results, board: Board, orders: Connection, news: Connection) -> None:
    """Run a pusher, as a process of the cluster."""
    Pusher(tasks, results, board, orders, news).run()
