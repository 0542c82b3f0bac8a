"""The page of the queue in the admin: who sees what of it, and what its buttons do."""

import html
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Event, Semaphore
from types import ModuleType
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest
from core.models import User
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.core.checks import Tags, run_checks
from django.db import OperationalError
from django.test import Client
from django.urls import include, path
from django.utils import timezone, translation
from pytest_django import Settings
from queue_state import empty, failed, wait_for_questions
from worker.queue import actions, page
from worker.queue.page import ACTIONS
from worker.queue.state import Again, ClusterState, Group, Overview, QueueState, Running, Scheduled, Waiting
from worker.single_flight import Question
from worker.templatetags.queue import ago, number, span

pytestmark = pytest.mark.django_db
PAGE = "/admin/queue/"
DEAD, LOST = "Does not answer, last seen", "Nothing serves this queue"
GROUP = ("shop.tasks.pay", "builtins.ValueError")


def before(seconds: float) -> datetime:
    """Return a time that is over for so long."""
    now: datetime = timezone.now()
    return now - timedelta(seconds=seconds)


def queue(name: str, *clusters: ClusterState, **fields: Any) -> QueueState:
    """Return what there is to know of a queue in which nothing is."""
    numbers: dict[str, Any] = dict.fromkeys(("waiting", "due", "running", "ahead", "done", "failed"), 0)
    words = {"more": False, "oldest": None, "paused_by": "", "paused_since": None, "start_with": "", "problem": ""}
    return QueueState(**{"name": name, "cluster": name, "clusters": list(clusters), **numbers, **words, **fields})


def sign(host: str, **fields: Any) -> ClusterState:
    """Return the sign of a cluster that is well."""
    run = Running("1", "pay", "shop.tasks.pay", "default", 1, before(9), 9.0, f"{host}:8", host)
    known = {"queue": "default", "pid": 7, "since": before(200_000), "seen": before(12), "alive": True, "workers": 2}
    return ClusterState(
        **{"name": "site", "host": host, "ahead": 3, "oldest": None, "late": {}, "running": [run], **known, **fields}
    )


def overview(**fields: Any) -> Overview:
    """Return what there is to know where nothing is the matter."""
    known = {"queues": [queue("default", sign("ada"))], "running": [], "again": Again(0, []), "failed": []}
    total = {"failed_total": 0, "failed_older": 0}
    return Overview(**{"at": timezone.now(), **total, "schedules": [], **known, **fields})


def busy() -> Overview:
    """Return what there is to know where all is the matter."""
    return overview(
        queues=[
            queue("default", sign("ada"), sign("bob", alive=False), waiting=1_234_567, oldest=754.2, failed=4, due=38),
            queue("slow", start_with="python manage.py prodserver worker-slow", waiting=100_000, more=True),
            queue("held", sign("eve", late={"saving results": 42.0}), paused_by="eve", paused_since=before(185)),
            queue("away", waiting=None, due=None, problem="The broker does not answer."),
        ],
        running=[Running("a1", "one", "shop.tasks.pay", "default", 2, before(131), 131.0, "ada:8", "ada")],
        again=Again(2140, [Waiting("a2", "two", "shop.tasks.pay", "default", "OSError: off", 1, 3, before(-99))]),
        failed=[Group(*GROUP, 'ValueError: <no> "luck"', 1207, False, before(42), ["a3", "a4"])],
        failed_total=1208,
        failed_older=1,
        schedules=[
            Scheduled(1, "digest", "shop.tasks.digest", "default", before(7200), True, False, before(400), 400.0),
            Scheduled(2, "old", "shop.tasks.old", "default", None, False, True, None, 0.0),
            Scheduled(3, "far", "shop.tasks.far", "default", None, False, False, None, 0.0),
        ],
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Overview]:
    """Provide what the page is shown, in a list whose last one counts."""
    shown = [busy()]
    monkeypatch.setattr(page, "overview", lambda: shown[-1])
    return shown


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, shown: list[Overview]) -> list[Any]:
    """Provide what was done, by whom."""
    done: list[Any] = []

    def note(name: str) -> Callable[..., str]:
        def noted(*said: Any, **more: Any) -> str:
            done.append((name, *said, more))
            return "Done."

        return noted

    for name in ("pause", "resume", "purge", "retry", "cancel", "run_schedule"):
        monkeypatch.setattr(actions, name, note(name))
    return done


def somebody(*permissions: str) -> Client:
    """Return the browser of somebody on the staff, with permissions."""
    user = User.objects.create(username="ada", is_staff=True)
    user.user_permissions.add(*Permission.objects.filter(codename__in=permissions, content_type__app_label="django_q"))
    client = Client()
    client.force_login(user)
    return client


