"""What a worker waits for before it starts, and what it does not wait for."""

import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from clusters import alike_elsewhere
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from project import free_port, manage
from pytest_django import Settings
from worker import health

RELEASED = {"DEBUG": "false", "SECRET_KEY": "x" * 50 + "12345", "ALLOWED_HOSTS": "www.example.com"}
only_on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL only")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stand in for the broker, beside a database that answers."""
    broker = Mock()
    monkeypatch.setattr(health, "get_broker", lambda: broker)
    monkeypatch.setitem(health.SERVERS, "database", Mock())
    monkeypatch.setattr(health, "call_command", Mock())
    monkeypatch.setattr(time, "sleep", Mock())
    return broker


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


def test_a_configuration_that_can_never_work_ends_the_start_at_once(broker: Mock) -> None:
    broker.ping.side_effect = ImproperlyConfigured("Set AWS_REGION.")
    with pytest.raises(CommandError) as end:
        health.wait_for_servers()
    assert str(end.value) == "Set AWS_REGION."
    assert broker.ping.call_count == 1


def test_a_table_that_is_not_there_yet_is_waited_for(
    broker: Mock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: Settings
) -> None:
    settings.DEBUG = False
    monkeypatch.setattr(health, "call_command", Mock(side_effect=[SystemExit(1), None]))
    health.wait_for_servers()
    (record,) = caplog.records
    assert record.message.startswith("The database is not migrated: run `python manage.py release`. Next try in 1 s")


@pytest.mark.django_db
@pytest.mark.parametrize("number", [1, None], ids=["the last of the worker's own", "and the last of django-q2's"])
def test_each_migration_that_the_worker_needs_is_missed(number: int | None) -> None:
    assert health.missing_tables() == ""
    last = "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"
    own = sorted((key for key in MigrationLoader(None).disk_migrations if key[0] == "worker"), reverse=True)
    for migration in [*own, ("django_q", last)][:number]:
        MigrationRecorder(connection).record_unapplied(*migration)
    assert health.missing_tables() == "The database is not migrated: run `python manage.py release`."


@alike_elsewhere
def test_a_database_without_tables_stops_web_with_a_sentence(tmp_path: Path) -> None:
    done = manage(
        "prodserver", "web", env={"DATABASE_URL": f"sqlite:///{tmp_path / 'database.sqlite3'}", "DEBUG": "true"}
    )
    sentence = "CommandError: The database is not migrated: run `python manage.py migrate`.\n"
    assert (done.returncode, done.stderr) == (1, sentence)


@alike_elsewhere
def test_a_database_that_is_away_stops_a_migration_with_a_sentence() -> None:
    url = f"postgres://me:pa55word@127.0.0.1:{free_port()}/site"
    for command, env in (("migrate", {"DEBUG": "true"}), ("release", RELEASED)):
        done = manage(command, env={**env, "DATABASE_URL": url})
        assert done.returncode == 1
        assert "(worker.E025) The database default does not answer (OperationalError: connection failed" in done.stderr
        assert "pa55word" not in done.stderr
        assert "Traceback" not in done.stderr


def test_what_stands_before_the_host_of_a_url_is_not_shown(broker: Mock) -> None:
    broker.ping.side_effect = OSError("no answer from redis://me:p@ss-word@db:1/0")
    assert health.in_words(health.silent_servers()) == (
        "The broker does not answer (OSError: no answer from redis://…@db:1/0)."
    )


def test_an_answer_keeps_the_words_that_are_no_secret(broker: Mock) -> None:
    broker.ping.side_effect = OSError('password authentication failed for user "postgres"')
    assert health.in_words(health.silent_servers()) == (
        'The broker does not answer (OSError: password authentication failed for user "postgres").'
    )


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
