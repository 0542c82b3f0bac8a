"""The contract of worker.delivery.Leasing, which every broker keeps, on a server of its own.

Two brokers in one process stand for two clusters: they share nothing but the server.
"""

import json
from typing import Any

import pytest

from tests.broker_server import TASKS
from tests.processes import manage

LEASE = 4  #: seconds; longer than a broker waits for a task

PRELUDE = f"""
import json, threading, time
from multiprocessing import get_context

from django.db import connections
from django_q.brokers import get_broker
from django_q.conf import Conf

LEASE = Conf.RETRY = {LEASE}

def brokers(name, number=2):
    return [get_broker(name) for _ in range(number)]

def take(broker, number, seconds=20.0):
    taken, end = [], time.monotonic() + seconds
    while len(taken) < number and time.monotonic() < end:
        taken += broker.claim(number - len(taken))
    return taken

def texts(deliveries):
    return [d.payload.decode() if isinstance(d.payload, bytes) else d.payload for d in deliveries]

def receipts(deliveries):
    return [delivery.receipt for delivery in deliveries]

def sizes(broker):
    return [broker.queue_size(), broker.lock_size() or 0]

def answer(*values):
    print(json.dumps(values))
"""


def ask(code: str, env: dict[str, str]) -> list[Any]:
    """Run a script in a process of its own, and return what it answers."""
    done = manage("shell", "--no-imports", "-c", PRELUDE + code, env=env)
    assert done.returncode == 0, done.stderr
    answer: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_many_tasks_are_queued_at_once(environment: dict[str, str]) -> None:
    code = """
from django_q.signing import SignedPackage
from worker.enqueue import enqueue_many

broker, = brokers("at-once", 1)
ids = enqueue_many("math.floor", ((number,) for number in range(25)), broker=broker, group="all")
tasks = [SignedPackage.loads(text) for text in texts(take(broker, 25))]
numbers = [task["args"][0] for task in tasks]
in_order = numbers == sorted(numbers) or not broker.ordered
answer(sorted(numbers), {task["id"] for task in tasks} == set(ids), [task["group"] for task in tasks], in_order)
"""
    assert ask(code, environment) == [list(range(25)), True, ["all"] * 25, True]


def test_tasks_are_handed_out_once_until_they_are_done(environment: dict[str, str]) -> None:
    code = """
one, two = brokers("once")
for number in range(3):
    one.enqueue(f"task {number}")
before = sizes(two)
taken = take(one, 2) + take(two, 1)
during = sizes(one)
rest = two.claim(1)
two.acknowledge_all(receipts(taken))
one.acknowledge_all([])
kinds = {type(receipt).__name__ for receipt in receipts(taken)}
answer(sorted(texts(taken)), [delivery.count for delivery in taken], before, during, rest, sizes(one), list(kinds))
"""
    assert ask(code, environment) == [
        ["task 0", "task 1", "task 2"],
        [1, 1, 1],
        [3, 0],
        [0, 3],
        [],
        [0, 0],
        ["str"],
    ]


def test_tasks_come_in_order(environment: dict[str, str]) -> None:
    code = """
(broker,) = brokers("order", 1)
for number in range(100):
    broker.enqueue(f"task {number:03}")
taken = []
while len(taken) < 100:
    taken += take(broker, 7 if len(taken) < 98 else 2)
answer(texts(taken), getattr(broker, "ordered", True))
"""
    taken, ordered = ask(code, environment)
    assert (taken if ordered else sorted(taken)) == [f"task {number:03}" for number in range(100)]


def test_a_limit_is_kept(environment: dict[str, str]) -> None:
    code = """
(broker,) = brokers("limit", 1)
for number in range(5):
    broker.enqueue(f"task {number}")
answer(len(broker.claim(2)) <= 2, len(take(broker, 1)))
"""
    assert ask(code, environment) == [True, 1]


def test_a_lease_that_runs_out_is_lost_to_the_next_claim(environment: dict[str, str]) -> None:
    code = """
from django_q.signing import SignedPackage
one, two = brokers("expiry")
one.enqueue(SignedPackage.dumps({"id": "a task"}))  # some brokers count in the payload
first = take(one, 1)
start = time.monotonic()
second = take(two, 1)
waited = time.monotonic() - start
lost_by_one, lost_by_two = one.renew(receipts(first)), two.renew(receipts(second))
three = brokers("expiry", 1)[0]
thief = three.claim(1)
name = SignedPackage.loads(texts(second)[0])["id"]
answer(name, second[0].count, waited, lost_by_one == set(receipts(first)), list(lost_by_two), thief)
"""
    name, count, waited, reported, lost_by_two, thief = ask(code, environment)
    assert (name, count) == ("a task", 2)
    assert LEASE * 0.8 < waited < LEASE + 10
    assert (reported, lost_by_two, thief) == (True, [], [])


