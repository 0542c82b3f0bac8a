"""What is MongoDB's alone: its documents, its clock, and how it is written to."""

import datetime
import os
import time
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django_q.conf import Conf

from .conftest import Brokers, forget
from .contract import PLENTY, broker_name, receipts, sizes, take, texts

if broker_name() != "mongodb":
    pytest.skip("the broker is another", allow_module_level=True)

from django_q.brokers.mongo import Mongo
from pymongo.errors import ConfigurationError
from worker.broker import broker as module


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease run out by itself."""
    monkeypatch.setattr(Conf, "RETRY", 60)


def test_tasks_that_a_plain_django_q2_has_left_are_taken(brokers: Brokers) -> None:
    (broker,) = brokers()
    plain = Mongo(broker.list_key)
    plain.enqueue("waiting")
    plain.enqueue("begun")
    plain.dequeue()
    plain.connection.close()
    taken = take(broker, 2)
    assert sorted(texts(taken)) == ["begun", "waiting"]
    assert [delivery.count for delivery in taken] == [1, 1]
    assert broker.renew(receipts(taken)) == set()


def test_the_index_that_serves_claims_is_there_once_a_worker_is(brokers: Brokers) -> None:
    one, two = brokers(2)

    def indexes() -> list[list[Any]]:
        return [list(map(tuple, index["key"])) for index in one.collection.index_information().values()]

    identity, claims = [("_id", 1)], [("lock", -1), ("_id", 1)]
    one.enqueue("a task")
    assert indexes() == [identity]
    one.claim(1, PLENTY)
    two.claim(1, PLENTY)
    assert indexes() == [identity, claims]
    one.purge_queue()
    assert indexes() == [identity, claims]
    one.delete_queue()
    one.claim(1, PLENTY)
    assert indexes() == [identity, claims]


def test_a_task_that_was_given_back_keeps_its_place_and_is_not_counted(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue_all([str(number) for number in range(4)])
    taken = receipts(broker.claim(3, PLENTY))
    broker.release({taken[0]: 0})
    time.sleep(0.1)
    broker.release({taken[1]: 0})
    broker.release({taken[2]: 0.5})
    first = broker.claim(1, PLENTY) + broker.claim(1, PLENTY)
    time.sleep(1)
    second = broker.claim(2, PLENTY)
    assert texts(first) == ["0", "1"]
    assert sorted(texts(second)) == ["2", "3"]
    assert [delivery.count for delivery in first + second] == [1, 1, 1, 1]


def test_a_receipt_is_of_no_use_after_the_next_claim(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even beside that of another task which was taken by that very claim."""
    monkeypatch.setattr(Conf, "RETRY", 1)
    (broker,) = brokers()
    broker.enqueue("one")
    old = receipts(take(broker, 1))
    broker.enqueue("two")
    time.sleep(1.2)
    monkeypatch.setattr(Conf, "RETRY", 60)
    new = {delivery.payload: delivery.receipt for delivery in broker.claim(2, PLENTY)}
    assert broker.renew([*old, new["two"]]) == set(old)
    broker.release(dict.fromkeys([*old, new["two"]], 0))
    assert sizes(broker) == [1, 1]
    again = receipts(take(broker, 1))
    broker.acknowledge_all(old + again)
    assert sizes(broker) == [0, 1]
    assert broker.renew([new["one"]]) == set()


def test_the_clock_is_the_servers(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = brokers(2)
    one.enqueue("a task")

    class Ahead(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) + datetime.timedelta(hours=2)

    monkeypatch.setattr("datetime.datetime", Ahead)
    monkeypatch.setattr(module, "datetime", Ahead)
    one.claim(1, PLENTY)
    assert two.claim(1, PLENTY) == []
    left = (one.collection.find_one()["lock"] - one.now()).total_seconds()
    assert 30 < left <= 60


def test_writes_wait_for_a_majority_and_calls_come_to_an_end(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    (broker,) = brokers()
    assert broker.collection.write_concern.document == {"w": "majority"}
    assert broker.connection.options.timeout == 10
    assert broker.connection.options.retry_writes
    monkeypatch.setitem(Conf.MONGO, "w", 1)
    forget()
    assert module.client(os.getpid()).write_concern.document == {"w": 1}
    monkeypatch.undo()
    forget()


def test_a_process_has_one_client_and_a_fork_its_own(brokers: Brokers) -> None:
    mine = brokers()[0].connection
    assert module.client(os.getpid()) is mine
    assert module.client(-1) is not mine
    module.client(-1).close()


@pytest.mark.parametrize(
    "url",
    [
        "mongo://somebody:sswd@localhost",
        "mongodb://somebody:pa/sswd@localhost",
        "mongodb://somebody:pa?sswd@localhost",
        "mongodb://somebody:pa@sswd@localhost",
        "mongodb://somebody:pa:sswd@localhost",
        "mongodb://somebody:pa%sswd@localhost",
        "mongodb://somebody:sswd@localhost:99999",
    ],
)
def test_a_url_that_cannot_be_read_is_told_how_to_be_written(
    url: str, brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Conf.MONGO, "host", url)
    forget()
    with pytest.raises(ImproperlyConfigured, match=r"MONGODB_URL cannot be read: .* %2F for /, %23 for #") as refusal:
        module.client(os.getpid())
    assert "sswd" not in str(refusal.value)

    with pytest.raises(ImproperlyConfigured, match="MONGODB_URL cannot be read"):
        module.Broker.check_settings()


@pytest.mark.parametrize(("path", "name"), [("", "queues"), ("/app?w=1", "app"), ("/admin", "queues")])
def test_the_queue_is_in_the_database_that_the_url_names(path: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Conf.MONGO, "host", f"mongodb://localhost:1{path}")
    monkeypatch.setattr(Conf, "MONGO_DB", "queues")
    forget()
    assert module.Broker("tasks").collection.full_name == f"{name}.tasks"
    forget()


@pytest.mark.parametrize("query", ["directConnection=true&loadBalanced=true", "tls=true&tlsCAFile=/-"])
def test_an_option_that_cannot_work_is_named(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Conf.MONGO, "host", f"mongodb://somebody:secret@localhost/?{query}")
    forget()
    with pytest.raises(ImproperlyConfigured, match="MONGODB_URL has an option after its") as refusal:
        module.client(os.getpid())
    assert "secret" not in str(refusal.value)


def test_servers_of_names_may_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Conf.MONGO, "host", "mongodb+srv://somebody:secret@nowhere.invalid.example")
    module.Broker.check_settings()
    forget()
    with pytest.raises(ConfigurationError):
        module.client(os.getpid())
