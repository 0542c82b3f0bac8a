"""Which functions schedules may run: what is typed in the admin, and what a worker is to queue."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from core.models import User
from django.core.checks import run_checks
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone
from django_q.models import Failure, Schedule
from django_q.tasks import schedule
from pytest_django import Settings
from worker.allowed import refusal
from worker.cluster import due
from worker.cluster.functions import located

pytestmark = pytest.mark.django_db
ADD = "/admin/django_q/schedule/add/"
ALLOWED = "core.tasks.count_words"
REFUSED = [
    {"func": "os.abort"},
    {"func": "django.core.management.call_command", "args": "'flush'"},
    {"func": "worker.management.commands.qcluster.begin_as", "args": "'x'"},
    {"func": "core.views.settings.configure"},  # of core by its path alone
    {"func": "core.views.redirect", "args": "'os.abort'"},
    {"func": "core.tasks.count_words.__class__"},
    {"func": "core"},
    {"func": "core.tasks.gone"},
    {"hook": "os.abort"},
    {"kwargs": "text='x', hook='os.abort'"},
    {"kwargs": "text='x', q_options={'hook': 'os.abort'}"},
    {"kwargs": "{'text': 'x', 'q_options': {'chain': [('os.abort', ())]}}"},
    {"kwargs": "text='x', chain=['os.abort']"},
    {"kwargs": "text='x', q_options=1"},
    {"kwargs": "text='x', q_options={'iter_count': 3}"},
    {"kwargs": "text='x', sync=True"},
]
UNREADABLE = [{"args": "one two"}, {"args": "f()"}, {"kwargs": "text="}]
each_refused = pytest.mark.parametrize("fields", REFUSED, ids=str)


def is_queued(monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]) -> bool:
    """Let a worker queue a schedule that nobody has validated, and say whether it has."""
    queued: list[str] = []
    monkeypatch.setattr("worker.trigger.queue_as", lambda known, func, *args, **options: queued.append(func))
    (row,) = Schedule.objects.bulk_create([Schedule(**{"func": ALLOWED, "name": "typed", **fields})])
    due.queue(lambda: None, row.pk, "")
    Schedule.objects.filter(pk=row.pk).delete()
    return bool(queued)


@pytest.fixture
def staff() -> Client:
    """Provide the browser of somebody who may do all in the admin."""
    client = Client()
    client.force_login(User.objects.create(username="ada", is_staff=True, is_superuser=True))
    return client


def typed(fields: dict[str, str]) -> dict[str, str]:
    """Return what the admin's form sends."""
    later = timezone.now() + timedelta(days=9)
    when = {"next_run_0": later.date().isoformat(), "next_run_1": "12:00:00", "schedule_type": "D", "repeats": "-1"}
    return {"func": ALLOWED, **when, **fields}


@pytest.mark.parametrize("fields", [*REFUSED, *UNREADABLE], ids=str)
def test_the_admin_says_beside_the_field_what_it_refuses(staff: Client, fields: dict[str, str]) -> None:
    answer = staff.post(ADD, typed(fields))
    assert answer.status_code == 200
    ((field, (sentence,)),) = answer.context["adminform"].form.errors.items()
    assert field in fields
    assert sentence.startswith("A schedule")
    assert sentence.endswith(".")
    assert not Schedule.objects.filter(schedule_type="D").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"args": "'one two'"},
        {"kwargs": "text='x', q_options={'timeout': 5}", "hook": ALLOWED},
        {"kwargs": "text='x', q_options=None"},
    ],
    ids=str,
)
def test_the_admin_takes_what_is_the_projects_own(
    staff: Client, fields: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert staff.get(ADD).status_code == 200
    answer = staff.post(ADD, typed(fields))
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    assert is_queued(monkeypatch, fields)


@each_refused
def test_a_worker_queues_no_task_of_what_is_refused(fields: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_queued(monkeypatch, fields)
    (failure,) = Failure.objects.filter(name="typed")
    assert failure.result.startswith("The schedule typed cannot be queued: A schedule")
    assert failure.hook is None
    assert located(failure.func) is None, "who submits it again would run it"


def test_the_date_that_is_passed_on_is_no_way_to_name_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_queued(monkeypatch, {"intended_date_kwarg": "text"})
    assert not is_queued(monkeypatch, {"intended_date_kwarg": "hook"})


def test_code_that_schedules_is_told_at_once() -> None:
    with pytest.raises(ValidationError, match=r"A schedule may not run 'math\.copysign'"):
        schedule("math.copysign", 2, -1)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"texts": 1}, "'texts' is no option of async_task(), and no argument of count_words()."),
        ({"text": "a", "q_options": {"time_out": 3}}, "'time_out' is no option of async_task(), in q_options."),
        ({"text": "a", "q_options": {"cluster": "fats"}}, "Q_CLUSTER knows no cluster 'fats'."),
        ({"text": "a", "q_options": {"broker_name": "fats"}}, "Q_CLUSTER knows no cluster 'fats'."),
    ],
    ids=str,
)
def test_keywords_that_are_not_the_functions_are_refused_when_a_schedule_is_made(
    staff: Client, kwargs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        schedule(ALLOWED, **kwargs)
    assert refusal.value.message_dict["kwargs"][0].startswith(f"A schedule cannot be queued: {sentence}")
    answer = staff.post(ADD, typed({"kwargs": str(kwargs)}))
    ((field, (told,)),) = answer.context["adminform"].form.errors.items()
    assert (field, told.startswith(f"A schedule cannot be queued: {sentence}")) == ("kwargs", True)


@pytest.mark.parametrize("minutes", [None, 0])
def test_a_schedule_of_minutes_says_how_many(staff: Client, minutes: int | None) -> None:
    sentence = "A schedule of type Minutes needs their number, 1 or more."
    answer = staff.post(ADD, typed({"schedule_type": Schedule.MINUTES, "minutes": str(minutes or "")}))
    assert answer.context["adminform"].form.errors == {"__all__": [sentence]}
    with pytest.raises(ValidationError, match=sentence):
        schedule(ALLOWED, "one two", schedule_type=Schedule.MINUTES, minutes=minutes)
    assert schedule(ALLOWED, "one two", schedule_type=Schedule.MINUTES, minutes=1).pk
    assert schedule(ALLOWED, "one two", schedule_type=Schedule.DAILY, minutes=minutes).pk


def test_the_setting_names_others(settings: Settings) -> None:
    assert "Q_SCHEDULE_MODULES allows core" in refusal("math.floor")
    settings.Q_SCHEDULE_MODULES = ["math", "django.core.management.call_command"]
    assert refusal("math.floor") == refusal("django.core.management.call_command") == ""
    assert refusal("mathematics.floor") != "" != refusal(ALLOWED)


def test_a_refusal_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(str(refusal)).endswith("write its dotted path, as in 'core.tasks.count_words'.")
    monkeypatch.setattr("core.tasks.part", partial(int, base=2), raising=False)
    assert refusal("core.tasks.part").endswith(
        "Add it there, or write a function. It is of functools, whatever its path."
    )


@pytest.mark.parametrize("wrong", ["core", [1], {}, [""]])
def test_a_setting_that_is_no_list_of_modules_is_named(settings: Settings, wrong: object) -> None:
    settings.Q_SCHEDULE_MODULES = wrong
    (message,) = run_checks()
    assert (message.id, message.msg) == ("worker.E040", f"Q_SCHEDULE_MODULES is {wrong!r}, no list of modules.")
