"""What a worker waits for before it starts, and what it does not wait for."""

import time
from unittest.mock import Mock

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.db import OperationalError, ProgrammingError, connection
from pytest_django import Settings
from worker import health

only_on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL only")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stand in for the broker, beside a database that answers."""
    broker = Mock()
    monkeypatch.setattr(health, "get_broker", lambda: broker)
    monkeypatch.setitem(health.SERVERS, "database", Mock())
    monkeypatch.setattr(time, "sleep", Mock())
    return broker


def refused_by_the_driver(options: str) -> Exception:
    """Return what Django makes of a connection option that psycopg does not know."""
    try:
        psycopg.connect(options)
    except psycopg.Error as error:
        found: Exception = ProgrammingError(*error.args)
        found.__cause__ = error
        return found
    raise AssertionError


def test_a_worker_waits_for_its_servers(broker: Mock, caplog: pytest.LogCaptureFixture) -> None:
    broker.ping.side_effect = [OSError("refused"), OSError("refused"), None]
    health.wait_for_servers()
    assert [record.message.partition(" Next try in ")[0] for record in caplog.records] == [
        "The broker does not answer (OSError: refused)."
    ] * 2


def test_a_worker_gives_up_when_its_servers_stay_away(broker: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "START_WITHIN", 0)
    broker.ping.side_effect = OSError("refused")
    with pytest.raises(CommandError, match=r"^The broker does not answer \(OSError: refused\)\. Gave up after 0 s\.$"):
        health.wait_for_servers()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ImproperlyConfigured("Set AWS_REGION."), "Set AWS_REGION."),
        (
            refused_by_the_driver("host=db pgbouncer=true"),
            'The broker cannot be used as it is configured (ProgrammingError: invalid connection option "pgbouncer").',
        ),
        (
            TypeError("got an unexpected keyword argument 'pgbouncer'"),
            "The broker cannot be used as it is configured "
            "(TypeError: got an unexpected keyword argument 'pgbouncer').",
        ),
        (
            OperationalError('connection is bad: invalid sslmode value: "nix"'),
            "The broker cannot be used as it is configured "
            '(OperationalError: connection is bad: invalid sslmode value: "nix").',
        ),
        (ValueError("no URL"), "The broker cannot be used as it is configured (ValueError: no URL)."),
    ],
)
def test_a_configuration_that_can_never_work_ends_the_start_at_once(
    broker: Mock, error: Exception, sentence: str
) -> None:
    broker.ping.side_effect = error
    with pytest.raises(CommandError) as end:
        health.wait_for_servers()
    assert str(end.value) == sentence
    assert broker.ping.call_count == 1


def test_a_table_that_is_not_there_yet_is_waited_for(broker: Mock) -> None:
    error = ProgrammingError('relation "django_q_ormq" does not exist')
    error.__cause__ = psycopg.errors.UndefinedTable()
    broker.ping.side_effect = [error, None]
    health.wait_for_servers()
    assert broker.ping.call_count == 2


@pytest.mark.parametrize("password", ["pa/ss-word", "pa#ss", "12/34?56", "p@ss@pa"])
def test_no_part_of_a_password_is_shown(broker: Mock, settings: Settings, password: str) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "mongo": {"host": f"mongodb://me:{password}@db:1/name"}}
    said = f"Port could not be cast to integer value as {password.partition('/')[0]!r}: {password} of me at db"
    broker.ping.side_effect = ValueError(said)
    with pytest.raises(CommandError) as end:
        health.wait_for_servers()
    for word in password.replace("/", " ").replace("#", " ").replace("?", " ").replace("@", " ").split():
        assert word not in str(end.value)
    assert "of me at db" in str(end.value)


def test_an_answer_keeps_the_words_that_are_no_secret(broker: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://postgres:postgres@localhost:5432/postgres")
    broker.ping.side_effect = OSError('password authentication failed for user "postgres"')
    reason = 'OSError: password authentication failed for user "postgres"'
    assert health.silent_servers() == {"broker": reason}


@pytest.mark.django_db(transaction=True)
def test_a_connection_is_closed_after_an_error(broker: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    connection.ensure_connection()
    broker.ping.side_effect = OSError("refused")
    close = Mock(wraps=connection.close)
    monkeypatch.setattr(connection, "close", close)
    health.silent_servers()
    close.assert_called_once_with()


@only_on_postgresql
@pytest.mark.django_db(transaction=True)
def test_a_connection_that_has_become_read_only_is_replaced() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    health.database()
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('transaction_read_only')")
        assert cursor.fetchone() == ("off",)


@only_on_postgresql
@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_read_only_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "options", "-c default_transaction_read_only=on")
    connection.close()
    try:
        with pytest.raises(OperationalError, match=r"^it is read-only$"):
            health.database()
    finally:
        connection.close()


def test_another_error_of_the_broker_is_one_line(broker: Mock) -> None:
    broker.ping.side_effect = OSError("refused\nand a page more")
    assert health.in_words(health.silent_servers()) == "The broker does not answer (OSError: refused)."
