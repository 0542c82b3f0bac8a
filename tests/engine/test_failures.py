"""What is kept of tasks that have failed, and what a worker makes of it."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from clusters import alike_elsewhere
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_q.models import Task as Model
from project import manage
from worker import failures, migrations, packages
from worker.cluster.attempts import Attempt, Earlier, earlier
from worker.failures import Failed
from worker.models import Failure
from worker.packages import instance, pack
from worker.policy import WorkerDied

NOW = datetime(2026, 1, 1, tzinfo=UTC if settings.USE_TZ else None)
ALIAS = "default"


def a_task(**fields: Any) -> dict[str, Any]:
    """Return a task as a worker has it."""
    task = {"id": "0" * 32, "name": "a task", "func": "math.floor", "args": (1.5,), "kwargs": {}, "started": NOW}
    return {**task, "stopped": NOW, "success": False, "result": "no luck", **fields}


def failed(number: int = 0, next_try: float | None = None, **fields: Any) -> Failed:
    """Return what is kept of a failed task."""
    row = Failed(f"{number:032}", 1, 3, next_try, "builtins.ValueError", "ValueError: é \\ % '", "[]", None)
    return row._replace(**fields)


def save(task: dict[str, Any], attempts: int = 1) -> None:
    """Save a result."""
    Model.objects.bulk_create([instance(pack(task, ""), attempts)])


def an_error(**fields: Any) -> dict[str, Any]:
    """Return what is kept of an attempt."""
    error = {"exception_class_path": "builtins.ValueError", "traceback": "a traceback", "worker": "host:1"}
    return {**error, "started": None, "stopped": NOW.isoformat(), **fields}


@pytest.mark.django_db
def test_a_batch_is_written_by_a_statement_for_each_hundred_new_and_known_ones_alike() -> None:
    when = time.time() + 60
    failures.write([failed(number) for number in range(0, 250, 2)], ALIAS)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        failures.write(
            [failed(number, when, attempts=2, errors=json.dumps([an_error()])) for number in range(250)], ALIAS
        )
    assert len(queries) == 3
    assert Failure.objects.count() == 250
    rows = Failure.objects.values_list("attempts", "errors", "reason").distinct()
    assert list(rows) == [(2, [an_error()], "ValueError: é \\ % '")]
    found = Failure.objects.latest("pk").next_try
    assert found is not None
    assert abs(found.timestamp() - when) < 0.001


@pytest.mark.django_db
def test_nothing_is_asked_of_the_database_where_none_has_failed() -> None:
    with CaptureQueriesContext(connection) as queries:
        failures.write([], ALIAS)
        failures.end([], ALIAS)
        failures.delete([], ALIAS)
    assert not len(queries)


@pytest.mark.django_db
def test_what_is_over_waits_no_more_and_what_is_deleted_is_gone() -> None:
    failures.write([failed(number, time.time()) for number in range(3)], ALIAS)
    failures.end([failed(1).task], ALIAS)
    failures.delete([failed(2).task], ALIAS)
    assert [row.next_try is None for row in Failure.objects.order_by("pk")] == [False, True]


@pytest.mark.parametrize(
    ("success", "errors", "next_try", "is_over"),
    [
        (True, None, None, True),
        (True, [an_error()], None, True),
        (False, [an_error()], None, True),
        (False, [an_error()], NOW, False),
        (False, None, None, False),  # of a former version
    ],
)
@pytest.mark.django_db
def test_one_query_tells_what_is_saved_of_a_task(
    success: bool, errors: Any, next_try: datetime | None, is_over: bool
) -> None:
    task = a_task(success=success)
    save(task, 2)
    if errors is not None:
        failures.write([failed(next_try=next_try.timestamp() if next_try else None, errors=json.dumps(errors))], ALIAS)
    with CaptureQueriesContext(connection) as queries:
        found = earlier(task)
    assert len(queries) == 1
    assert (found.attempts, found.is_over, found.errors) == (2, is_over, errors or [])
    assert found.next_try == (next_try and next_try.timestamp())
    assert earlier(a_task(id="1" * 32)) == Earlier()


@pytest.mark.django_db
def test_attempts_are_counted_though_the_row_of_the_result_is_deleted() -> None:
    save(a_task(), 1)
    failures.write([failed(next_try=NOW.timestamp(), attempts=2, errors=json.dumps([an_error()]))], ALIAS)
    assert earlier(a_task()).attempts == 2  # a row that was made anew
    Model.objects.all().delete()
    found = earlier(a_task())
    assert (found.attempts, found.is_over, found.errors, found.next_try) == (2, False, [an_error()], NOW.timestamp())


@pytest.mark.django_db
def test_a_part_whose_iterable_is_gathered_is_over() -> None:
    save(a_task(id="2" * 32, success=True, result=[1, 2]))
    assert earlier(a_task(id="1" * 32, group="2" * 32, iter_count=2)).is_over
    assert not earlier(a_task(id="1" * 32, group="2" * 32)).is_over


def test_an_error_whose_traceback_cannot_be_told_is_named() -> None:
    attempt, place = Attempt(), ("file", "no number", "no offset", "text")
    attempt.note(SyntaxError("odd", cast("Any", place)))
    assert attempt.traceback.startswith("SyntaxError: odd (file")
    assert "whose traceback cannot be told" in attempt.traceback


def answers(answer: Any) -> Any:
    """Return a backoff that notes what it is asked."""

    def backoff(exception: BaseException, result: Any) -> Any:
        asked.append((exception, result))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    asked: list[Any] = []
    backoff.asked = asked  # type: ignore[attr-defined]
    return backoff


def test_the_backoff_is_asked_with_the_exception_and_all_errors() -> None:
    backoff, error = answers(7), KeyError("gone")
    attempt = Attempt(earlier=Earlier(attempts=1, errors=[an_error()]), error=error, traceback="another")
    kept = attempt.failed(a_task(backoff=backoff, max_attempts=3), "")
    assert kept.next_try is not None
    assert abs(kept.next_try - time.time() - 7) < 1
    ((exception, result),) = backoff.asked
    assert exception is error
    assert (result.attempts, result.max_attempts, result.id, result.task) == (2, 3, "0" * 32, "math.floor")
    paths = ["builtins.ValueError", "builtins.KeyError"]
    assert [each.exception_class_path for each in result.errors] == paths
    assert [each["exception_class_path"] for each in json.loads(kept.errors)] == paths
    assert (kept.attempts, kept.exception, kept.reason) == (2, paths[1], "KeyError: 'gone'")


def test_it_is_not_asked_after_the_last_attempt() -> None:
    backoff = answers(7)
    attempt = Attempt(earlier=Earlier(attempts=2), error=KeyError("gone"))
    assert attempt.failed(a_task(backoff=backoff, max_attempts=3), "").next_try is None
    assert attempt.failed(a_task(backoff=backoff, ack_failure=True), "").next_try is None
    assert not backoff.asked
    assert attempt.failed(a_task(backoff=backoff, max_attempts=0), "").next_try


@pytest.mark.parametrize("answer", ["7", -1, KeyError("no"), SystemExit(3), KeyboardInterrupt()])
def test_a_backoff_that_fails_is_named_and_the_task_waits_as_by_default(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    next_try = Attempt(error=ValueError("x")).failed(a_task(backoff=answers(answer), max_attempts=2), "").next_try
    assert next_try
    assert 7 < next_try - time.time() < 13
    (record,) = caplog.records
    sentence = "The backoff test_failures.answers.<locals>.backoff of 'math.floor' (a task) cannot be used: "
    assert record.getMessage().startswith(sentence)


def test_a_backoff_that_does_not_end_is_cut_off(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cluster.attempts.ASK_WITHIN", 1)
    task = a_task(backoff=lambda *_: time.sleep(60), max_attempts=2)
    assert Attempt(error=ValueError("x")).failed(task, "").next_try
    assert "cannot be used: TimeoutException" in caplog.text


def test_a_worker_that_died_is_an_attempt_and_its_backoff_is_asked_once() -> None:
    backoff = answers(7)
    died = Attempt(died=["host:1", True], started=NOW)
    kept = died.failed(a_task(backoff=backoff, max_attempts=3), "The worker died (SIGKILL) while it ran this task")
    assert isinstance(backoff.asked[0][0], WorkerDied)
    assert kept.exception == "worker.policy.WorkerDied"
    (error,) = json.loads(kept.errors)
    assert (error["worker"], error["started"]) == ("host:1", NOW.isoformat())
    unknown = Attempt(died=["", False], started=None)
    again = unknown.failed(a_task(backoff=backoff, max_attempts=3), "The worker died")
    assert len(backoff.asked) == 1
    assert again.next_try
    assert json.loads(again.errors)[0]["started"] is None


def test_a_result_that_cannot_be_kept_is_an_error_of_type() -> None:
    kept = Attempt(error=KeyError("of something else")).failed(a_task(success=True), "The result cannot be pickled: x")
    assert (kept.exception, kept.reason) == ("builtins.TypeError", "TypeError: The result cannot be pickled: x")


def test_errors_are_cut_to_a_size_and_to_a_number() -> None:
    attempt = Attempt(error=ValueError("x"), traceback="a" * 90_000 + "\0\udce9" + "z" * 90_000)
    (error,) = json.loads(attempt.failed(a_task(max_attempts=1), "").errors)
    assert len(error["traceback"]) < 100_100
    assert (error["traceback"][0], error["traceback"][-1]) == ("a", "z")
    earlier = Earlier(attempts=500, errors=[an_error() for _ in range(150)])
    errors = json.loads(Attempt(earlier=earlier, error=ValueError("x")).failed(a_task(max_attempts=0), "").errors)
    assert (len(errors), sum(bool(error["traceback"]) for error in errors)) == (100, 10)


def test_what_a_resubmit_needs_is_kept_once_there_is_no_next_attempt() -> None:
    task = a_task(group="g", backoff=answers(None), timeout=3, chain=[("math.floor", (1,))], once=True)
    options = packages.options_of(task)
    assert options.keys() == {"group", "backoff", "timeout", "chain"}
    del options["backoff"]  # a function of this test cannot be pickled
    kept = Attempt(error=ValueError("x"), options=options).failed(task | {"max_attempts": 2}, "")
    assert packages.unpickled(kept.options) == options
    task["backoff"] = answers(timedelta(seconds=5))
    assert Attempt(error=ValueError("x"), options=options).failed(task | {"max_attempts": 2}, "").options is None


SETTINGS = """
from config.settings import *

