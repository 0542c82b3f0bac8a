"""What is MongoDB's alone: its documents, its clock, and how it is written to."""

from tests.test_broker import ask


def test_tasks_that_a_plain_django_q2_has_left_are_taken(environment: dict[str, str]) -> None:
    code = """
from django_q.brokers.mongo import Mongo
broker, plain = get_broker("plain"), Mongo("plain")
plain.enqueue("waiting")
plain.enqueue("begun")
plain.dequeue()
taken = take(broker, 2)
answer(sorted(texts(taken)), [delivery.count for delivery in taken], list(broker.renew(receipts(taken))))
"""
    assert ask(code, environment) == [["begun", "waiting"], [1, 1], []]


def test_the_index_that_serves_claims_is_there_once_a_worker_is(environment: dict[str, str]) -> None:
    code = """
def indexes(broker):
    return [list(map(list, index["key"])) for index in broker.collection.index_information().values()]

one, two = brokers("index")
one.enqueue("a task")
before = indexes(one)
one.claim(1)
two.claim(1)
during = indexes(one)
one.purge_queue()
purged = indexes(one)
one.delete_queue()
one.claim(1)
answer(before, during, purged, indexes(one))
"""
    identity, claims = [["_id", 1]], [["lock", -1], ["_id", 1]]
    before, *later = ask(code, environment)
    assert before == [identity]
    assert later == [[identity, claims]] * 3


def test_a_task_that_was_given_back_keeps_its_place_and_is_not_counted(environment: dict[str, str]) -> None:
    code = """
Conf.RETRY = 60
one, two = brokers("place")
for number in range(4):
    one.enqueue(str(number))
taken = receipts(one.claim(3))
two.release(taken[:1])
time.sleep(0.1)
two.release(taken[1:2])
two.release(taken[2:], delay=0.5)
first = two.claim(1) + two.claim(1)
time.sleep(1)
second = two.claim(2)
answer(texts(first), sorted(texts(second)), [delivery.count for delivery in first + second])
"""
    assert ask(code, environment) == [["0", "1"], ["2", "3"], [1, 1, 1, 1]]


def test_a_receipt_is_of_no_use_after_the_next_claim(environment: dict[str, str]) -> None:
    code = """
Conf.RETRY = 1
broker = get_broker("receipts")
broker.enqueue("a task")
old = receipts(broker.claim(1))
time.sleep(1.2)
Conf.RETRY = 60
new = receipts(broker.claim(1))
lost = broker.renew(old + new)
broker.release(old)
answer(list(lost) == old, sizes(broker))
"""
    assert ask(code, environment) == [True, [0, 1]]


def test_the_clock_is_the_servers(environment: dict[str, str]) -> None:
    code = """
import datetime
from unittest import mock

class Ahead(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(hours=2)

Conf.RETRY = 60
one, two = brokers("clock")
one.enqueue("a task")
with mock.patch("datetime.datetime", Ahead), mock.patch("worker.broker.datetime", Ahead):
    one.claim(1)
    stolen = two.claim(1)
    two.release([])
answer(texts(stolen), (one.collection.find_one()["lock"] - one.now()).total_seconds())
"""
    stolen, left = ask(code, environment)
    assert stolen == []
    assert 30 < left <= 60


def test_writes_wait_for_a_majority_and_calls_come_to_an_end(environment: dict[str, str]) -> None:
    code = """
from worker.broker import client
broker = get_broker("options")
options = [broker.collection.write_concern.document, broker.connection.options.timeout]
Conf.MONGO["w"] = 1
answer(*options, client(0).write_concern.document)
"""
    assert ask(code, environment) == [{"w": "majority"}, 1.333, {"w": 1}]  # a third of a lease


def test_a_process_has_one_client_and_a_fork_its_own(environment: dict[str, str]) -> None:
    code = """
import os
mine = get_broker("forks").connection
reader, writer = os.pipe()
if not os.fork():
    os.write(writer, b"another" if get_broker("forks").connection is not mine else b"the same")
    os._exit(0)
answer(get_broker("forks").connection is mine, os.read(reader, 100).decode())
"""
    assert ask(code, environment) == [True, "another"]


def test_a_url_of_another_kind_is_refused(environment: dict[str, str]) -> None:
    code = """
from django.core.exceptions import ImproperlyConfigured
try:
    get_broker()
except ImproperlyConfigured as error:
    answer(str(error))
"""
    (sentence,) = ask(code, {**environment, "MONGODB_URL": "mongo://somebody:secret@localhost"})
    assert sentence.startswith("MONGODB_URL cannot be used: Invalid URI scheme")
    assert "secret" not in sentence
