"""A page whose servers are away, and one that is asked for with what no server takes."""

from collections.abc import Iterator

import pytest
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from pytest_django import DjangoDbBlocker, Settings

NOWHERE = {"NAME": "/nowhere/at/all", "HOST": "127.0.0.1", "PORT": 1}


def write(request: HttpRequest, goes: str = "") -> HttpResponse:
    """Write into the session; the database may go away before it is saved."""
    request.session["written"] = goes
    if goes:
        connection.close()
        connection.settings_dict.update(NOWHERE)
    return HttpResponse("written")


urlpatterns = [path("write/", write), path("write/<goes>/", write)]


@pytest.fixture
def client(settings: Settings, django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Client]:
    """Provide a browser that sees what is wrong; the database is there again at the end."""
    settings.ROOT_URLCONF = __name__
    before = dict(connection.settings_dict)
    client = Client(raise_request_exception=False)
    with django_db_blocker.unblock():
        yield client
        connection.close()
        connection.settings_dict.update(before)
        if "sessionid" in client.cookies:
            client.session.delete()
        connection.close()


@pytest.mark.parametrize("is_new", [True, False])
def test_a_session_that_cannot_be_saved_is_an_outage(
    is_new: bool, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    if not is_new:  # of one that is there, Django says that the visitor may have logged out
        assert client.get("/write/").status_code == 200
    answer = client.get("/write/away/")
    assert (answer.status_code, answer.content) == (
        503,
        b"A server that this page needs does not answer. Try again in a minute.\n",
    )
    (line,) = (record for record in caplog.records if record.name == "django.request")
    assert line.getMessage().startswith("GET /write/away/: a server does not answer (OperationalError: ")
    assert line.exc_info is None


def test_a_null_character_in_the_key_of_a_session_is_refused(client: Client) -> None:
    assert client.get("/write/", headers={"Cookie": r'sessionid="\000abcdefgh"'}).status_code == 400