DATABASES["results"] = {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{0}/results"}}
DATABASES["default"] = DATABASES["results"] | {{"NAME": "{0}/default"}}
DATABASE_ROUTERS = ["elsewhere.Router"]
if "orm" in Q_CLUSTER:
    Q_CLUSTER["orm"] = "results"

class Router:
    def db_for_read(self, model, **hints):
        return "results" if model._meta.app_label == "django_q" else "default"

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, **hints):
        return (db == "results") if app_label == "django_q" else {1}
"""
TRY = """
import json, time
from django.contrib.auth import get_user_model
from django.db import connections
from django.test import Client
from django.utils import timezone
from django_q.models import Task
from worker import failures
from worker.cluster.attempts import earlier

now = timezone.now()
fields = {"func": "math.floor", "args": (), "kwargs": {}, "started": now, "stopped": now, "success": False}
for key in "ab":
    Task.objects.create(id=key, name=key, **fields)
when = {"a": time.time() + 60, "b": None}
failures.write([failures.Failed(key, 1, 3, when[key], "a.B", "B: c", "[]", None) for key in when], "results")
client = Client(headers={"host": "localhost"})
client.force_login(get_user_model().objects.create_superuser("admin"))
pages = "/admin/django_q/failure/", "/admin/worker/waitingtask/"
found = [[f"{page}{key}/" in client.get(page).content.decode() for key in "ab"] for page in pages]
tables = ["worker_failure" in connections[alias].introspection.table_names() for alias in ("default", "results")]
print(json.dumps([earlier({"id": "a"}).next_try is not None, found, tables]))
"""


@alike_elsewhere
def test_it_is_kept_where_a_router_puts_results(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text(SETTINGS.format(tmp_path, 'db == "default"'))
    env = {"DJANGO_SETTINGS_MODULE": "elsewhere", "PYTHONPATH": str(tmp_path)}
    releases = [["migrate", "--database", name] for name in ("default", "results")]
    for command in (*releases, ["makemigrations", "--check"], ["shell", "--no-imports", "-c", TRY]):
        done = manage(*command, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, [[False, True], [True, False]], [False, True]]


LATER = """
from django.db import migrations, models
from worker.migrations._beside import beside

