"""Tasks, as the functions that they are, and as a worker runs them."""

from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone
from django_q.tasks import async_chain

from core.tasks import OFFERS, Offer, count_words, tidy
from worker.testing import Queue


@pytest.mark.parametrize(("text", "words"), [("", 0), ("one", 1), ("  two\nwords ", 2)])
def test_words_are_counted(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_each_task_that_the_start_page_offers_has_a_result(offer: Offer) -> None:
    assert "1" in str(offer.task("word"))


@pytest.mark.django_db
def test_a_chain_runs_in_order(queue: Queue) -> None:
    async_chain([(count_words, ("one",)), (count_words, ("one two",))])
    assert queue.run() == [1, 2]


@pytest.mark.django_db
def test_each_night_expired_sessions_are_deleted() -> None:
    for days in (-1, 1):
        Session.objects.create(session_key=str(days), expire_date=timezone.now() + timedelta(days=days))
    tidy()
    assert [session.session_key for session in Session.objects.all()] == ["1"]
