"""What can be done about a queue, and what is refused, in a sentence each. test_queue_at_work.py has real workers."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from threading import Event
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from django_q.models import Schedule, Task
from django_q.tasks import async_task
from queue_state import empty, failed, give_signs, run, sign, wait_for_questions
from worker import announcements, health, packages
from worker.enqueue import new_id
from worker.failures import CANCELLED
from worker.models import Cancellation, Failure, Pause
from worker.processes import clusters
from worker.queue import actions
from worker.queue.actions import RefusedError, purge, retry, run_schedule
from worker.queue.overview import failed_groups
from worker.resubmit import resubmit

pytestmark = pytest.mark.django_db
WORDS = "core.tasks.count_words"


class Memory:
    """A broker that keeps tasks here."""

    can_peek, away, passing, publishes, transactional = True, (ConnectionError,), (), False, False
    list_key = "memory"

    def __init__(self) -> None:
        """Begin empty."""
        self.tasks: dict[str, str] = {}
        self.held: set[str] = set()

    def enqueue(self, payload: str, after: Any = None) -> str:
        """Add a task."""
        self.tasks[receipt := str(len(self.tasks) + 1)] = payload
        return receipt

    def peek(self, receipt: str) -> str | None:
        """Return a payload."""
        return self.tasks.get(receipt)

    def payloads(self, most: int) -> list[tuple[str, str]]:
        """Return what nobody holds."""
        return [(receipt, payload) for receipt, payload in self.tasks.items() if receipt not in self.held]

    def remove(self, receipt: str) -> bool:
        """Take a task out."""
        return receipt not in self.held and self.tasks.pop(receipt, None) is not None

    def purge(self) -> int:
        """Take all out."""
        number = len(self.tasks)
        self.tasks.clear()
        return number

    def ping(self) -> None:
        """Answer."""


@pytest.fixture
def broker(db: None, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Let all queues be this broker's."""
    empty()
    memory = Memory()
    for module in ("django_q.tasks", "worker.enqueue", "worker.queue.actions", "worker.queue.cancel"):
        monkeypatch.setattr(f"{module}.get_broker", lambda *args: memory)
    for module in (health, actions):
        monkeypatch.setattr(module, "why_away", lambda error: str(error) if isinstance(error, ConnectionError) else "")
    give_signs(monkeypatch)
    return memory


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of actions."""
    return [record.getMessage() for record in caplog.records if record.name == "worker.queue"]


def refused(does: Callable[[], str]) -> str:
    """Return why something is not done."""
    with pytest.raises(RefusedError) as error:
        does()
    return str(error.value)


def test_a_queue_is_paused_and_resumed_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "worker.queue")
    assert actions.pause("default", "ada") == "The queue default is paused: what runs goes on, and nothing else begins."
    assert Pause.objects.get().cluster == clusters()[0]
    assert refused(lambda: actions.pause(clusters()[0], "bob")).startswith(
        "The queue default is paused already, by ada"
    )
    assert actions.resume("default", "bob") == "The queue default goes on."
    assert refused(lambda: actions.resume("default", "bob")) == "The queue default is not paused."
    assert told(caplog) == ["ada has paused the queue default", "bob has resumed the queue default"]


def test_a_queue_that_is_not_there_is_named_with_one_that_is() -> None:
    for does in (actions.pause, actions.resume, actions.purge):
        assert refused(partial(does, "defualt", "ada")) == ("There is no queue 'defualt'. Did you mean 'default'?")


def test_a_purge_removes_what_waits_and_ends_what_would_be_tried_again(
    broker: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker.queue")
    async_task(WORDS, "one")
    key = failed(next_try=timezone.now() + timedelta(minutes=1), cluster=clusters()[0])
    assert purge("default", "ada") == "Removed 1 task from the queue default."
    assert told(caplog) == ["ada has purged the queue default of 1 task"]
    assert (broker.tasks, Failure.objects.get(pk=key).next_try) == ({}, None)


def test_one_failure_is_queued_again(broker: Memory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "worker.queue")
    key = failed(name="a")
    assert retry("ada", task=f"{key}.1") == "Queued a again."
    assert (len(broker.tasks), Task.objects.count(), Failure.objects.count()) == (1, 0, 0)
    assert told(caplog) == [f"ada has queued again a ({WORDS})"]


def test_failures_of_a_group_of_a_function_or_all_are_queued_again(broker: Memory) -> None:
    later = failed(next_try=timezone.now() + timedelta(minutes=5))
    failed("no", exception="builtins.OSError", func=WORDS)
    for reason, func in (("no user 17", WORDS), ("no user 18", WORDS), ("no user 17", "core.tasks.reverse")):
        failed(reason, func=func)
    (group,) = [each for each in failed_groups() if (each.func, each.exception) == (WORDS, "builtins.ValueError")]
    assert retry("ada", function=group.func, exception=group.exception) == f"Queued {group.count} tasks again."
    assert retry("ada", function="core.tasks.reverse") == "Queued 1 task again."
    assert retry("ada") == "Queued 1 task again."
    assert len(broker.tasks) == 4
    assert [*Task.objects.values_list("pk", flat=True)] == [later]


def test_a_group_of_which_nothing_is_kept_is_no_more_than_that(broker: Memory) -> None:
    for reason, exception, func in (("no", "builtins.ValueError", WORDS), ("", "", WORDS), ("", "", "core.tasks.a")):
        failed(reason, exception=exception, func=func)
    Failure.objects.filter(reason="", task=failed(func=WORDS)).delete()
    Failure.objects.filter(task=failed(func=WORDS, name="without")).delete()
    assert retry("ada", function=WORDS, exception="") == "Queued 2 tasks again."
    with pytest.raises(RefusedError):
        retry("ada", function="", exception="")
    assert len(broker.tasks) == 2


def test_what_somebody_has_cancelled_is_not_run_again_with_all_others(broker: Memory) -> None:
    key = failed("Cancelled by ada", exception=CANCELLED)
    left = "What somebody has cancelled runs again by its id."
    assert refused(lambda: retry("ada")) == f"No task has failed for good. {left}"
    assert refused(lambda: retry("ada", function=WORDS)) == f"No task of {WORDS} has failed for good. {left}"
    failed()
    assert retry("ada") == "Queued 1 task again."
    assert [*Task.objects.values_list("pk", flat=True)] == [key]
    assert retry("ada", function=WORDS, exception=CANCELLED) == "Queued 1 task again."


def test_one_that_cannot_be_queued_holds_up_no_other(broker: Memory) -> None:
    failed(name="a", cluster="gone", ago=1)
    failed(name="b")
    said = retry("ada")
    assert said.startswith(
        "Queued 1 task again. 1 task could not be: The task a cannot be queued: Q_CLUSTER knows no cluster "
    )
    assert len(broker.tasks) == 1


def test_what_somebody_else_queues_again_meanwhile_is_no_failure(
    broker: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(name="a", ago=2)
    failed(name="b", ago=1)
    failed(name="c")

    def twice(row: Any) -> str:
        if row.name == "b":
            resubmit(row)
        return str(resubmit(row))

    monkeypatch.setattr(actions, "resubmit", twice)
    assert retry("ada") == "Queued 2 tasks again."
    assert len(broker.tasks) == 3


def test_many_failures_are_queued_again_for_so_long_as_somebody_waits(broker: Memory) -> None:
    failed()
    assert retry("ada", within=-1) == "Queued 0 tasks again. There are more: do it again."


def test_what_need_not_or_cannot_run_again_is_refused(broker: Memory) -> None:
    now, key = timezone.now(), new_id()
    Task.objects.create(id=key, name="a", func=WORDS, started=now, stopped=now, success=True)
    assert refused(lambda: retry("ada", task=key)) == "a has succeeded: it is not run again."
    waiting = failed(name="b", next_try=now + timedelta(minutes=5))
    assert refused(lambda: retry("ada", task=waiting)).startswith("b will be tried again by itself at ")
    assert refused(lambda: retry("ada", task="")).startswith("'' is no id of a task")
    unknown = new_id()
    assert refused(lambda: retry("ada", task=unknown)) == (
        f"There is no result of a task {unknown}: it waits or runs, or its result is no longer kept."
    )
    assert refused(lambda: retry("ada", task="7")) == (
        "'7' is no id of a task: write its 32 characters, as the admin shows them, or at least the first eight."
    )
    assert refused(lambda: retry("ada")) == "No task has failed for good."
    failed()
    assert refused(lambda: retry("ada", function="core.tasks.count_word")) == (
        f"No task of core.tasks.count_word has failed for good. Did you mean '{WORDS}'?"
    )


def test_arguments_that_cannot_be_read_are_one_sentence(broker: Memory) -> None:
    key = failed(name="a")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_task SET args = 'nothing' WHERE id = %s", [key])
    assert refused(lambda: retry("ada", task=key)) == "The task a cannot be queued: its arguments cannot be read."
    failed()
    assert retry("ada").startswith("Queued 1 task again. 1 task could not be: The task a cannot be queued: its ")


def test_a_task_that_waits_is_cancelled_by_the_id_of_its_result_or_its_own(
    broker: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker.queue")
    async_task(WORDS, "other")
    for given in (lambda key: f"{key}.2", lambda key: key):
        key = async_task(WORDS, "one", task_name="a", q_options={"max_attempts": 5})
        assert actions.cancel(given(key), "ada") == "Cancelled a, which was waiting."
        row = Task.objects.get(pk=key)
        assert (row.success, row.result, row.args, row.func) == (False, "Cancelled by ada", ("one",), WORDS)
        failure = Failure.objects.get(pk=key)
        assert (failure.reason, failure.next_try, failure.max_attempts) == ("Cancelled by ada", None, 5)
        assert refused(partial(actions.cancel, key, "ada")) == (
            "a has failed for good: there is nothing left to cancel."
        )
        Task.objects.all().delete()
        Failure.objects.all().delete()
    assert list(broker.tasks) == ["1"]
    assert len(told(caplog)) == 2
    assert told(caplog)[1] == f"ada has cancelled the task {key}"
    assert not Cancellation.objects.exists()


def test_an_id_may_be_cut_to_its_beginning_where_one_alone_begins_so(
    broker: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(("0199aaaabbbb1" + "0" * 19, "0199aaaabbbb2" + "0" * 19, "0199aaaacccc" + "0" * 20, "f" * 32))
    monkeypatch.setattr("worker.enqueue.new_id", lambda: next(ids))
    one, two, three = (async_task(WORDS, name, task_name=name) for name in ("one", "two", "three"))
    assert refused(partial(actions.cancel, "0199aaaabbbb", "ada")) == (
        f"The ids of 2 tasks begin with 0199aaaabbbb: {one}, {two}. Write more of one."
    )
    assert refused(partial(actions.cancel, "0199dddd", "ada")) == (
        "The id of no task that is known here begins with 0199dddd."
    )
    assert actions.cancel("0199aaaabbbb2", "ada") == "Cancelled two, which was waiting."
    assert actions.cancel("0199aaaabbbb", "ada") == "Cancelled one, which was waiting."
    assert [packages.opened(each)["id"] for each in broker.tasks.values()] == [three]
    assert refused(lambda: retry("ada", task=one[:8])) == (
        f"The ids of 2 tasks begin with 0199aaaa: {one}, {two}. Write more of one."
    )
    assert retry("ada", task=two[:13]) == "Queued two again."
    again = failed(name="again", next_try=timezone.now() + timedelta(minutes=5))
    assert actions.cancel(again[:16], "ada") == "Cancelled again, of which its queue knew nothing."
    give_signs(monkeypatch, sign(running=[run("0199eeee" + "0" * 24)]))
    assert actions.cancel("0199eeee", "ada", patience=0).startswith("0199eeee000")


def test_a_cancelled_task_can_be_run_again_as_it_was_queued(broker: Memory) -> None:
    key = async_task(WORDS, "one", task_name="a", group="g", q_options={"max_attempts": 5, "timeout": 7})
    actions.cancel(key, "ada")
    assert retry("ada", task=key) == "Queued a again."
    package = packages.opened(broker.tasks.popitem()[1])
    assert (package["max_attempts"], package["timeout"], package["group"], package["args"]) == (5, 7, "g", ("one",))


class Report:
    """Something whose methods are queued."""

    def make(self, year: int) -> int:
        """Return a year."""
        return year

    @staticmethod
    def print(year: int) -> int:
        """Return a year."""
        return year


@pytest.mark.parametrize(
    ("function", "path"),
    [
        (Report().make, f"<method {__name__}.Report.make>"),
        (Report.print, f"{__name__}.Report.print"),
        (partial(Report.print, 2030), f"<partial {__name__}.Report.print>"),
        ({2030: 2030}.get, "<builtins.builtin_function_or_method>"),
    ],
)
def test_what_is_no_function_of_a_module_runs_again(broker: Memory, function: Callable[..., int], path: str) -> None:
    given = () if isinstance(function, partial) else (2030,)
    key = async_task(function, *given, task_name="a")
    actions.cancel(key, "ada")
    assert Task.objects.get().func == path
    assert retry("ada", task=key) == "Queued a again."
    package = packages.opened(broker.tasks.popitem()[1])
    assert packages.named(package["func"])(*package["args"]) == 2030


def test_a_function_that_nothing_tells_any_more_is_not_queued(broker: Memory) -> None:
    key = failed(name="a", func="<bound method Report.make of <reports.Report object at 0x7fc5dbbf39d0>>")
    assert refused(lambda: retry("ada", task=key)) == (
        "The task a cannot be queued: its function, <bound method Report.make of <reports.Report object at "
        "0x7fc5dbbf39d0>>, is no function at the top of a module, and was not kept."
    )


def test_one_that_waits_for_another_attempt_is_cancelled(broker: Memory) -> None:
    key = async_task(WORDS, "one")
    failed_id = failed(name="a", next_try=timezone.now() + timedelta(minutes=5))
    Task.objects.filter(pk=failed_id).update(id=key)
    Failure.objects.filter(pk=failed_id).update(task=key)
    actions.cancel(key, "ada")
    assert broker.tasks == {}
    assert Task.objects.get(pk=key).result == "Cancelled by ada"
    assert (Failure.objects.get(pk=key).next_try, Failure.objects.get(pk=key).attempts) == (None, 1)


def test_one_that_its_queue_has_lost_is_tried_no_more(broker: Memory) -> None:
    key = failed(name="a", next_try=timezone.now() + timedelta(minutes=5))
    assert actions.cancel(key, "ada") == "Cancelled a, of which its queue knew nothing."
    assert Failure.objects.get(pk=key).next_try is None


def test_one_that_runs_is_left_to_its_cluster(broker: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    key = async_task(WORDS, "one")
    broker.held.add("1")
    give_signs(monkeypatch, sign(running=[run(key)]))
    said = actions.cancel(key, "ada", patience=0)
    assert said == f"{key} will be cancelled: no cluster has done so yet."
    assert Cancellation.objects.get().by == "ada"


def test_what_has_ended_or_never_was_is_not_cancelled(broker: Memory) -> None:
    now, key, unknown = timezone.now(), new_id(), "f" * 32
    Task.objects.create(id=key, name="a", func=WORDS, started=now, stopped=now, success=True)
    assert refused(lambda: actions.cancel(key, "ada")) == "a has succeeded: there is nothing left to cancel."
    assert refused(lambda: actions.cancel(unknown, "ada")) == (
        f"No task {unknown} waits or runs: the id is wrong, or its result is no longer kept."
    )
    assert refused(lambda: actions.cancel("x" * 99, "ada")).startswith(f"'{'x' * 64}' is no id of a task")


def test_a_schedule_runs_now_and_is_due_as_before(broker: Memory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "worker.queue")
    later = timezone.now() + timedelta(hours=5)
    row = Schedule.objects.create(
        name="nightly", func=WORDS, args="'one'", next_run=later, schedule_type=Schedule.DAILY
    )
    said = run_schedule("nightly", "ada")
    after = Schedule.objects.get(pk=row.pk)
    assert said == f"Queued the schedule nightly as {after.task}."
    assert (after.next_run, len(broker.tasks)) == (later, 1)
    assert "ada has run the schedule nightly" in told(caplog)
    assert run_schedule(row.pk, "ada")
    assert run_schedule(str(row.pk), "ada")
    if connection.vendor == "postgresql":  # which keeps times that Python does not know
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_q_schedule SET next_run = 'infinity'")
        assert run_schedule("nightly", "ada")


def test_a_schedule_that_still_goes_on_is_not_run(broker: Memory) -> None:
    later = timezone.now() + timedelta(hours=5)
    Schedule.objects.create(name="a", func=WORDS, args="'one'", kwargs="q_options={'overlap': False}", next_run=later)
    run_schedule("a", "ada")
    assert refused(lambda: run_schedule("a", "ada")) == (
        "The last task of the schedule a still goes on, and may not overlap with another."
    )
    assert len(broker.tasks) == 1


def test_a_schedule_that_is_not_there_or_not_alone_is_named(broker: Memory) -> None:
    assert refused(lambda: run_schedule("nightly", "ada")) == "There is no schedule 'nightly'. There are none."
    now = timezone.now()
    ids = [Schedule.objects.create(name="nightly", func=WORDS, next_run=now).pk for _ in range(2)]
    assert refused(lambda: run_schedule("nigthly", "ada")) == (
        "There is no schedule 'nigthly'. Did you mean 'nightly'?"
    )
    assert refused(lambda: run_schedule("nightly", "ada")) == (
        f"2 schedules have the name 'nightly': write the id of one of them: {ids[0]}, {ids[1]}."
    )
    forbidden = Schedule.objects.create(name="odd", func="os.system", next_run=now)
    assert refused(lambda: run_schedule(forbidden.pk, "ada")).startswith("The schedule odd cannot be queued: ")


@pytest.mark.parametrize("method", ["purge", "payloads", "enqueue", "ping"])
def test_a_broker_that_is_away_is_one_sentence(broker: Memory, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    key, waiting = failed(), async_task(WORDS, "one")
    Schedule.objects.create(name="nightly", func=WORDS, args="'one'", next_run=timezone.now())
    does: Callable[[], str] = {
        "purge": lambda: purge("default", "ada"),
        "payloads": lambda: actions.cancel(waiting, "ada"),
        "enqueue": lambda: retry("ada", task=key),
        "ping": lambda: run_schedule("nightly", "ada"),
    }[method]

    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(broker, method, fail)
    if method == "ping":
        monkeypatch.setattr(broker, "enqueue", fail)
        monkeypatch.setattr("worker.trigger.may_pass", lambda error: True)
    assert refused(does) == "A server does not answer (refused). Whether this was done is not known."


@pytest.mark.django_db(transaction=True)
def test_a_broker_that_is_frozen_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    over, begun = Event(), time.monotonic()
    for module in (actions, announcements):
        monkeypatch.setattr(module, "LIMIT", 0.2)
    monkeypatch.setitem(health.SERVERS, "broker", lambda: over.wait(60))
    monkeypatch.setattr(announcements, "client", lambda: Mock(publish=lambda *_: over.wait(60)))
    late = " The broker does not answer: workers may hear of it only 30 s later."
    assert actions.pause("default", "ada").endswith(f"and nothing else begins.{late}")
    assert actions.resume("default", "ada") == f"The queue default goes on.{late}"
    sentence = "The broker does not answer (OperationalError: no answer within 0 s). Nothing was done."
    assert refused(lambda: actions.cancel("a" * 32, "ada")) == sentence
    assert time.monotonic() - begun < 30
    over.set()
    wait_for_questions()


def test_a_database_that_is_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(actions, "table", fail)
    assert refused(lambda: actions.pause("default", "ada")) == (
        "A server does not answer (OperationalError: connection refused). Whether this was done is not known."
    )
