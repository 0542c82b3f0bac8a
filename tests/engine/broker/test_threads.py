"""Threads of one process share a broker."""

import threading
import time
from queue import Empty, SimpleQueue

import pytest
from django_q.conf import Conf
from worker.delivery import Delivery

from .conftest import Brokers
from .contract import PLENTY, in_threads, many, sizes

MANY = many(600)


def test_threads_share_a_broker(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some queue, one claims and renews, others acknowledge or give back: each task is done once."""
    monkeypatch.setattr(Conf, "RETRY", 60)
    (broker,) = brokers()
    claimed: SimpleQueue[Delivery] = SimpleQueue()
    held: set[str] = set()
    done: list[str] = []
    returned: set[str] = set()
    released: set[str] = set()  #: by receipt, which may be the same when it is claimed again
    lost: set[str] = set()
    over = threading.Event()
    end = time.monotonic() + 60

    def queue(start: int) -> None:
        for number in range(start, MANY, 2):
            broker.enqueue(str(number))

    def claim() -> None:
        while not over.is_set() and time.monotonic() < end:
            for delivery in broker.claim(20, PLENTY):
                held.add(delivery.receipt)
                claimed.put(delivery)

    def renew() -> None:
        while not over.is_set() and time.monotonic() < end:
            asked = set(held)
            gone = broker.renew(asked)
            lost.update(gone & held - released)  # those that are done, or were given back, meanwhile are no loss
            over.wait(0.05)

    def finish() -> None:
        while len(done) < MANY and time.monotonic() < end:
            try:
                delivery = claimed.get(timeout=0.2)
            except Empty:
                continue
            held.discard(delivery.receipt)
            if int(delivery.payload) % 7 == 0 and delivery.payload not in returned:
                returned.add(delivery.payload)
                released.add(delivery.receipt)
                broker.release({delivery.receipt: 0})
            else:
                broker.acknowledge_all([delivery.receipt])
                done.append(delivery.payload)
        over.set()

    in_threads(lambda: queue(0), lambda: queue(1), claim, renew, finish, finish)
    assert sorted(done, key=int) == [str(number) for number in range(MANY)]
    assert not lost
    assert sizes(broker) == [0, 0]
