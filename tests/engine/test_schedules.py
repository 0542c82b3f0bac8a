"""Schedules that are declared in code: what is refused, what becomes of their rows, and that none overlaps."""

import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from clusters import alike_elsewhere
from core import tasks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.utils import timezone
from django_q.models import Schedule, Task
from django_q.tasks import schedule as by_hand
from project import PROJECT, manage, variables
from pytest_django import Settings
from worker import packages, recurrence, schedules
from worker.broker import Broker
from worker.cluster import due
from worker.models import Failure, ScheduleState
from worker.schedules import ScheduleError, bring_in_line, find, schedule
from worker.trigger import LOST

COUNT = "core.tasks.count_words"


def count_words(text: str) -> int:
    """Stand for the project's own."""
    return len(text.split())


count_words.__module__ = "core.tasks"


def another(text: str = "") -> None:
    """Stand for another function."""


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Provide what is declared, nothing at first: what the project declares is put aside."""
    find()
    fresh: dict[str, Any] = {}
    monkeypatch.setattr(schedules, "declared", fresh)
    return fresh


class Methods:
    """Has what is no function of a module."""

    def method(self) -> None:
        """Stand for a task that is none."""


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "write one of cron=, every= and daily_at="),
    ({"cron": "0 3 * * *", "daily_at": "03:00"}, "write one of cron=, every= and daily_at="),
    ({"cron": "*/5 * * * * *"}, r"cron '\*/5 \* \* \* \* \*' has 6 words: write five: minute, hour, day, month and"),
    ({"cron": "61 * * * *"}, r"cron '61 \* \* \* \*' cannot be used \(CroniterBadCronError: .*\): write five: "),
    ({"cron": "0 0 31 2 *"}, r"cron '0 0 31 2 \*' cannot be used \(CroniterBadDateError: "),
    ({"cron": 5}, "cron 5: write five: "),
    (
        {"every": timedelta(minutes=-5)},
        r"every is datetime.timedelta\(.*\): write a timedelta of whole minutes, from 1 ",
    ),
    ({"every": timedelta(seconds=90)}, "every is "),
    ({"every": timedelta(days=30)}, "every is "),
    ({"every": 5}, "every is 5: "),
    ({"daily_at": "24:00"}, "daily_at is '24:00': write hours and minutes, as in '03:00'"),
    ({"daily_at": 3}, "daily_at is 3: "),
    (
        {"daily_at": "3:00", "time_zone": "Europe/Zurch"},
        r"there is no time_zone 'Europe/Zurch', .*Did you mean 'Europe/Zurich'",
    ),
    (
        {"daily_at": "3:00", "args": ("a", date(2026, 1, 1))},
        r"its argument datetime.date\(2026, 1, 1\) is no Python literal",
    ),
    ({"daily_at": "3:00", "kwargs": {"text": print}}, "its argument <built-in function print> is no Python literal"),
    ({"daily_at": "3:00", "kwargs": {"timeout": 5}}, r"its argument 'timeout' is an option of async_task\(\)"),
    (
        {"daily_at": "3:00"},
        r"it cannot be called with args=\(\) and kwargs=\{\} \(missing a required argument: 'text'\)",
    ),
    ({"daily_at": "3:00", "args": ("a",), "overlap": "no"}, "overlap is 'no': write True or False"),
    ({"daily_at": "3:00", "args": ("a",), "cluster": []}, r"cluster is \[\]: write the name of one"),
    ({"daily_at": "3:00", "args": ("a",), "max_attempts": 0}, "max_attempts is 0: write a whole number, at least 1"),
    ({"daily_at": "3:00", "args": ("a",), "timeout": "9"}, "timeout is '9': write a whole number, at least 1"),
    ({"daily_at": "3:00", "args": ("a",), "name": ""}, "its name '' is no text of 1 to 100 printable characters"),
    ({"daily_at": "3:00", "args": ("a",), "name": "a\0b"}, r"its name 'a\\x00b' is no text of 1 to 100 printable "),
    ({"daily_at": "3:00", "args": ("a",), "name": "\ud800"}, r"its name '\\ud800' is no text of "),
    ({"daily_at": "3:00", "args": ("a",), "name": "x" * 101}, r"its name 'x{76}\.\.\. is no text of "),
    ({"daily_at": "3:00", "args": None}, r"args is None: write a list or a tuple, as in args=\['one', 2\]\.$"),
    ({"daily_at": "3:00", "args": 5}, "args is 5: write a list or a tuple"),
    ({"daily_at": "3:00", "args": "ab"}, "args is 'ab': write a list or a tuple"),
    ({"daily_at": "3:00", "args": ("a",), "kwargs": [1]}, r"kwargs is \[1\]: write a dict, as in kwargs=dict\("),
    ({"daily_at": "3:00", "kwargs": {1: 2}}, r"it cannot be called with args=\(\) and kwargs=\{1: 2\} \(.*\)\.$"),
    ({"daily_at": "3:00", "args": ("x" * 99, "two")}, r"it cannot be called with args=\('x{75}\.\.\. and kwargs=\{\} "),
    *(
        (
            {"daily_at": "3:00", "time_zone": zone},
            f"there is no time_zone {zone!r}, write one such as 'Europe/Zurich'.$",
        )
        for zone in ("", 5, "../../etc/passwd")
    ),
    ({"daily_at": "3:00", "time_zone": ["a"]}, r"there is no time_zone \['a'\], write one such as 'Europe/Zurich'\.$"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=str)
def test_what_is_wrong_is_refused_in_a_sentence_where_it_is_declared(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ScheduleError) as refusal:
        schedule(**options)(count_words)
    assert isinstance(refusal.value, ImproperlyConfigured)  # with which manage.py ends in a sentence
    assert re.match(rf"The schedule of {COUNT} cannot be used: {sentence}", str(refusal.value)), str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)
    assert not schedules.declared


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (lambda: schedule(count_words), r"^@schedule takes keywords, as in @schedule\(daily_at='03:00'\)\.$"),
        (lambda: schedule("0 3 * * *"), r"^@schedule takes keywords, as in "),
        (lambda: schedule(queue_name="slow"), r"^@schedule has no option 'queue_name'\. It is cluster=\.$"),
        (lambda: schedule(daily="3:00"), r"^@schedule has no option 'daily'\. Did you mean 'daily_at'\?$"),
    ],
)
def test_what_it_does_not_take_is_refused_in_a_sentence(use: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ScheduleError, match=sentence):
        use()


def test_the_first_cluster_may_be_called_as_its_queue_is(settings: Settings) -> None:
    schedule(daily_at="03:00", args=("a",), cluster="default")(count_words)
    assert schedules.declared[COUNT].fields["cluster"] == settings.Q_CLUSTER["name"]


def test_arguments_of_a_task_are_json() -> None:
    sentence = (
        r"its argument \{1, 2\} is no JSON: Unsupported type: <class 'set'>; take .*, or the primary key of a row\.$"
    )
    with pytest.raises(ScheduleError, match=sentence):
        schedule(daily_at="3:00", args=({1, 2},))(tasks.count_words)
    schedule(daily_at="3:00", args=({1, 2},))(count_words)  # which async_task() queues


def inner() -> Callable[[], None]:
    def function() -> None:
        """Stand for a task that is none."""

    return function


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda: 1, "a lambda: write a function at the top of its module"),
        (Methods.method, "a method or inside of a function: write"),
        (inner(), "a method or inside of a function: write"),
        (Methods().method, r"A schedule cannot run <bound method .*: write @schedule\(…\) above a function or a @task"),
        (print, "A schedule cannot run <built-in function print>: write"),
        (Methods, "A schedule cannot run <class .*: write"),
    ],
)
def test_what_is_no_function_of_a_module_is_refused(function: Any, sentence: str) -> None:
    with pytest.raises(ScheduleError, match=sentence):
        schedule(daily_at="03:00")(function)


def test_a_path_that_the_table_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(another, "__module__", "a" * 257)
    with pytest.raises(ScheduleError, match="longer than 256 characters: shorten its name"):
        schedule(daily_at="03:00", name="short")(another)
    assert not schedules.declared


def test_a_name_is_given_once_but_a_module_may_be_read_again() -> None:
    schedule(daily_at="03:00", args=("a",))(count_words)
    with pytest.raises(ScheduleError, match=rf"{COUNT} has one of the name '{COUNT}': give one of them another name="):
        schedule(daily_at="04:00", args=("b",))(count_words)
    with pytest.raises(ScheduleError, match="give one of them another name="):
        schedule(daily_at="04:00", name=COUNT)(another)
    copy = types.FunctionType(count_words.__code__, {}, "count_words")
    copy.__module__, copy.__qualname__ = "core.tasks", "count_words"
    schedule(daily_at="05:00", args=("c",))(copy)
    schedule(daily_at="06:00", args=("d",), name="another")(copy)
    assert [each.fields["cron"] for each in schedules.declared.values()] == ["0 5 * * *", "0 6 * * *"]


def test_a_function_stays_as_it_is_and_so_does_a_task() -> None:
    class OfDjango:  # as django.tasks has it
        module_path, func, takes_context = COUNT, staticmethod(count_words), True

    assert schedule(daily_at="03:00", args=("a",))(count_words) is count_words
    schedules.declared.clear()
    task = OfDjango()
    assert schedule(every=timedelta(hours=1), cluster="")(task) is task
    assert schedules.declared[COUNT].fields["minutes"] == 60
    assert schedules.declared[COUNT].fields["cluster"] is None  # a worker looks for no other


# The rows


def rows() -> dict[str, Schedule]:
    """Return the rows by name."""
    return {row.name: row for row in Schedule.objects.all()}


@pytest.mark.django_db
def test_rows_are_added_changed_and_removed_and_those_of_people_left_alone(declared: dict[str, Any]) -> None:
    mine = by_hand(COUNT, "mine", name=COUNT, schedule_type="D")  # by the same name
    other = by_hand(COUNT, "other", schedule_type="H")
    schedule(daily_at="03:30", time_zone="Asia/Tokyo", args=("a",), max_attempts=5)(count_words)
    schedule(every=timedelta(minutes=5), args=("b",), name="often", cluster=None, overlap=True, timeout=9)(count_words)
    before = timezone.now()
    assert bring_in_line(find()) == [f"Added the schedule {COUNT}.", "Added the schedule often."]
    (daily,) = Schedule.objects.filter(name=COUNT).exclude(pk=mine.pk)
    assert (daily.func, daily.args, daily.schedule_type, daily.repeats) == (COUNT, "('a',)", "C", -1)
    assert daily.next_run.astimezone(ZoneInfo("Asia/Tokyo")).strftime("%H:%M") == "03:30"
    assert before < daily.next_run < before + timedelta(days=1)
    assert recurrence.arguments(daily) == (
        ("a",),
        {"q_options": {"overlap": False, "max_attempts": 5, "time_zone": "Asia/Tokyo"}},
    )
    assert recurrence.arguments(rows()["often"])[1] == {"q_options": {"overlap": True, "timeout": 9}}
    assert timedelta(minutes=4) < rows()["often"].next_run - before < timedelta(minutes=6)

    assert bring_in_line(find()) == []
    Schedule.objects.filter(pk=daily.pk).update(next_run=before, task="a task", repeats=0, args="'typed',", hook=COUNT)
    declared.clear()
    schedule(daily_at="03:30", time_zone="Asia/Tokyo", args=("c",), max_attempts=5)(count_words)
    assert bring_in_line(find()) == [f"Changed the schedule {COUNT}: args.", "Removed the schedule often."]
    daily.refresh_from_db()
    assert (daily.args, daily.next_run, daily.task, daily.repeats, daily.hook) == ("('c',)", before, "a task", 0, COUNT)

    declared.clear()
    schedule(daily_at="03:30", time_zone="Asia/Seoul", args=("c",), max_attempts=5)(count_words)
    assert bring_in_line(find()) == [f"Changed the schedule {COUNT}: kwargs."]
    daily.refresh_from_db()
    assert daily.next_run > before  # which is another moment now
    daily.delete()
    assert bring_in_line(find()) == [f"Added the schedule {COUNT}."]
    declared.clear()
    assert bring_in_line(find()) == [f"Removed the schedule {COUNT}."]
    assert set(Schedule.objects.values_list("pk", flat=True)) == {mine.pk, other.pk}
    assert not ScheduleState.objects.exists()


@pytest.mark.django_db
def test_what_the_readme_shows_can_be_declared() -> None:
    text = (PROJECT / "README.md").read_text().partition("## Schedules")[2]
    exec(text.partition("```python")[2].partition("```")[0], {"__name__": "core.tasks"})  # noqa: S102
    assert list(schedules.declared) == ["core.tasks.send_reports", "core.tasks.look", "four times a day"]
    assert len(bring_in_line(schedules.declared.values())) == 3


@pytest.mark.django_db
def test_what_fails_on_its_way_changes_nothing(declared: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    schedule(daily_at="03:00", args=("a",))(count_words)
    schedule(daily_at="04:00", args=("b",), name="second")(count_words)
    monkeypatch.setattr(ScheduleState, "save", None)
    with pytest.raises(TypeError):
        bring_in_line(find())
    assert not Schedule.objects.exists()


@pytest.mark.django_db
def test_what_the_worker_would_refuse_stops_the_release(declared: dict[str, Any]) -> None:
    schedule(daily_at="03:00")(another)
    with pytest.raises(
        CommandError, match=r"The schedule .*another cannot be used: A schedule may not run '.*another'"
    ):
        find()
    declared.clear()
    schedule(daily_at="03:00", args=("a",), cluster="fats")(count_words)
    with pytest.raises(CommandError, match="cannot be used: Q_CLUSTER knows no cluster 'fats'"):
        find()


PRODUCTION = {"DEBUG": "false", "SECRET_KEY": "x" * 50 + "12345", "ALLOWED_HOSTS": "www.example.com"}


def with_tasks(folder: Path, code: str) -> dict[str, str]:
    """Return variables for a project with one more app, whose tasks.py has this code, and a database of its own."""
    (folder / "more").mkdir(exist_ok=True)
    (folder / "more" / "__init__.py").touch()
    (folder / "more" / "tasks.py").write_text(code)
    (folder / "more_settings.py").write_text("from config.settings import *\nINSTALLED_APPS += ['more']\n")
    url = f"sqlite:///{folder / 'database.sqlite3'}"
    return {
        "DEBUG": "false",
        "SECRET_KEY": "x" * 50 + "12345",
        "ALLOWED_HOSTS": "www.example.com",
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "more_settings",
        "PYTHONPATH": f"{folder}{os.pathsep}{PROJECT}",
    }


DECLARES = "from worker.schedules import schedule\n@schedule(cron={!r})\ndef run():\n    pass\n"


@alike_elsewhere
def test_a_wrong_schedule_stops_a_release_before_it_changes_anything(tmp_path: Path) -> None:
    env = with_tasks(tmp_path, DECLARES.format("0 3 * * * *"))
    for command in ("release", "schedules"):
        done = manage(command, env=env)
        sentence = (
            r"CommandError: The schedule of more.tasks.run cannot be used: cron '0 3 .*' has 6 words: write five: .*"
        )
        assert done.returncode == 1
        assert re.fullmatch(f"{sentence}\n", done.stderr), done.stderr
    assert not (tmp_path / "database.sqlite3").exists()
    done = manage("release", env=with_tasks(tmp_path, "1 / 0"))
    assert done.stderr == "CommandError: more.tasks cannot be imported: ZeroDivisionError: division by zero\n"


@alike_elsewhere
@pytest.mark.parametrize("command", ["check", "migrate", "prodserver web", "prodserver worker"])
def test_a_task_that_is_declared_wrongly_ends_a_command_with_a_sentence(command: str, tmp_path: Path) -> None:
    code = "from worker.tasks import task\n@task(max_attempts=-1)\ndef run():\n    pass\n"
    env = with_tasks(tmp_path, code)
    (tmp_path / "more" / "urls.py").write_text("from config.urls import urlpatterns\nfrom more import tasks\n")
    with (tmp_path / "more_settings.py").open("a") as settings:
        settings.write("ROOT_URLCONF = 'more.urls'\n")
    done = manage(*command.split(), env=env)
    assert done.returncode == 1
    sentence = "DeclarationError: The task more.tasks.run cannot be used: max_attempts -1 is negative; .*"
    assert re.fullmatch(f"{sentence}\n", done.stderr), done.stderr


def test_a_release_says_what_it_has_done_with_schedules(tmp_path: Path) -> None:
    env = with_tasks(tmp_path, DECLARES.format("0 3 * * *"))
    assert "\nAdded the schedule more.tasks.run.\n" in manage("release", env=env).stdout
    assert manage("schedules", env=env).stdout == ""


@alike_elsewhere
@pytest.mark.django_db(transaction=True)
def test_two_releases_at_once_add_each_schedule_once(environment: dict[str, str]) -> None:
    Schedule.objects.all().delete()
    ScheduleState.objects.all().delete()
    code = (
        "import django, sys; django.setup()\n"
        "from core.tasks import count_words\nfrom worker import schedules\n"
        "for n in range(40): schedules.schedule(daily_at='03:00', args=('a',), name=f'n{n}')(count_words)\n"
        "print('ready', flush=True); input(); print(len(schedules.bring_in_line(schedules.find())))\n"
    )
    env = variables({**environment, "DJANGO_SETTINGS_MODULE": "config.settings"})
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=PROJECT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for command in commands:
        assert command.stdout
        assert command.stdout.readline() == "ready\n"
    for command in commands:
        assert command.stdin
        command.stdin.write("\n")
        command.stdin.flush()
    added = sorted(int(command.communicate()[0]) for command in commands)
    number = len(schedules.declared) or added[1]
    assert added == [0, number]
    assert number >= 40
    assert Schedule.objects.count() == ScheduleState.objects.count() == number
    Schedule.objects.all().delete()
    ScheduleState.objects.all().delete()


# Times


def times(cron: str, first: datetime, number: int) -> list[str]:
    """Return when a schedule in Zurich is due."""
    row = Schedule(schedule_type="C", cron=cron, kwargs="q_options={'time_zone': 'Europe/Zurich'}", next_run=first)
    found = []
    for _ in range(number):
        row.next_run = recurrence.following(row, row.next_run)
        found.append(row.next_run.astimezone(ZoneInfo("Europe/Zurich")).strftime("%d. %H:%M %z"))
    return found


def test_a_schedule_keeps_the_hour_of_its_own_zone_when_clocks_change() -> None:
    spring, autumn = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert times("0 8 * * *", spring, 2) == ["29. 08:00 +0200", "30. 08:00 +0200"]
    assert times("30 2 * * *", spring, 2) == ["29. 03:00 +0200", "30. 02:30 +0200"]  # which the 29th lacks
    assert times("0 8 * * *", autumn, 2) == ["25. 08:00 +0100", "26. 08:00 +0100"]
    assert times("30 2 * * *", autumn, 2) == ["25. 02:30 +0200", "26. 02:30 +0100"]  # which the 25th has twice
    assert times("30 * * * *", autumn + timedelta(hours=12), 3) == [
        "25. 02:30 +0200",
        "25. 02:30 +0100",
        "25. 03:30 +0100",
    ]


@pytest.mark.parametrize(
    ("cron", "shown"),
    [
        ("*/30 2 * * *", ["25. 02:00 +0200", "25. 02:30 +0200", "26. 02:00 +0100"]),
        ("15,45 2,3 * * *", ["25. 02:15 +0200", "25. 02:45 +0200", "25. 03:15 +0100"]),
        ("0 2-4 * * *", ["25. 02:00 +0200", "25. 03:00 +0100", "25. 04:00 +0100"]),
        ("30 1-3/1 * * sun", ["25. 01:30 +0200", "25. 02:30 +0200", "25. 03:30 +0100"]),
        ("*/30 */2 * * *", ["25. 02:00 +0200", "25. 02:30 +0200", "25. 02:00 +0100"]),  # each second hour on the clock
        ("@hourly", ["25. 01:00 +0200", "25. 02:00 +0200", "25. 02:00 +0100"]),
    ],
)
def test_an_hour_that_is_named_comes_once_where_clocks_show_it_twice(cron: str, shown: list[str]) -> None:
    midnight = datetime(2026, 10, 24, 22, 30, tzinfo=UTC)
    assert [it for it in times(cron, midnight, 4) if not it.startswith("25. 00")][:3] == shown


# No overlap


class Scheduled:
    """A schedule that is due again and again, and the worker that queues it."""

    def __init__(self, **options: Any) -> None:
        """Declare it."""
        schedule(every=timedelta(minutes=1), args=("a",), **options)(count_words)
        bring_in_line(find())
        self.row = Schedule.objects.get(name=COUNT)
        self.broker = Broker()

    def comes(self) -> bool:
        """Let it be due, and say whether it was queued."""
        before = self.row.task
        Schedule.objects.filter(pk=self.row.pk).update(next_run=timezone.now() - timedelta(seconds=1))
        due.queue(lambda: None, self.row.pk, "")
        self.row.refresh_from_db()
        assert self.row.next_run > timezone.now()
        return bool(self.row.task != before)


@pytest.fixture
def empty(db: None) -> Iterator[None]:
    """Provide a queue without tasks, before and after."""
    Broker().delete_queue()
    yield
    Broker().delete_queue()


@pytest.mark.usefixtures("empty")
def test_no_run_is_queued_while_the_one_before_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    scheduled = Scheduled()
    assert scheduled.comes()
    assert not scheduled.comes()
    assert "Skipped the schedule core.tasks.count_words: its task" in caplog.text
    (held,) = scheduled.broker.claim(10, 1 << 20)
    assert not scheduled.comes()  # a worker has it
    scheduled.broker.acknowledge_all([held.receipt])
    if not scheduled.broker.can_peek:
        fields = {"name": "a", "func": COUNT, "started": timezone.now(), "stopped": timezone.now()}
        row = Task.objects.create(id=scheduled.row.task, success=False, attempt_count=1, **fields)
        facts = {"attempts": 1, "max_attempts": 3, "exception": "E", "reason": "", "errors": []}
        Failure.objects.create(task=row.pk, next_try=timezone.now(), **facts)
        assert not scheduled.comes()  # it is tried again
        Failure.objects.update(next_try=None)
    assert scheduled.comes()
    assert not scheduled.comes()


@pytest.mark.usefixtures("empty")
def test_a_run_that_is_lost_or_leaves_no_result_holds_up_none() -> None:
    scheduled = Scheduled()
    assert scheduled.comes()
    Broker().delete_queue()
    if not scheduled.broker.can_peek:  # SQS cannot tell
        assert not scheduled.comes()
        long_ago = timezone.now() - timedelta(seconds=LOST * 1000)
        ScheduleState.objects.filter(schedule=scheduled.row.pk).update(queued=long_ago)
    assert scheduled.comes()


@pytest.mark.usefixtures("empty")
def test_runs_overlap_where_that_is_asked_for() -> None:
    scheduled = Scheduled(overlap=True)
    assert scheduled.comes()
    assert scheduled.comes()


@pytest.mark.usefixtures("empty")
def test_a_task_that_is_queued_again_since_no_answer_came_is_known_as_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduled, queued = Scheduled(overlap=True), []
    enqueue, answers = Broker.enqueue, True

    def lose_the_answer(self: Broker, payload: str, *args: Any) -> Any:
        queued.append(packages.opened(payload))
        receipt = enqueue(self, payload, *args)
        if not answers:
            raise ConnectionError("cut off")
        return receipt

    def come(when: datetime) -> str:
        Schedule.objects.filter(pk=scheduled.row.pk).update(next_run=when)
        due.queue(lambda: None, scheduled.row.pk, "")
        scheduled.row.refresh_from_db()
        return str(queued[-1]["id"])

    monkeypatch.setattr(Broker, "enqueue", lose_the_answer)
    monkeypatch.setattr("worker.trigger.may_pass", lambda error: True)
    first = timezone.now() - timedelta(seconds=2)
    answers = False
    with pytest.raises(ConnectionError):
        come(first)
    scheduled.row.refresh_from_db()
    assert scheduled.row.next_run == first  # so it is queued again
    answers = True
    assert come(first) == queued[0]["id"] == scheduled.row.task
    assert all(each["once"] for each in queued)  # a worker looks whether it has run
    again, later = come(first), come(first + timedelta(seconds=1))
    assert len({queued[0]["id"], again, later}) == 3  # somebody has set it back; and its next time
