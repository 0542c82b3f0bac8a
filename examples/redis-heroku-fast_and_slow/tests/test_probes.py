"""The probes: /livez, /readyz and the health_check command."""

import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.test import Client
from pytest_django import Settings

from tests.conftest import Site
from tests.processes import manage
from worker import health, heartbeat
from worker.heartbeat import Heartbeat

FOREIGN = {"host": "172.19.4.2:8000"}


@pytest.fixture
def host_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide an empty folder for signs of life."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stand in for the broker."""
    broker = Mock()
    monkeypatch.setattr(health, "get_broker", lambda: broker)
    return broker


def test_livez_answers_any_host_over_http_and_asks_nothing(client: Client, settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    response = client.get("/livez", headers=FOREIGN)  # no database is allowed in this test
    assert (response.status_code, response.content, response["Cache-Control"]) == (200, b"ok\n", "no-store")


@pytest.mark.django_db
def test_readyz_answers_any_host_over_http(client: Client, settings: Settings, broker: Mock) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert client.get("/readyz", headers=FOREIGN).status_code == 200
    broker.ping.assert_called_once_with()


@pytest.mark.django_db
def test_readyz_says_that_the_broker_does_not_answer(client: Client, broker: Mock) -> None:
    broker.ping.side_effect = OSError("refused")
    response = client.get("/readyz")
    assert (response.status_code, response.content) == (503, b"the broker does not answer\n")


def test_readyz_says_that_the_database_does_not_answer(
    client: Client, broker: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "connection", Mock(cursor=Mock(side_effect=DatabaseError("gone"))))
    response = client.get("/readyz")
    assert (response.status_code, response.content) == (503, b"the database does not answer\n")


@pytest.mark.django_db(transaction=True)  # it closes its connection
def test_a_worker_waits_for_its_servers(broker: Mock, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(time, "sleep", Mock())
    broker.ping.side_effect = [OSError("refused"), OSError("refused"), None]
    health.wait_for_servers()
    assert [record.message.partition(" Next try in ")[0] for record in caplog.records] == [
        "The broker does not answer (OSError: refused)."
    ] * 2


@pytest.mark.django_db(transaction=True)
def test_a_worker_gives_up_when_its_servers_stay_away(broker: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "START_WITHIN", 0)
    broker.ping.side_effect = OSError("refused")
    with pytest.raises(CommandError, match=r"^The broker does not answer \(OSError: refused\)\. Gave up after 0 s\.$"):
        health.wait_for_servers()


@pytest.mark.django_db
def test_a_cluster_that_beats_is_healthy_until_it_stops(host_folder: Path) -> None:
    beating = Heartbeat("test")
    beating.beat()
    assert (health.cluster("test"), heartbeat.is_alive("test")) == ("", True)
    beating.stop()
    assert health.cluster("test") == "cluster test is not running on this host"
    assert not heartbeat.is_alive("test")


@pytest.mark.django_db
def test_a_cluster_that_has_ceased_to_beat_is_not_healthy(host_folder: Path) -> None:
    Heartbeat("test").beat()
    (file,) = host_folder.iterdir()
    os.utime(file, (time.time() - 100, time.time() - 100))
    assert health.cluster("test") == "cluster test gave its last sign of life 100 s ago"


@pytest.mark.django_db
def test_a_heart_beats_into_the_cache_as_rarely_as_is_set(host_folder: Path, settings: Settings) -> None:
    settings.Q_QUIET = 900
    beating = Heartbeat("test")
    assert [beating.beat(), beating.beat()] == [True, False]
    settings.Q_QUIET = 0
    assert beating.beat()
    beating.stop()


def test_a_heart_beats_on_without_a_database(host_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    beating = Heartbeat("test")
    assert not beating.beat()  # no database is allowed in this test
    beating.stop()
    assert "sign of life of cluster test could not be given" in caplog.text
    assert "sign of life of cluster test could not be withdrawn" in caplog.text


def test_health_check_names_what_is_wrong(host_folder: Path, settings: Settings) -> None:
    settings.PORT = 1
    with pytest.raises(CommandError, match=r"^web: http://127.0.0.1:1/livez does not answer: .*refused") as error:
        call_command("health_check", "web")
    assert error.value.returncode == 1
    with pytest.raises(CommandError, match=r"^worker: cluster .* is not running on this host$") as error:
        call_command("health_check", "worker")
    assert error.value.returncode == 1
    with pytest.raises(CommandError, match=r"^There is no process 'nope': there are web, worker") as error:
        call_command("health_check", "nope")
    assert error.value.returncode == 2


def test_health_check_passes_for_each_process_that_runs(site: Site) -> None:
    for name in site.processes:
        done = manage("health_check", name, env=site.env)
        assert (done.returncode, done.stdout) == (0, f"{name}: ok\n")


def test_health_check_reports_the_status_of_a_web_server_that_fails(
    monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    monkeypatch.setattr(health, "settings", Mock(PORT=f"{site.env['PORT']}/nowhere?"))
    assert health.web().endswith("answers 404")
