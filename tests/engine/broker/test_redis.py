"""What is Redis's alone: the URL, a server that is full, and what others have left on it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from django.core.exceptions import ImproperlyConfigured
from django_q.conf import Conf
from project import free_port

from .conftest import Brokers, forget
from .contract import PLENTY, Relay, broker_name, receipts, sizes, take, texts, until

if broker_name() != "redis":
    pytest.skip("the broker is another", allow_module_level=True)

import redis
from redis.connection import Connection
from worker.broker import Broker
from worker.broker.client import client, connection_options, usable
from worker.health import why_away


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease run out by itself."""
    monkeypatch.setattr(Conf, "RETRY", 60)


@pytest.fixture
def server() -> Iterator[redis.Redis]:
    """Connect to the server, whose settings may be changed for a while."""
    with redis.Redis.from_url(Conf.REDIS) as connection:
        yield connection
        connection.config_set("maxmemory", 0)
        connection.config_set("maxmemory-policy", "noeviction")
        connection.replicaof("NO", "ONE")


@pytest.mark.parametrize(
    ("url", "dyno", "verified"),
    [
        ("rediss://:pw@host:6379", "web.1", False),
        ("rediss://:pw@host:6379?ssl_cert_reqs=required", "web.1", True),
        ("rediss://:pw@host:6379", "", True),
        ("redis://host:6379/0", "web.1", True),
    ],
)
def test_only_herokus_own_certificates_are_not_verified(
    url: str, dyno: str, verified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DYNO", raising=False)
    if dyno:
        monkeypatch.setenv("DYNO", dyno)
    assert ("ssl_cert_reqs" not in connection_options(url)) is verified


@pytest.mark.parametrize(
    "url",
    [
        "rediss://default:p%40ss@host:25061/0?ssl=true",
        "rediss://default:p%40ss@host:25061/0?protocol=3&ssl_ca_certs=/etc/ssl/ca.pem&decode_responses=yes",
        "unix:///run/redis.sock?db=1",
        "redis://localhost",
    ],
)
def test_the_client_understands_what_is_left_of_a_url(url: str) -> None:
    options = client(url).connection_pool.connection_kwargs
    assert options.get("password", "p@ss") == "p@ss"
    assert not options.get("decode_responses")
    assert ("ssl_ca_certs" in options) is ("ssl_ca_certs" in url)


@pytest.mark.parametrize("url", ["", "localhost:6379", "redis+sentinel://:secret@host/0", "redis-cluster://host"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL must begin with redis://") as refusal:
        usable(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("sign", "/#?")
def test_a_password_that_breaks_the_url_is_told_how_to_be_written(
    sign: str, brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (f"redis://:pa{sign}sswd@host:6379/0", f"rediss://name:12{sign}sswd@host:6379/0"):
        monkeypatch.setattr(Conf, "REDIS", url)
        with pytest.raises(ImproperlyConfigured, match=r"REDIS_URL cannot be read: .* %2F for /, %23 for #") as refusal:
            brokers()
        assert "sswd" not in str(refusal.value)
        assert "pa" not in str(refusal.value).replace("password", "")


@pytest.mark.parametrize("path", ["/abc", "/0/1", "/0x"])
def test_a_database_that_is_no_number_is_refused(path: str, brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "REDIS", f"redis://:secret@host:6379{path}")
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL must end with the number of a database") as refusal:
        brokers()
    assert "secret" not in str(refusal.value)


def test_celerys_word_for_a_certificate_that_is_not_verified_is_understood() -> None:
    options = client("rediss://host:6379/0?ssl_cert_reqs=CERT_NONE").connection_pool.connection_kwargs
    assert options["ssl_cert_reqs"] == "none"


@pytest.mark.parametrize("change", [{"REDIS": {"host": "localhost"}}, {"DJANGO_REDIS": "default"}])
def test_another_setting_than_a_url_is_refused(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    Broker.check_settings()
    for name, value in change.items():
        monkeypatch.setattr(Conf, name, value)
    with pytest.raises(ImproperlyConfigured, match=r"Q_CLUSTER\['redis'\] must be a URL"):
        Broker.check_settings()


@pytest.mark.parametrize("query", ["max_conections=3", "db=first", "socket_timeout=soon"])
def test_an_option_that_cannot_work_is_named(query: str, brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "REDIS", f"redis://:secret@host:6379?{query}")
    with pytest.raises(ImproperlyConfigured, match=f"REDIS_URL has an option .*{query.partition('=')[0]}") as refusal:
        brokers()
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("mark", ["", ":"])
def test_tasks_that_a_plain_django_q2_has_left_are_taken(mark: str, brokers: Brokers) -> None:
    (named,) = brokers()
    broker = Broker(f"{named.cluster}{mark}eu")
    stock = f"django_q:{broker.cluster}:q"
    broker.connection.rpush(stock, "one", "two")
    assert stock in broker.lists()
    broker.enqueue("three")
    try:
        assert sorted(texts(take(broker, 3))) == ["one", "three", "two"]
        assert stock not in broker.lists()
    finally:
        broker.delete_queue()
        broker.connection.delete(stock)


def test_a_key_of_another_kind_where_these_would_be_keeps_no_task_waiting(
    brokers: Brokers, caplog: pytest.LogCaptureFixture
) -> None:
    (broker,) = brokers()
    stock = f"django_q:{broker.cluster}:q"
    broker.connection.set(stock, "no list")
    try:
        broker.enqueue("one")
        assert texts(take(broker, 1)) == ["one"]
        broker.enqueue("two")
        assert texts(take(broker, 1)) == ["two"]
    finally:
        broker.connection.delete(stock)
    assert caplog.text.count("WRONGTYPE") == 1


def test_very_many_tasks_are_queued_by_several_requests(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.broker.broker.AT_ONCE", 2)
    (broker,) = brokers()
    broker.enqueue_all(["one", "two", "three", "four", "five"])
    assert texts(take(broker, 5)) == ["one", "two", "three", "four", "five"]


def test_clusters_that_are_gone_are_forgotten(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = brokers(2)
    one.enqueue("one")
    one.acknowledge_all(receipts(take(one, 1)))
    two.enqueue("two")
    take(two, 1)
    monkeypatch.setattr(Conf, "RETRY", 0.01)

    def names() -> list[str]:
        one.tidy()
        return [consumer["name"].decode() for consumer in one.connection.xinfo_consumers(one.list_key, "workers")]

    until(lambda: names() == [two.consumer], "only one that holds a task")


def test_a_server_that_has_lost_all_gets_a_new_group(brokers: Brokers) -> None:
    broker, other = brokers(2)
    broker.enqueue("a task")
    held = receipts(take(broker, 1))
    deletion = threading.Timer(0.3, other.delete_queue)
    deletion.start()
    assert broker.claim(1, PLENTY) == []  # waits, while the stream is deleted
    deletion.join()
    for action in (broker.release, broker.acknowledge_all, lambda gone: broker.claim(1, PLENTY)):
        broker.delete_queue()
        action(dict.fromkeys(held, 0))
    broker.delete_queue()
    assert broker.renew(held) == set(held)
    assert sizes(broker) == [0, 0]
    broker.enqueue("another")
    assert texts(take(broker, 1)) == ["another"]


def test_a_queue_that_is_gone_is_told_of_once(brokers: Brokers, caplog: pytest.LogCaptureFixture) -> None:
    (broker,) = brokers()
    broker.claim(1, PLENTY)
    assert not caplog.records
    broker.delete_queue()
    broker.enqueue("the first one after that")
    assert texts(take(broker, 1)) == ["the first one after that"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"{broker.list_key} is gone, and all that waited in it: Redis has lost its data, say"
    ]


def test_a_server_that_is_away_is_told_of_by_whoever_asks(
    brokers: Brokers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (broker,) = brokers()
    assert broker.ping() is True
    monkeypatch.setattr(broker.connection, "ping", Mock(side_effect=redis.ConnectionError("away")))
    with pytest.raises(redis.ConnectionError):
        broker.ping()
    assert not caplog.records


def test_what_is_held_but_in_the_stream_no_more_is_forgotten(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 0.2)
    (broker,) = brokers()
    gone = broker.enqueue("gone")
    broker.enqueue("there")
    take(broker, 2)
    broker.connection.xdel(broker.list_key, gone)
    assert texts(take(broker, 1)) == ["there"]
    assert broker.connection.xpending(broker.list_key, "workers")["pending"] == 1


def test_a_server_that_may_drop_tasks_is_named(
    brokers: Brokers, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for policy in ("allkeys-lru", "volatile-lru", "noeviction"):
        server.config_set("maxmemory-policy", policy)
        (broker,) = brokers()
        broker.claim(1, PLENTY)
        broker.claim(1, PLENTY)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == ["Redis drops tasks when its memory is full: its maxmemory-policy is allkeys-lru"]


def test_a_server_that_is_full_is_emptied(brokers: Brokers, server: redis.Redis) -> None:
    """By all that a cluster does, with scripts that the server has not seen before."""
    (broker,) = brokers()
    assert broker.queue_size() == 0  # which makes the group: for that a full server has no room
    server.script_flush()
    server.config_set("maxmemory", server.info("memory")["used_memory"] + 2_000_000)

    def fill() -> None:
        while True:
            broker.enqueue("x" * 10_000)

    with pytest.raises(redis.exceptions.OutOfMemoryError):
        fill()
    number = broker.queue_size()
    assert number > 20
    server.config_set("maxmemory", server.info("memory")["used_memory"] - 100_000)  # fuller than full
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        broker.enqueue_all(["small", "small"])
    first = receipts(broker.claim(5, 25_000))
    assert len(first) == 2
    assert broker.renew(first) == set()
    broker.release(dict.fromkeys(first, 0))
    broker.looked = float("-inf")
    again = receipts(broker.claim(10, PLENTY))
    assert again == first
    broker.acknowledge_all(again)
    number -= 2
    while held := broker.claim(10, PLENTY):
        broker.acknowledge_all(receipts(held))
        number -= len(held)
    assert number == 0
    broker.enqueue("one more")
    broker.enqueue_all(["two more", "three more"])
    assert sizes(broker) == [3, 0]


def test_a_restart_between_two_tasks_is_not_noticed(detour: Relay, brokers: Brokers) -> None:
    (broker,) = brokers()
    actions: list[Callable[[], Any]] = [lambda: broker.enqueue("a task"), lambda: broker.enqueue_all(["one", "two"])]
    for action in actions:
        action()
        detour.cut()
        action()
    assert sizes(broker) == [6, 0]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_former_primary_is_left_for_the_new_one(
    at_once: bool, brokers: Brokers, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections are closed: where the name of the server leads to another one, the next one goes there."""
    (broker,) = brokers()
    broker.enqueue("before")
    server.replicaof("127.0.0.1", str(free_port()))
    actions: list[Callable[[], Any]] = [
        lambda: broker.enqueue_all(["x"]),
        lambda: broker.enqueue("x"),
        lambda: broker.claim(1, PLENTY),
    ]
    for action in actions:
        connected = server.info("stats")["total_connections_received"]
        with pytest.raises(redis.exceptions.ReadOnlyError):
            action()
        assert server.info("stats")["total_connections_received"] > connected
    server.replicaof("NO", "ONE")
    broker.enqueue_all(["after"]) if at_once else broker.enqueue("after")
    assert texts(take(broker, 2)) == ["before", "after"]


def test_a_server_that_lacks_its_replicas_takes_tasks_again_later(brokers: Brokers, server: redis.Redis) -> None:
    (broker,) = brokers()
    broker.enqueue("before")
    held = receipts(take(broker, 1))
    actions: list[Callable[[], Any]] = [lambda: broker.enqueue("x"), lambda: broker.acknowledge_all(held)]
    server.config_set("min-replicas-to-write", 1)
    try:
        for action in actions:
            with pytest.raises(redis.ResponseError) as raised:
                action()
            assert broker.will_pass(raised.value)
            assert "NOREPLICAS" in why_away(raised.value)
    finally:
        server.config_set("min-replicas-to-write", 0)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", True),
        ("Error running script (call to f_1): @user_script:1: -OOM command not allowed", True),
        ("wrong number of arguments for 'xadd' command", False),
    ],
)
def test_what_the_server_says_of_itself_passes(text: str, passes: bool) -> None:
    assert Broker.will_pass(redis.ResponseError(text)) is passes


def test_a_task_that_the_server_does_not_take_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "REDIS", f"redis://:secret@127.0.0.1:{free_port()}/0")
    broker: Any = Broker("away")
    broker.set_stat("away", "fine", 3)  # the cluster's state does not matter as much
    with pytest.raises(redis.ConnectionError):
        broker.enqueue("a task")
    with suppress(redis.ConnectionError):
        forget()


def test_threads_have_the_same_name_and_forks_another(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    (broker,) = brokers()
    name = broker.consumer
    assert broker.consumer == name
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert broker.consumer != name


def in_a_second() -> datetime:
    """Return a time."""
    return datetime.now(UTC) + timedelta(seconds=1)


def delayed(broker: Any) -> list[str]:
    """Let one task wait for its first attempt and another for its second, and return their receipts."""
    retry = broker.enqueue("retry")
    broker.release(dict.fromkeys(receipts(take(broker, 1)), 1))
    return [broker.enqueue("first", in_a_second()), retry]


def test_what_was_removed_by_hand_is_not_due_any_more(brokers: Brokers) -> None:
    (broker,) = brokers()
    first, retry = delayed(broker)
    broker.connection.xdel(broker.keys[1], first.rstrip("+"))
    broker.connection.xdel(broker.keys[0], retry)
    broker.enqueue("another", in_a_second())
    assert texts(take(broker, 1)) == ["another"]
    until(lambda: broker.claim(1, PLENTY) == [] and not broker.connection.zcard(broker.keys[2]), "an empty set")
    assert broker.connection.xpending(broker.keys[0], "workers")["pending"] == 0
    assert sizes(broker) == [0, 1]


def test_whoever_holds_what_is_not_due_is_not_tidied_away(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 0.2)
    (broker,) = brokers()
    delayed(broker)
    until(
        lambda: all(who["idle"] > 200 for who in broker.connection.xinfo_consumers(broker.keys[0], "workers")), "idle"
    )
    broker.tidy()
    assert sorted(texts(take(broker, 2))) == ["first", "retry"]


def test_a_sorted_set_that_was_lost_loses_no_task(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 2)
    one, two = brokers(2)
    delayed(one)
    one.enqueue("held", datetime.now(UTC))
    held = take(two, 1)
    assert texts(held) == ["held"]
    for _ in range(2):
        one.connection.delete(one.keys[2])
        one.tidy()
    monkeypatch.setattr(Conf, "RETRY", 60)
    two.renew(receipts(held))
    monkeypatch.setattr(Conf, "RETRY", 2)
    assert texts(take(one, 1)) == ["first"]
    assert texts(take(one, 1)) == ["retry"]  # by its lease, since it is not written down when it was to be due
    assert two.connection.zcard(two.keys[2]) == 0


def test_a_lease_on_what_is_not_due_is_kept_up(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "RETRY", 0.3)
    (broker,) = brokers()
    broker.enqueue_all([f"task {number}" for number in range(250)])
    due = time.monotonic() + 3
    broker.release(dict.fromkeys(receipts(take(broker, 250)), 3))
    broker.enqueue("dead")
    take(broker, 1)
    dead = take(broker, 1)
    assert texts(dead) == ["dead"]
    broker.acknowledge_all(receipts(dead))
    again = take(broker, 250)
    assert time.monotonic() > due
    assert {delivery.count for delivery in again} == {1}


def test_what_an_older_worker_has_given_back_is_taken(brokers: Brokers) -> None:
    """It belongs to the same consumer, with no time in the sorted set; its lease tells when."""
    (broker,) = brokers()
    receipt = broker.enqueue("a task")
    take(broker, 1)
    broker.connection.xclaim(broker.list_key, "workers", "returned", 0, [receipt], idle=60_000, justid=True)
    assert [(each.payload, each.again) for each in take(broker, 1)] == [("a task", True)]


def test_an_idle_queue_is_asked_no_more_than_twice_a_second(
    brokers: Brokers, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.broker.broker.LOOK_EVERY", 3.0)
    (broker,) = brokers()
    broker.enqueue("next month", datetime.now(UTC) + timedelta(days=30))
    while broker.claim(1, PLENTY):
        pass

    requests: list[str] = []
    send, thread = Connection.send_packed_command, threading.get_ident()

    def count(self: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:  # others may still be busy with what an earlier test has left
            requests.append(str(command))
        return send(self, command, *args, **kwargs)

    monkeypatch.setattr(Connection, "send_packed_command", count)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        broker.claim(1, PLENTY)
    assert 6 <= len(requests) <= 12, requests


def place(broker: Any) -> Any:
    """Return up to where the stream was read."""
    (group,) = broker.connection.xinfo_groups(broker.keys[0])
    return group["last-delivered-id"]


def test_what_is_taken_out_leaves_alone_up_to_where_the_stream_was_read(brokers: Brokers) -> None:
    one, two = brokers(2)
    queued = [one.enqueue(f"task {number}") for number in range(6)]
    (held,) = take(one, 1)
    before = place(one)
    assert two.remove(queued[1])
    assert two.remove(queued[5])
    assert place(one) == before
    assert two.purge() == 3
    assert place(one) == before
    one.enqueue("another")
    assert two.depth()[:3] == (1, 0, 1)
    assert texts(take(two, 1)) == ["another"]
    assert one.renew([held.receipt]) == set()
    one.acknowledge_all([held.receipt])
    assert (one.depth()[:3], one.connection.xlen(one.keys[0])) == ((0, 0, 1), 1)


def test_more_than_a_request_takes_is_emptied_past_what_is_held(brokers: Brokers) -> None:
    one, two = brokers(2)
    one.enqueue_all(["a task"] * 25_000)
    one.enqueue_all(["delayed"] * 12_000, in_a_second())
    taken = take(one, 150)
    one.release({delivery.receipt: 60 for delivery in taken[:100]})
    assert two.depth(10)[:3] == (24_850, 12_100, 50) or two.depth()[:3] == (36_850, 100, 50)
    assert two.purge() == 36_950
    assert two.depth() == (0, 0, 50, None)
    assert two.connection.zcard(two.keys[2]) == 0
    assert one.renew(receipts(taken[100:])) == set()


def test_a_queue_that_nobody_has_used_can_be_looked_at(brokers: Brokers) -> None:
    (broker,) = brokers()
    assert (broker.depth(), broker.remove("1-1+"), broker.remove("1-1"), broker.purge()) == ((0, 0, 0, None), 0, 0, 0)
    assert list(broker.payloads(1)) == []


def test_a_server_that_is_full_can_be_emptied(brokers: Brokers, server: redis.Redis) -> None:
    (broker,) = brokers()
    delayed(broker)
    queued = [broker.enqueue("x" * 100_000) for _ in range(5)]
    server.config_set("maxmemory", server.info("memory")["used_memory"] - 100_000)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        broker.enqueue("x")
    assert broker.remove(queued[0])
    assert broker.purge() == 6
