"""What is Redis's alone: the URL, and what others have left on the server."""

from collections.abc import Iterator

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from tests.broker_server import PROGRAM
from tests.processes import free_port
from tests.test_broker import ask
from worker.broker import connection_options, usable


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[redis.Redis]:
    """Connect to the test's server."""
    with redis.Redis.from_url(environment["REDIS_URL"]) as client:
        yield client


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
    with redis.Redis.from_url(usable(url), **connection_options(url)) as client:
        options = client.connection_pool.connection_kwargs
    assert options.get("password", "p@ss") == "p@ss"
    assert not options.get("decode_responses")
    assert ("ssl_ca_certs" in options) is ("ssl_ca_certs" in url)


@pytest.mark.parametrize("url", ["", "localhost:6379", "redis+sentinel://:secret@host/0", "redis-cluster://host"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL must begin with redis://") as refusal:
        usable(url)
    assert "secret" not in str(refusal.value)


def test_tasks_of_a_plain_django_q2_are_taken_over(environment: dict[str, str], server: redis.Redis) -> None:
    server.rpush("django_q:stock:q", *(f"task {number}" for number in range(5)))
    code = """
(broker,) = brokers("stock", 1)
broker.enqueue("task new")
answer(sorted(texts(take(broker, 6))), broker.list_key)
"""
    texts, key = ask(code, environment)
    assert texts == [*(f"task {number}" for number in range(5)), "task new"]
    assert key.split(":")[-2:] == ["stock", "stream"]
    assert server.exists("django_q:stock:q") == 0


def test_clusters_that_are_gone_are_forgotten_but_not_their_tasks(environment: dict[str, str]) -> None:
    code = """
one, two, three = brokers("gone", 3)
one.enqueue("a task")
one.enqueue("another")
first, second = take(one, 1), take(two, 1)
two.acknowledge_all(receipts(second))
time.sleep(LEASE + 0.5)
three.tidy()
names = {one.consumer: "one", two.consumer: "two", three.consumer: "three"}
left = [names[consumer["name"].decode()] for consumer in three.connection.xinfo_consumers(three.list_key, "workers")]
answer(left, texts(take(three, 1)), list(three.renew(receipts(first))))
"""
    assert ask(code, environment) == [["one"], ["a task"], []]


def test_a_task_that_is_given_back_was_not_delivered(environment: dict[str, str]) -> None:
    code = """
one, two = brokers("uncounted")
one.enqueue("a task")
counts = []
for broker in (one, two, one):
    taken = take(broker, 1)
    counts.append(taken[0].count)
    two.release(receipts(taken))
    broker.looked = 0  # and do not wait before it looks again
answer(counts, sizes(one))
"""
    assert ask(code, environment) == [[1, 1, 1], [1, 0]]


def test_a_server_that_has_lost_all_gets_a_new_group(environment: dict[str, str]) -> None:
    code = """
(broker,) = brokers("flushed", 1)
broker.enqueue("a task")
held = receipts(take(broker, 1))
threading.Timer(0.3, lambda: brokers("flushed", 1)[0].delete_queue()).start()
nothing = broker.claim(1)  # waits, while the stream is deleted
broker.delete_queue()
lost = broker.renew(held) == set(held)
broker.delete_queue()
broker.release(held)
broker.delete_queue()
broker.acknowledge_all(held)
empty = sizes(broker)
broker.enqueue("another")
answer(nothing, lost, empty, texts(take(broker, 1)))
"""
    assert ask(code, environment) == [[], True, [0, 0], ["another"]]


@pytest.mark.skipif(PROGRAM is None, reason="the server may be somebody's")
def test_a_server_that_may_drop_tasks_is_named(environment: dict[str, str], server: redis.Redis) -> None:
    code = """
import logging
from io import StringIO
log = StringIO()
logging.getLogger("django-q").addHandler(logging.StreamHandler(log))
(broker,) = brokers("policy", 1)
broker.claim(1)
broker.claim(1)
answer(log.getvalue())
"""
    told = []
    for policy in ("allkeys-lru", "volatile-lru", "noeviction"):
        server.config_set("maxmemory-policy", policy)
        told += ask(code, environment)
    assert told == ["Redis drops tasks when its memory is full: its maxmemory-policy is allkeys-lru\n", "", ""]


@pytest.mark.skipif(PROGRAM is None, reason="the server may be somebody's")
def test_a_server_that_is_full_is_emptied(environment: dict[str, str], server: redis.Redis) -> None:
    code = """
(broker,) = brokers("full", 1)
broker.claim(1)
broker.connection.config_set("maxmemory", broker.connection.info("memory")["used_memory"] + 2_000_000)
number, refused = 0, ""
while not refused:
    try:
        broker.enqueue("x" * 10_000)
        number += 1
    except Exception as error:
        refused = type(error).__name__
while held := broker.claim(10):
    broker.acknowledge_all(receipts(held))
    number -= len(held)
broker.enqueue("one more")
answer(refused, number, sizes(broker))
"""
    try:
        assert ask(code, environment) == ["OutOfMemoryError", 0, [1, 0]]
    finally:
        server.config_set("maxmemory", 0)


def test_a_task_that_the_server_does_not_take_is_an_error(environment: dict[str, str]) -> None:
    code = """
(broker,) = brokers("away", 1)
broker.set_stat("away", "fine", 3)  # the cluster's state does not matter as much
try:
    broker.enqueue("a task")
except Exception as error:
    answer(type(error).__name__)
"""
    nowhere = f"redis://:secret@127.0.0.1:{free_port()}/0"
    assert ask(code, {**environment, "REDIS_URL": nowhere}) == ["ConnectionError"]