def text_of(client: Client, path: str = PAGE) -> str:
    """Return the words of a page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", client.get(path).content.decode()))


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("permission", ["view_task", "change_task"])
def test_the_admin_leads_whom_the_page_is_shown_to_it(permission: str) -> None:
    client = somebody(permission)
    assert '<a href="/admin/worker/queue/">' in client.get("/admin/").content.decode()
    assert client.get("/admin/worker/queue/")["Location"] == PAGE
    shown = client.get(PAGE).content.decode()
    assert '<a href="/admin/queue/" aria-current="page">Queue</a>' in shown, "the entry in the list of all pages"


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("lines", [["admin/"], ["admin/", "admin/queue/"]])
def test_a_project_whose_addresses_lack_the_page_keeps_its_admin_and_is_told_the_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    leads_to = {"admin/": admin.site.urls, "admin/queue/": include("worker.queue.urls")}
    former = ModuleType("former_urls")
    vars(former)["urlpatterns"] = [path(line, leads_to[line]) for line in lines]
    monkeypatch.setitem(sys.modules, former.__name__, former)
    assert not [found for found in run_checks(tags=[Tags.urls]) if found.id == "worker.I061"]
    settings.ROOT_URLCONF = former.__name__
    client = somebody("view_task")
    assert '<a href="/admin/worker/queue/">' not in client.get("/admin/").content.decode()
    assert client.get("/admin/worker/queue/").status_code == 404
    (found,) = [found for found in run_checks(tags=[Tags.urls]) if found.id == "worker.I061"]
    assert found.msg.startswith("former_urls does not lead to the page of the queue")
    assert 'path("admin/queue/", include("worker.queue.urls"))' in str(found.hint)


@pytest.mark.usefixtures("shown")
def test_nobody_else_sees_it() -> None:
    assert Client().get(PAGE)["Location"] == f"/admin/login/?next={PAGE}"
    client = somebody("view_failure")
    assert "/admin/worker/queue/" not in client.get("/admin/").content.decode()
    assert [client.get(path).status_code for path in (PAGE, f"{PAGE}now/")] == [403, 403]


def test_who_may_only_look_finds_no_button_and_can_do_nothing(done: list[Any]) -> None:
    client = somebody("view_task")
    shown = client.get(PAGE).content.decode()
    assert 'class="action' not in shown
    assert "/admin/django_q/" not in shown.partition('<div id="queue"')[2], (
        "what leads to pages that are not shown either"
    )
    for name in ACTIONS:
        assert client.post(PAGE, {name: "1", "sure": "yes"}).status_code == 403
    assert done == []


def test_what_is_done_came_from_the_page_itself(done: list[Any]) -> None:
    client = somebody("change_task")
    client.handler.enforce_csrf_checks = True
    assert client.post(PAGE, {"pause": "default"}).status_code == 403
    assert client.get(f"{PAGE}?pause=default").status_code == 200
    assert client.post(PAGE).status_code == 403
    assert done == []


@pytest.mark.parametrize(
    ("button", "said", "asked", "called"),
    [
        ("pause", ["default"], "", ("pause", "default", "ada", {})),
        ("resume", ["held"], "", ("resume", "held", "ada", {})),
        ("purge", ["slow"], "Purge this queue?", ("purge", "slow", "ada", {})),
        ("cancel", ["a1", "shop.tasks.pay"], "Cancel this task?", ("cancel", "a1", "ada", {})),
        ("cancel", ["a2", "shop.tasks.pay"], "Cancel this task?", ("cancel", "a2", "ada", {})),
        ("retry", ["a4"], "", ("retry", "ada", {"task": "a4"})),
        (
            "retry_group",
            list(GROUP),
            "Run these tasks again?",
            ("retry", "ada", dict(zip(("function", "exception"), GROUP, strict=True)) | {"within": 10.0}),
        ),
        ("retry_all", ["All 1,208"], "Run all failed tasks again?", ("retry", "ada", {"within": 10.0})),
        ("run", ["1"], "", ("run_schedule", 1, "ada", {})),
    ],
)
def test_a_button_does_what_it_says_and_asks_before_where_nothing_undoes_it(
    done: list[Any], button: str, said: list[str], asked: str, called: tuple[Any, ...]
) -> None:
    client = somebody("change_task")
    value = "/".join(quote(part, safe="") for part in said)
    on_page = [it["value"] for it in controls(client.get(PAGE).content.decode()) if it["name"] == button]
    assert value in on_page
    answer = client.post(PAGE, {button: value})
    if asked:
        question = answer.content.decode()
        assert f"<h1>{asked}</h1>" in question
        assert done == []
        kept = {it["name"]: it["value"] for it in controls(question)}
        assert kept[button] == value
        answer = client.post(PAGE, kept)
    assert answer["Location"] == PAGE
    assert done == [called]
    assert "Done." not in text_of(client, f"{PAGE}now/"), "the page itself says it, not what its script asks for"
    assert "Done." in text_of(client)


def controls(text: str) -> list[dict[str, str]]:
    """Return the buttons and fields of a page that are sent to it."""
    found = re.findall(r'<(?:button|input) type="submit" name="(\w+)" value="([^"]*)"', text)
    found += re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', text)
    return [{"name": name, "value": html.unescape(value)} for name, value in found]


def test_a_refusal_is_told(done: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*said: str) -> str:
        raise actions.RefusedError("The queue default is paused already.")

    monkeypatch.setattr(actions, "pause", refuse)
    answer = somebody("change_task").post(PAGE, {"pause": "default"}, follow=True)
    assert '<li class="error">The queue default is paused already.</li>' in answer.content.decode()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"explode": "default"},
        {"retry": "", "sure": "yes"},
        {"retry": "\n"},
        {"retry": "\u2028", "sure": "yes"},
        {"retry": "%0A/a4"},
        {"retry": "/a4"},
        {"run": "one"},
        {"run": "\n"},
        {"run": "9" * 5000},
        {"retry_group": "shop.tasks.pay", "sure": "yes"},
        {"retry_group": "a/b/c", "sure": "yes"},
        {"retry_group": "a%00b/c", "sure": "yes"},
        {"pause": "default\0"},
    ],
)
def test_what_no_button_sends_is_refused_in_a_sentence(done: list[Any], form: dict[str, str]) -> None:
    answer = somebody("change_task").post(PAGE, form)
    assert (answer.status_code, answer.content.count(b"\n")) == (400, 1), answer.content
    assert done == []


@pytest.mark.parametrize("function", ["", "\nlead", "two\nlines", "a\rb.c", "\r\n", "a/b", "%0A", "\u202eabc"])
def test_a_group_is_the_one_of_the_button_whatever_its_function_is_called(
    done: list[Any], shown: list[Overview], function: str
) -> None:
    shown.append(replace(busy(), failed=[Group(function, "", "", 1, False, before(42), ["a3"])]))
    client = somebody("change_task")
    (value,) = (it["value"] for it in controls(client.get(PAGE).content.decode()) if it["name"] == "retry_group")
    assert value.isascii(), "what a browser sends otherwise than it stands there"
    assert value.isprintable()
    question = client.post(PAGE, {"retry_group": value}).content.decode()
    client.post(PAGE, {it["name"]: it["value"] for it in controls(question)})
    assert done == [("retry", "ada", {"within": page.WITHIN, "function": function, "exception": ""})]


def test_a_question_says_how_many_tasks_it_is_about(done: list[Any], shown: list[Overview]) -> None:
    empty()
    for reason, exception in (
        ("one", "builtins.ValueError"),
        ("two", "builtins.ValueError"),
        ("no", "builtins.OSError"),
    ):
        failed(reason, func="shop.tasks.pay", exception=exception)
    client = somebody("change_task")
    for button, value, tasks in (("retry_group", "/".join(GROUP), 2), ("retry_all", "All", 3)):
        assert f"<li>Tasks: {tasks}</li>" in client.post(PAGE, {button: value}).content.decode()
    assert done == []


def test_no_name_reads_otherwise_than_it_is(
    done: list[Any], shown: list[Overview], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group("\u202eabc.def", "", "\u2067ValueError: live", 1, False, before(42), ["a3"])
    shown.append(replace(busy(), failed=[group]))
    monkeypatch.setattr(actions, "pause", lambda *_: "Cancelled \u202eevil, which was waiting.")
    client = somebody("change_task")
    for text in (
        client.get(PAGE).content.decode(),
        client.get(f"{PAGE}now/").content.decode(),
        client.post(PAGE, {"retry_group": "%E2%80%AEabc.def/"}).content.decode(),
        client.post(PAGE, {"pause": "default"}, follow=True).content.decode(),
    ):
        assert not page.REVERSING.search(text)
        assert "\ufffdabc.def" in text
    assert "Cancelled \ufffdevil" in text


def test_what_is_left_out_of_the_groups_is_said(shown: list[Overview]) -> None:
    group = Group(*GROUP, "ValueError: no", 1999, True, before(42), ["a3"])
    shown.append(replace(busy(), failed=[group], failed_total=100_000, failed_older=98_001))
    client = somebody("view_task")
    assert "a3 1,999+ 42 s ago" in (text := text_of(client))
    assert "Not counted here: 98,001 that failed earlier. All 100,000+" in text
    shown.append(replace(shown[-1], failed=[], failed_total=7, failed_older=7))
    assert "Nothing has failed." not in (text := text_of(client))
    assert "Not counted here: 7 that failed earlier. All 7" in text


@pytest.mark.usefixtures("shown")
def test_it_says_in_words_what_is_wrong() -> None:
    shown = text_of(somebody("view_task"))
    assert f"{DEAD} 12 s ago" in shown
    assert f"{LOST}: start it with python manage.py prodserver worker-slow" in shown
    assert "Paused by eve 3 min ago" in shown
    assert "Late: saving results 42 s" in shown
    assert "The broker does not answer." in shown
    assert "Overdue for 6 min 40 s" in shown
    assert "2 h ago failed" in shown
    assert re.search("shop.tasks.old default . turned off", shown)
    assert re.search("shop.tasks.far default . never", shown)


@pytest.mark.usefixtures("shown")
def test_it_shows_how_much_there_is() -> None:
    shown = text_of(somebody("view_task"))
    for words in (
        "1,234,567 12 min 34 s 38",
        "&gt; 100,000",
        "The broker does not answer. ?",
        "shop.tasks.pay one default ada:8 2 2 min 11 s",
        "shop.tasks.pay two OSError: off 1 of 3 in 1 min",
        "ValueError: &lt;no&gt; &quot;luck&quot; The newest a3 a4 1,207 42 s ago",
        "ada 7 default Alive 1 of 2 3 2 d 7 h ago",
        "All 2,140",
        "All 1,208",
    ):
        assert words in shown, words
    with translation.override("de"):
        assert number(1_234_567) == "1.234.567"


def test_requests_that_come_together_share_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, go_on, waiting, wait = [], Event(), Semaphore(0), Question.wait

    def counted(question: Question, limit: float) -> bool:
        waiting.release()
        found: bool = wait(question, limit)
        return found

    def look() -> Overview:
        go_on.wait(60)
        looks.append(busy())
        return looks[-1]

    monkeypatch.setattr(Question, "wait", counted)
    monkeypatch.setattr(page, "overview", look)
    with ThreadPoolExecutor(41) as requests:
        others = [requests.submit(page.shared.tell, 60) for _ in range(40)]
        assert all(waiting.acquire(timeout=10) for _ in others)
        with pytest.raises(OperationalError, match="no answer within 0 s"):
            requests.submit(page.shared.tell, 0.01).result(60)
        go_on.set()
        assert {id(each.result(60)) for each in others} == {id(looks[0])}
        assert len(looks) == 1
        assert requests.submit(page.shared.tell, 60).result(60) is looks[1], "who comes later sees what is new"


def test_a_look_that_fails_fails_for_all_who_wait_for_it_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "overview", Mock(side_effect=[OperationalError("away"), busy()]))
    with pytest.raises(OperationalError):
        page.shared.tell(60)
    assert page.shared.tell(60).queues


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "frozen", ["worker.queue.page.overview", "django.contrib.sessions.backends.db.SessionStore.load"]
)
def test_a_database_that_is_frozen_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch, frozen: str) -> None:
    client, over = somebody("view_task"), Event()
    client.raise_request_exception = False
    monkeypatch.setattr(frozen, lambda *_: over.wait(60))
    monkeypatch.setattr(page, "PATIENCE", 0.3)
    begun = time.monotonic()
    answers = [client.get(path) for path in (PAGE, f"{PAGE}now/")]
    assert time.monotonic() - begun < 30
    over.set()
    wait_for_questions()
    sentence = b"A server that this page needs does not answer. Try again in a minute.\n"
    assert [(answer.status_code, answer.content) for answer in answers] == [(503, sentence)] * 2


def test_where_nothing_is_the_matter_it_says_so(shown: list[Overview]) -> None:
    shown.append(overview())
    client = somebody("change_task")
    text = text_of(client)
    for words in (
        "Nothing runs at the moment.",
        "No task waits for another attempt.",
        "Nothing has failed.",
        "There is no schedule.",
    ):
        assert words in text
    assert not re.search(f"{DEAD}|{LOST}|Paused|Overdue|No worker", text)
    shown.append(overview(queues=[queue("default")]))
    assert "No worker has reported." in text_of(client)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_661, "1 h 1 min"),
        (86_399, "23 h 59 min"),
        (90_000, "1 d 1 h"),
        (86_460, "1 d"),
    ],
)
def test_a_time_is_told_in_two_units(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


def test_a_moment_is_told_by_its_distance_with_itself_behind_it() -> None:
    at = before(125)
    assert ago(at) == f'<time datetime="{at.isoformat()}" title="{at:%Y-%m-%d %H:%M:%S} UTC">2 min ago</time>'
    assert ">in 3 s<" in ago(before(-3.2))
    assert ago(None) == ""
