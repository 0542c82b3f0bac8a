"""What is particular to a queue in the project's own database."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import Mock

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, OperationalError, connections, transaction
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from project import free_port, manage, wait_until_listening
from pytest_django import Settings
from worker.broker import broker as module

from .conftest import Brokers
from .contract import PLENTY, broker_name, in_threads, receipts, sizes, take, texts

pytestmark = pytest.mark.skipif(broker_name() != "orm", reason="the broker is another")
postgresql = pytest.mark.skipif(
    "postgresql" not in settings.DATABASES["default"]["ENGINE"], reason="the database is a file"
)
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease run out by itself."""
    monkeypatch.setattr(Conf, "RETRY", 60)


def database() -> Any:
    """Return this thread's connection."""
    return connections[Conf.ORM]


@postgresql
def test_a_connection_that_refuses_to_write_is_not_used_again(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("a task")
    (receipt,) = receipts(take(broker, 1))
    actions: list[Callable[[], Any]] = [
        lambda: broker.enqueue("another"),
        lambda: broker.enqueue_all(["one", "two"]),
        lambda: broker.claim(1, PLENTY),
        lambda: broker.release({receipt: 0}),
        lambda: broker.acknowledge_all([receipt]),
        lambda: broker.renew([receipt]),
    ]
    for action in actions:
        with database().cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")
        with pytest.raises(Error, match="read-only"):
            action()
    assert broker.renew([receipt]) == set()
    broker.enqueue("another")


def test_what_is_removed_in_a_transaction_that_fails_is_still_held(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue_all(["one", "two"])
    taken = receipts(take(broker, 2))
    with transaction.atomic(using=Conf.ORM):
        broker.acknowledge_all(taken[:1])
        broker.release({taken[1]: 5})
        transaction.set_rollback(True, using=Conf.ORM)
    assert broker.renew(taken) == set()
    with transaction.atomic(using=Conf.ORM):
        broker.acknowledge_all(taken)
    assert sizes(broker) == [0, 0]
    assert broker.renew(taken) == set(taken)
    assert not broker.locks


def test_a_task_is_part_of_the_transaction_under_way(brokers: Brokers) -> None:
    (broker,) = brokers()
    with transaction.atomic(using=Conf.ORM):
        broker.enqueue("one")
        broker.enqueue_all(["two", "three"])
        transaction.set_rollback(True, using=Conf.ORM)
    assert sizes(broker) == [0, 0]


def test_threads_that_renew_and_remove_do_not_wait_for_each_other(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue_all(["one", "two", "three"])
    taken = receipts(take(broker, 3))
    removing, renews = threading.Event(), threading.Event()
    lost: set[str] = set()

    def remove() -> float:
        with transaction.atomic(using=Conf.ORM):
            broker.acknowledge_all(taken[:1])
            removing.set()
            renews.wait()
            time.sleep(0.3)
            start = time.monotonic()
            broker.acknowledge_all(taken[1:2])
            return time.monotonic() - start

    def renew() -> None:
        removing.wait()
        renews.set()
        lost.update(broker.renew(taken))

    waited, _ = in_threads(remove, renew)
    assert waited < 5
    assert lost <= set(taken[:2])
    assert broker.renew(taken) == set(taken[:2])


def test_a_lock_that_is_the_same_by_chance_makes_nobody_an_owner(brokers: Brokers) -> None:
    one, two = brokers(2)
    one.enqueue_all(["one's", "two's"])
    mine, others = take(one, 1), take(two, 1)
    with database().cursor() as cursor:  # as if both had claimed at the same microsecond
        cursor.execute(
            "UPDATE django_q_ormq SET lock = (SELECT lock FROM django_q_ormq WHERE id = %s) WHERE id = %s",
            [mine[0].receipt, others[0].receipt],
        )
    one.acknowledge_all(receipts(mine + others))
    assert sizes(one) == [0, 1]


def test_nothing_is_left_of_what_is_counted(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.models import Lapse

    monkeypatch.setattr(Conf, "RETRY", 1)
    (broker,) = brokers()
    keys = [broker.enqueue(f"task {number}") for number in range(3)]
    rows = Lapse.objects.using(Conf.ORM).filter(task__in=keys)
    take(broker, 3)
    assert not rows.exists()
    taken = receipts(take(broker, 3))
    assert dict(rows.values_list("task", "times")) == dict.fromkeys(keys, 1)
    broker.acknowledge_all(taken[:1])
    broker.delete(taken[1])
    assert list(rows.values_list("task", flat=True)) == keys[2:]
    broker.purge_queue()
    assert not rows.exists()


def test_a_connection_is_looked_at_now_and_then_not_for_each_task(
    brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str | None] = []
    monkeypatch.setattr(ORM, "get_connection", looks.append)
    contents = import_module("worker.broker.contents")
    monkeypatch.setattr(contents, "LOOK_EVERY", 1000)
    monkeypatch.setattr(contents.looked, "at", 0.0, raising=False)
    for expected in (1, 1):
        module.Broker.get_connection()
        assert len(looks) == expected
    contents.looked.at -= 2000
    module.Broker.get_connection()
    assert len(looks) == 2
    monkeypatch.setattr(database(), "errors_occurred", True)
    module.Broker.get_connection()
    assert len(looks) == 3


@postgresql
def test_the_clock_is_the_databases(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = brokers(2)
    one.enqueue_all(["held", "waiting"])
    ahead = timezone.now() + timedelta(hours=2)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return ahead if tz else ahead.replace(tzinfo=None)

    monkeypatch.setattr(timezone, "now", lambda: ahead)
    monkeypatch.setattr("worker.broker.locks.datetime", Ahead)
    taken = take(one, 1)
    assert one.renew(receipts(taken)) == set()
    assert sizes(two) == [1, 1]
    assert texts(two.claim(10, PLENTY)) == ["waiting"]
    assert sizes(two) == [0, 2]


@postgresql
def test_a_task_wakes_who_waits_at_once(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "POLL", 20)
    one, two = brokers(2)
    one.idle(20, [])  # asks for notifications
    actions: list[Callable[[], Any]] = [lambda: two.enqueue("one"), lambda: two.enqueue_all(["two"])]
    for queue in actions:
        in_threads(queue)
        start = time.monotonic()
        one.idle(20, [])
        queue()  # on this connection, which reads the notification before anybody waits for it
        one.idle(20, [])
        assert time.monotonic() - start < 5
    assert texts(one.claim(10, PLENTY)) == ["one", "one", "two", "two"]


@pytest.fixture
def pooler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lead connections by way of a PgBouncer that changes servers with each transaction."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    port, target = free_port(), database().settings_dict
    folder = Path(mkdtemp(prefix="pgbouncer-", dir="/tmp"))  # another user must get there
    (folder / "users").write_text(f'"{target["USER"]}" "{target["PASSWORD"]}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={target['HOST']} port={target['PORT']}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n"
        "unix_socket_dir =\n"
    )
    command: list[str | Path] = [PGBOUNCER, "-q", folder / "pgbouncer.ini"]
    if os.getuid() == 0:  # which PgBouncer refuses
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)
        command[:0] = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        wait_until_listening(port, server)
        connections.close_all()
        monkeypatch.setitem(target, "HOST", "127.0.0.1")
        monkeypatch.setitem(target, "PORT", port)
        yield
        connections.close_all()
        server.terminate()
        server.wait()
    shutil.rmtree(folder)


@postgresql
def test_behind_a_pooler_the_queue_is_polled_and_it_is_said_once(
    pooler: None, brokers: Brokers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Conf, "POLL", 0.3)
    one, two = brokers(2)
    start = time.monotonic()
    for _ in range(4):
        one.idle(20, [])
    assert 0.8 < time.monotonic() - start < 5
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "PostgreSQL is behind a pooler: the queue is looked at every 0.3 s"
    ]
    two.enqueue("a task")
    two.enqueue_all(["another"])
    taken = take(one, 2)
    assert texts(taken) == ["a task", "another"]
    assert one.renew(receipts(taken)) == set()
    one.release({taken[0].receipt: 30})
    with transaction.atomic(using=Conf.ORM):
        one.acknowledge_all(receipts(taken[1:]))
    assert sizes(two) == [0, 1]


SETTINGS = """
from config.settings import *

{}
"""

TRY = """
import json, time
from django.db import connections
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.tasks import async_task

async_task("math.floor", 1.5)
Conf.RETRY = 3
one, two = get_broker(), get_broker()
one.enqueue_all(["one", "two"])
taken = []
while len(taken) < 3:
    taken += one.claim(1, 100_000)
assert two.claim(3, 1000) == [], "they are held"
assert one.renew([taken[0].receipt]) == set()
Conf.RETRY = 60
again = []
while len(again) < 3:
    again += two.claim(3, 100_000)
    time.sleep(0.05)
lost = one.renew([delivery.receipt for delivery in taken])
one.acknowledge_all([delivery.receipt for delivery in taken])
two.release({again[0].receipt: 0, again[1].receipt: 2})
two.acknowledge_all([again[2].receipt])
waiting = [two.queue_size(), two.lock_size()]
later = []
while len(later) < 2:
    later += one.claim(3, 100_000)
counts = [delivery.count for delivery in later]
tables = {alias: "worker_lapse" in connections[alias].introspection.table_names() for alias in connections}
print(json.dumps([[delivery.count for delivery in taken + again], len(lost), waiting, counts, tables]))
"""


def tried(others: str, folder: Path, databases: list[str]) -> list[Any]:
    """Try a broker under other settings, and return what it answers."""
    (folder / "others.py").write_text(SETTINGS.format(others))
    env = {"DJANGO_SETTINGS_MODULE": "others", "PYTHONPATH": str(folder)}
    commands = [["migrate", "--database", name] for name in databases]
    for command in (*commands, ["makemigrations", "--check"], ["shell", "--no-imports", "-c", TRY]):
        done = manage(*command, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    answer: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_it_works_without_time_zones(tmp_path: Path) -> None:
    name = f"Q_CLUSTER['name'] = 'naive-{os.getpid()}'"
    answer = tried(f"USE_TZ, TIME_ZONE = False, 'Pacific/Auckland'\n{name}", tmp_path, ["default"])
    assert answer == [[1, 1, 1, 2, 2, 2], 3, [1, 1], [2, 2], {"default": True}]


ROUTER = """
DATABASES["queue"] = DATABASES["default"] | {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{0}/queue"}}
DATABASES["queue"]["OPTIONS"] = {{"timeout": 20, "transaction_mode": "IMMEDIATE"}}
DATABASES["default"] = DATABASES["queue"] | {{"NAME": "{0}/default"}}
DATABASE_ROUTERS = ["others.Router"]
Q_CLUSTER["orm"] = "queue"

class Router:
    def db_for_read(self, model, **hints):
        return "default"  # as a replica that lags would be

    def allow_migrate(self, db, app_label, **hints):
        return (db == "queue") if app_label == "django_q" else ({1} if db == "queue" else None)
"""


def test_what_could_not_be_renewed_since_the_disk_is_full_is_still_held(
    brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    (broker,) = brokers()
    broker.enqueue("a task")
    taken = receipts(take(broker, 1))
    with monkeypatch.context() as full:  # PostgreSQL says so of the statement, which is all of its transaction
        full.setattr(database(), "commit", Mock(side_effect=OperationalError("database or disk is full")))
        with suppress(OperationalError):
            broker.renew(taken)
    assert broker.renew(taken) == set()


@pytest.mark.parametrize("others", [False, None], ids=["a router that refuses others", "a router that knows no others"])
def test_it_works_where_a_router_puts_the_queue(others: bool | None, tmp_path: Path) -> None:
    answer = tried(ROUTER.format(tmp_path, others), tmp_path, ["default", "queue"])
    assert answer == [[1, 1, 1, 2, 2, 2], 3, [1, 1], [2, 2], {"default": False, "queue": True}]


def test_a_queue_in_another_database_than_postgresql_and_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module.Broker.check_settings()
    monkeypatch.setattr(database(), "vendor", "mysql")
    with pytest.raises(ImproperlyConfigured, match="a database of mysql, where two workers would run a task twice"):
        module.Broker.check_settings()


def test_a_queue_in_a_database_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "ORM", "defualt")
    with pytest.raises(ImproperlyConfigured, match=r"DATABASES does not have\. Did you mean 'default'\?$"):
        module.Broker.check_settings()


def test_a_router_that_keeps_the_queue_elsewhere_is_named(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = [Mock(spec=["allow_migrate"], allow_migrate=Mock(return_value=False))]
    with pytest.raises(ImproperlyConfigured, match="a router keeps the queue's table out of it"):
        module.Broker.check_settings()


@postgresql
@pytest.mark.parametrize("lock", ["epoch", "2999-01-01"], ids=["waiting", "not due"])
def test_a_claim_reads_no_more_than_it_takes_however_many_there_are(lock: str, brokers: Brokers) -> None:
    (broker,) = brokers()
    rows = "INSERT INTO django_q_ormq (key, payload, lock) SELECT %s, 'x', %s FROM generate_series(1, 100000)"
    which = {"key": broker.list_key, "used": module.USED, "free": module.FREE, "limit": 100, "size": PLENTY}
    with transaction.atomic(using=Conf.ORM), database().cursor() as cursor:
        cursor.execute(rows, [broker.list_key, lock])
        cursor.execute("ANALYZE django_q_ormq")
        cursor.execute(f"EXPLAIN {module.CLAIM}", {**which, "lease": timedelta(minutes=1)})
        plan = "\n".join(line for (line,) in cursor.fetchall())
        transaction.set_rollback(True, using=Conf.ORM)
    assert "worker_queue" in plan
    assert "Seq Scan on django_q_ormq" not in plan, plan


@postgresql
@pytest.mark.parametrize("lock", ["epoch", "2000-01-01", "2999-01-01"], ids=["waiting", "due", "not due"])
def test_a_look_at_a_queue_reads_no_more_than_it_counts(lock: str, brokers: Brokers) -> None:
    (broker,) = brokers()
    rows = (
        "INSERT INTO django_q_ormq (key, payload, lock) SELECT %s, repeat('x', 99), %s FROM generate_series(1, 100000)"
    )
    which = {"key": broker.list_key, "used": module.USED, "most": 100}
    statements = import_module("worker.broker.statements")
    with transaction.atomic(using=Conf.ORM), database().cursor() as cursor:
        cursor.execute(rows, [broker.list_key, lock])
        cursor.execute("ANALYZE django_q_ormq")
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statements.DEPTH.format(**statements.ON_SERVER)}", which)
        ((((plan,),),),) = (cursor.fetchall(),)
        transaction.set_rollback(True, using=Conf.ORM)

    def read(node: dict[str, Any]) -> float:
        rows: float = node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
        return rows + sum(map(read, node.get("Plans", [])))

    assert read(plan["Plan"]) < 1000, plan


def test_what_a_lapse_is_known_of_is_forgotten_with_its_task(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = brokers(2)
    monkeypatch.setattr(Conf, "RETRY", 1)
    queued = [str(one.enqueue("a task")) for _ in range(3)]
    take(one, 3)
    again = take(two, 3)
    known = module.lapses().filter(task__in=queued)
    assert known.count() == 3
    two.release({delivery.receipt: 60 for delivery in again[:2]})
    assert one.remove(queued[0])
    assert known.count() == 2
    assert one.purge() == 1
    assert [lapse.task for lapse in known.all()] == [int(queued[2])]
    two.acknowledge_all([again[2].receipt])
    assert not known.exists()