def test_a_lease_that_is_renewed_is_kept(environment: dict[str, str]) -> None:
    code = """
one, two = brokers("renewal")
one.enqueue("a task")
taken = take(one, 1)
lost, over = [], threading.Event()

def renew():
    while not over.wait(LEASE / 5):
        lost.extend(one.renew(receipts(taken)))
    connections.close_all()

if connections["default"].vendor != "sqlite":
    connections.close_all()
thread = threading.Thread(target=renew)
thread.start()
stolen, end = [], time.monotonic() + LEASE * 2.5
while time.monotonic() < end:
    stolen += two.claim(1)
    two.idle(0.2, [])
over.set()
thread.join()
answer(lost, texts(stolen), list(one.renew([])))
"""
    assert ask(code, environment) == [[], [], []]


def test_a_task_is_given_back_by_a_process_that_has_not_claimed_it(environment: dict[str, str]) -> None:
    code = """
Conf.RETRY = 60
one, monitor, two = brokers("release", 3)
one.enqueue("a task")
taken = take(one, 1)
monitor.release(receipts(taken))
monitor.release([])
start = time.monotonic()
again = take(two, 1, 30)
answer(texts(again), again[0].count <= 2, time.monotonic() - start)
"""
    texts, counted, waited = ask(code, environment)
    assert (texts, counted) == (["a task"], True)
    assert waited < 10


def test_a_task_is_given_back_with_a_delay(environment: dict[str, str]) -> None:
    code = """
Conf.RETRY = 60
one, monitor, two = brokers("delay", 3)
one.enqueue("a task")
taken = take(one, 1)
monitor.release(receipts(taken), delay=3)
start = time.monotonic()
again = take(two, 1, 40)
answer(texts(again), time.monotonic() - start)
"""
    texts, waited = ask(code, environment)
    assert texts == ["a task"]
    assert 2.5 < waited < 20


def test_a_queue_is_emptied(environment: dict[str, str]) -> None:
    code = """
one, two = brokers("purge")
for number in range(3):
    one.enqueue(f"task {number}")
taken = take(one, 1)
two.purge_queue()
emptied = sizes(two)
one.acknowledge_all(receipts(taken))
one.enqueue("another")
after = take(two, 1)
two.acknowledge_all(receipts(after))
two.delete_queue()
answer(emptied, texts(after))
"""
    assert ask(code, environment) == [[0, 0], ["another"]]


def test_the_brokers_of_django_q2_are_spoken_to_in_the_same_words(environment: dict[str, str]) -> None:
    code = """
(broker,) = brokers("words", 1)
for number in range(3):
    broker.enqueue(f"task {number}")
taken = []
while len(taken) < 3:
    taken += broker.dequeue() or []
pairs = dict(taken)
for receipt, finish in zip(pairs, (broker.acknowledge, broker.fail, broker.delete)):
    finish(receipt)
payloads = [payload.decode() if isinstance(payload, bytes) else payload for payload in pairs.values()]
answer(sorted(payloads), sizes(broker), bool(broker.ping()), bool(broker.info()), get_broker().list_key)
"""
    *answers, main = ask(code, environment)
    assert answers == [["task 0", "task 1", "task 2"], [0, 0], True, True]
    assert main != "words"


@pytest.mark.parametrize("news", [True, False])
def test_an_idle_cluster_hears_its_other_processes(news: bool, environment: dict[str, str]) -> None:
    code = f"""
(broker,) = brokers("idle", 1)
reader, writer = get_context("fork").Pipe(duplex=False)
broker.idle(1, [reader])  # some brokers find out at first what they can wait for
if {news}:
    writer.send(None)
start = time.monotonic()
broker.idle(6 if {news} else 1, [reader])
answer(time.monotonic() - start)
"""
    (waited,) = ask(code, environment)
    assert waited < 3


def test_many_clusters_share_the_tasks(environment: dict[str, str]) -> None:
    code = f"""
Conf.RETRY = 600
(broker,) = brokers("many", 1)
broker.enqueue_all([str(number) for number in range({TASKS})])
connections.close_all()

def work():
    broker, taken, last = brokers("many", 1)[0], [], time.monotonic()
    while time.monotonic() - last < 5:
        deliveries = broker.claim(10)
        broker.acknowledge_all(receipts(deliveries))
        taken += texts(deliveries)
        if deliveries:
            last = time.monotonic()
        else:
            broker.idle(0.2, [])
    shares.put(taken)

fork = get_context("fork")
shares = fork.SimpleQueue()
processes = [fork.Process(target=work) for _ in range(8)]
for process in processes:
    process.start()
together = sorted(int(text) for _ in processes for text in shares.get())
answer(len(together), together == list(range({TASKS})), sizes(broker))
"""
    assert ask(code, environment) == [TASKS, True, [0, 0]]