class Migration(migrations.Migration):
    dependencies = [("worker", "{newest}")]
    operations = [beside("Task", migrations.AddField("failure", "more", models.IntegerField(null=True)))]
"""
MIGRATE = """
import json
from django.core.management import call_command
from django.db import connections

def there(alias):
    found = connections[alias].introspection
    with connections[alias].cursor() as cursor:
        tables = found.table_names(cursor)
        queue = [name for table in ("ormq", "task") if f"django_q_{table}" in tables
                 for name in found.get_constraints(cursor, f"django_q_{table}")]
        own = [name for name in tables if name.startswith("worker_")]
        more = [column.name for name in own for column in found.get_table_description(cursor, name)]
    return sorted(own), sorted(name for name in queue if name.startswith("worker_")), "more" in more

answers = []
for to in [], ["worker", "zero"], []:
    for alias in "default", "results":
        call_command("migrate", *to, database=alias, verbosity=0)
    answers.append([there(alias) for alias in ("default", "results")])
print(json.dumps(answers))
"""


@alike_elsewhere
def test_migrations_of_today_and_later_follow_a_router_that_knows_django_q_only(tmp_path: Path) -> None:
    later = tmp_path / "later"
    later.mkdir()
    (later / "__init__.py").write_text("from worker import migrations\n\n__path__ += migrations.__path__\n")
    newest = max(file.stem for file in Path(migrations.__path__[0]).glob("0*.py"))
    (later / "9999_more.py").write_text(LATER.format(newest=newest))
    settings = SETTINGS.format(tmp_path, None) + '\nMIGRATION_MODULES = {"worker": "later"}\n'
    (tmp_path / "elsewhere.py").write_text(settings)
    env = {"DJANGO_SETTINGS_MODULE": "elsewhere", "PYTHONPATH": str(tmp_path)}
    done = manage("shell", "--no-imports", "-c", MIGRATE, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    names = ("cancellation", "cluster", "failure", "lapse", "minute", "pause", "schedulestate", "tally")
    tables = [f"worker_{name}" for name in names]
    up = [[[], [], False], [tables, ["worker_failed_results", "worker_newest_results", "worker_queue"], True]]
    assert json.loads(done.stdout.splitlines()[-1]) == [up, [[[], [], False]] * 2, up]
