"""The probes: /livez, /readyz and the health_check command."""

from pathlib import Path
from unittest.mock import Mock
from uuid import uuid4

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone
from project import Site, manage
from pytest_django import Settings
from worker import health
from worker.models import Cluster
from worker.processes import workers

FOREIGN = {"host": "172.19.4.2:8000"}


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


@pytest.mark.django_db
def test_readyz_answers_though_the_configuration_is_wrong(client: Client, broker: Mock) -> None:
    broker.ping.side_effect = ImproperlyConfigured("set it")
    assert client.get("/readyz").status_code == 503


@pytest.mark.django_db
def test_the_start_page_shows_a_worker_that_has_reported(client: Client, settings: Settings) -> None:
    settings.DEBUG = True
    now, unheard = timezone.now(), {"hears": False, "folder": "", "running": []}
    for worker in workers():
        assert 'class="missing"' in client.get("/").content.decode()
        facts = {"host": "elsewhere", "pid": 1, "since": now, "seen": now, "state": unheard}
        Cluster.objects.create(pk=uuid4(), name=worker.cluster, **facts)
    assert 'class="missing"' not in client.get("/").content.decode()


def test_health_check_names_what_is_wrong(temporary: Path, settings: Settings) -> None:
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
    with Path("/dev/full").open("w") as full:
        done = manage("health_check", name, env=site.env, stdout=full)
    assert (done.returncode, done.stderr) == (0, "")


def test_health_check_reports_the_status_of_a_web_server_that_fails(settings: Settings, site: Site) -> None:
    settings.PORT = f"{site.env['PORT']}/nowhere?"
    assert health.web().endswith("answers 404")
