"""Tasks: as the functions that they are, and through real processes."""

import http.cookiejar
import json
import re
import urllib.parse
import urllib.request
from typing import Any

import pytest

from core.tasks import OFFERS, count_words
from tests.conftest import Site
from tests.processes import wait_for


@pytest.mark.parametrize(("text", "words"), [("", 0), ("one", 1), ("  two\nwords ", 2)])
def test_words_are_counted(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize("offer", OFFERS)
def test_a_task_that_web_queues_is_run_by_a_worker(site: Site, offer: str) -> None:
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    page = browser.open(site.url).read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token
    form = {"csrfmiddlewaretoken": token[1], "text": "one two three", "offer": offer}
    sent = browser.open(f"{site.url}/tasks/", urllib.parse.urlencode(form).encode())

    def state() -> dict[str, Any]:
        request = urllib.request.Request(sent.url, headers={"Accept": "application/json"})
        answer: dict[str, Any] = json.load(browser.open(request))
        return answer

    wait_for(lambda: state()["done"], "result of the task")
    assert "3" in state()["text"]
