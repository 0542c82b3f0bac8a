"""Mails to ADMINS about tasks that have failed: how many there are, however many tasks fail in however many ways."""

from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from django.core.cache import cache
from django.utils import timezone
from worker import errors

pytestmark = pytest.mark.django_db
HOUR = 1_000_000 * errors.HOUR + 5.0


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Provide the mails that are sent, in an hour of which nothing is known yet."""
    cache.clear()
    monkeypatch.setattr(errors, "time", Mock(time=lambda: HOUR))
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(errors, "mail_admins", lambda *mail: sent.append(mail))
    return sent


def fail(way: int) -> None:
    """Let a task fail in a way of many."""
    errors.send_mail({"task": "shop.tasks.pay", "task_id": "a1"}, f"shop.Error{way}", f"Error{way}: no", [])


def test_there_are_so_many_an_hour_and_one_that_says_so(
    mails: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        for way in range(200):
            fail(way)
    assert [subject for subject, _ in mails[:-1]] == [f"shop.tasks.pay failed: Error{way}: no" for way in range(20)]
    subject, text = mails[-1]
    assert subject == "More tasks have failed"
    assert "20 mails have told of tasks that have failed in this hour" in text
    assert "shop.tasks.pay has failed for good: Error20: no" in text
    del mails[:]
    monkeypatch.setattr(errors, "time", Mock(time=lambda: HOUR + errors.HOUR))
    for way in range(200, 205):
        fail(way)
    assert len(mails) == 5


def test_the_cache_keeps_what_is_known_of_the_mails_of_many_groups(
    mails: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "MAILS", 1000)
    for _ in range(2):
        for way in range(200):
            fail(way)
    assert len(mails) == 200


def test_what_failed_meanwhile_is_counted_for_longer_than_a_cache_keeps_things(
    mails: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {}
    put = type(cache._connections["default"]).set  # noqa: SLF001

    def note(self: Any, key: str, value: Any, timeout: Any = None, **more: Any) -> None:
        kept[key] = timeout
        put(self, key, value, timeout, **more)

    monkeypatch.setattr(type(cache._connections["default"]), "set", note)  # noqa: SLF001
    for _ in range(3):
        fail(1)
    (key,) = kept
    assert kept[key] == 7 * errors.DAY
    cache.delete(key.removesuffix(":count"))
    fail(1)
    assert "It has failed in this way 2 more times since the last mail." in mails[-1][1]


def test_a_mail_that_could_not_be_sent_takes_no_place(
    mails: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> None:
        raise OSError("refused")

    with monkeypatch.context() as away:
        away.setattr(errors, "mail_admins", refuse)
        for way in range(50):
            with pytest.raises(OSError, match="refused"):
                fail(way)
    later = timezone.now() + timedelta(seconds=errors.AGAIN + 1)
    monkeypatch.setattr("django.core.cache.backends.db.tz_now", lambda: later)
    for way in range(10):
        fail(way)
    assert [subject for subject, _ in mails] == [f"shop.tasks.pay failed: Error{way}: no" for way in range(10)]
    assert all("It has failed in this way once more since the last mail." in text for _, text in mails)
