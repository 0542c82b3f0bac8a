"""`manage.py queue` and `health_check queue`: what they print, ask and refuse."""

import io
import json
import re
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from clusters import alike_elsewhere
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from django_q.models import Schedule
from project import free_port, manage
from queue_state import empty, failed, give_signs, run, set_depth, sign, wait_for_questions
from worker.models import Pause
from worker.processes import about, clusters
from worker.queue import actions, overview

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quiet(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with one cluster for each queue, and with empty queues."""
    empty()
    give_signs(monkeypatch, *map(sign, clusters()))
    set_depth(monkeypatch, 0, 0, 0, None)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Provide the actions that are carried out, in the place of carrying them out."""
    done: list[Any] = []
    monkeypatch.setattr(actions, "somebody", lambda: "ada@here")
    for name in ("pause", "resume", "purge", "retry", "cancel", "run_schedule"):

        def do(*args: Any, name: str = name, **more: Any) -> str:
            done.append((name, *args, more))
            return "Done."

        monkeypatch.setattr(actions, name, do)
    return done


def ask(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Let somebody sit there who answers this."""
    monkeypatch.setattr(sys, "stdin", Mock(wraps=io.StringIO(f"{answer}\n"), isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: answer)


def fails(*args: str) -> tuple[int, str]:
    """Return the code and the sentence with which a command ends."""
    with pytest.raises(CommandError) as error:
        call_command(*args)
    return error.value.returncode, str(error.value)


def test_it_prints_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_depth(monkeypatch, 12, 3, 0, timezone.now().timestamp() - 130)
    give_signs(monkeypatch, sign(running=[run("a" * 32)]))
    call_command("queue")
    head, first, *_ = lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == about(), "the version is not shown"
    assert head.split() == ["queue", "waiting", "due", "oldest", "running", "workers", "done/5min", "failed/5min"]
    assert first.split() == ["default", "12", "3", "2", "min", "1", "2", "0", "0"]
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["2", "s", "default", "core.tasks.count_words", "a" * 32] for line in lines)


def test_it_prints_json_and_nothing_else(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_depth(monkeypatch, error=OSError("away"))
    call_command("queue", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [queue["problem"] for queue in found["queues"]] == ["The broker does not answer (OSError: away)."] * len(
        clusters()
    )


def test_nothing_is_cut_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = f"core.tasks.{'f' * 200}"
    key = failed(func=long)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)
    call_command("queue")
    assert f"{long}  " in (out := capsys.readouterr().out)
    assert key in out
    monkeypatch.setenv("COLUMNS", "60")  # as `watch` says
    call_command("queue")
    assert max(map(len, capsys.readouterr().out.splitlines())) == 80


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_output_that_has_not_all_characters_gets_others(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    failed("ValueError: ☃ \x1b", func="core.tasks.☃")
    kept = io.BytesIO()
    bare = io.TextIOWrapper(kept, encoding="latin-1", write_through=True)
    call_command("queue", *options, stdout=bare)
    printed = kept.getvalue().decode("latin-1")
    assert ("core.tasks.\\u2603" if options else "core.tasks.?") in printed


@pytest.mark.parametrize(("terminal", "clears"), [("xterm", True), ("dumb", False)])
def test_a_terminal_keeps_what_was_on_it_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: str, clears: bool
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    seen = overview.overview()
    monkeypatch.setattr("worker.management.commands.queue.overview", Mock(side_effect=[seen, seen, KeyboardInterrupt]))
    call_command("queue", "--watch", "0.01")
    printed = capsys.readouterr().out
    assert printed.count("\x1b[H\x1b[2J") == 2 * clears
    assert "\x1b[3J" not in printed
    assert ("\x1b" in printed) == clears


def test_it_prints_again_and_again_also_while_a_server_is_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [overview.overview(), OperationalError("connection refused"), overview.overview()]
    monkeypatch.setattr("worker.management.commands.queue.overview", Mock(side_effect=[*answers, KeyboardInterrupt]))
    call_command("queue", "--watch", "0.01")  # Ctrl-C ends it well
    printed = capsys.readouterr().out
    assert printed.count("waiting") == 2
    assert "A server does not answer (OperationalError: connection refused)." in printed.splitlines()


def test_actions_are_carried_out_and_what_cannot_be_undone_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, done: list[Any]
) -> None:
    for command in ("pause default", "resume default", "retry 7", "run-schedule nightly"):
        call_command("queue", *command.split())
    assert [each[0] for each in done] == ["pause", "resume", "retry", "run_schedule"]
    assert done[0] == ("pause", "default", "ada@here", {})
    done.clear()
    for command in ("purge default", "retry --all", "retry --all --function core.tasks.tidy", "cancel 7"):
        ask(monkeypatch, "n")
        assert fails("queue", *command.split()) == (1, "Nothing was done.")
        assert not done
        ask(monkeypatch, "y")
        call_command("queue", *command.split())
        call_command("queue", *command.split(), "--yes")
        assert len(done) == 2
        assert done[0] == done[1]
        done.clear()


NO_ID = "'7' is no id of a task: write its 32 characters, as the admin shows them, or at least the first eight."
NO_TASK = "`queue retry` needs the id of a task, or its beginning, or --all"
WRONG = {
    "puase default": "There is no `queue puase`. Did you mean 'pause'?",
    "pause": "`queue pause` needs the name of a queue.",
    "pause defualt": "There is no queue 'defualt'. Did you mean 'default'?",
    "purge": "`queue purge` needs the name of a queue.",
    "purge default": "Remove all tasks from the queue default that no worker has fetched? "
    "Nobody can be asked here: write --yes.",
    "purge defualt --yes": "There is no queue 'defualt'. Did you mean 'default'?",
    "retry": f"{NO_TASK}.",
    "retry 7 --all": "Write the id of a task, or --all, not both.",
    "retry 7": NO_ID,
    "retry --all": "Run again all tasks that have failed for good? Nobody can be asked here: write --yes.",
    "retry --all --yes": "No task has failed for good.",
    "retry --function core.tasks.tidy": "--function needs --all beside it.",
    "retry --all --yes --function=": "--function needs the path of a function.",
    "cancel": "`queue cancel` needs the id of a task, or its beginning.",
    "cancel 7 --yes": NO_ID,
    "cancel 7": "Cancel the task 7, and end its worker if it runs? Nobody can be asked here: write --yes.",
    "cancel 7 --all": "--all and --function belong to `queue retry`.",
    "run-schedule": "`queue run-schedule` needs the name of a schedule, or its id.",
    "run-schedule nightly": "There is no schedule 'nightly'. There are none.",
    "--json --watch": "Write --json or --watch, not both.",
    "--watch soon": "--watch is 'soon': write seconds, such as 2.",
    "--watch 0": "--watch is '0': write seconds, such as 2.",
    "--watch 1e300": "--watch is '1e300': write seconds, such as 2.",
    "run-schedule \udcff": "`queue run-schedule` needs the name of a schedule, or its id, in UTF-8.",
    "retry --all --yes --function \udcff": f"{NO_TASK}, in UTF-8.",
    "pause default --json": "--json and --watch belong to `queue` alone, not to `queue pause`.",
    "--all": "--all and --function belong to `queue retry`.",
}


@pytest.mark.parametrize("command", ["purge default", "cancel 0123456789", "retry --all"])
def test_where_there_is_no_input_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as for a daemon, or `<&-`
    code, sentence = fails("queue", *command.split())
    assert (code, sentence.endswith(" Nobody can be asked here: write --yes.")) == (2, True)


IMPOSSIBLE = ("no id of", "No task", "There is no queue", "There is no schedule")  #: refused by the action itself


@pytest.mark.parametrize("command", WRONG)
def test_what_is_typed_wrongly_is_one_sentence(command: str) -> None:
    sentence = WRONG[command]
    assert fails("queue", *command.split()) == (1 if any(each in sentence for each in IMPOSSIBLE) else 2, sentence)


@alike_elsewhere
@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("queue", NEW := "The database is not migrated: run `python manage.py migrate`."),
        ("queue pause default", NEW),
        ("queue --json", AWAY := "A server does not answer (OperationalError: connection failed: "),
        ("health_check queue", AWAY),
    ],
)
def test_a_database_that_is_new_or_away_is_one_sentence(
    environment: Mapping[str, str], tmp_path: Path, command: str, sentence: str
) -> None:
    away = f"postgres://ada:secret@127.0.0.1:{free_port()}/nothing"
    url = away if "server" in sentence else f"sqlite:///{tmp_path / 'new.sqlite3'}"
    ended = manage(*command.split(), env={**environment, "DATABASE_URL": url})
    assert (ended.returncode, ended.stdout) == (1, "")
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "secret" not in ended.stderr


@pytest.mark.parametrize("command", ["queue", "queue --json", "queue pause default", "health_check queue"])
def test_what_the_database_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def refused(*args: Any) -> str:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT nothing_known")
        raise AssertionError

    monkeypatch.setattr(overview, "failed_total", refused)
    monkeypatch.setattr(actions, "order", refused)
    code, said = fails(*command.split())
    wait_for_questions()
    assert code == 1
    assert re.search(r"The database refuses what it is asked \(\w+Error: .*nothing_known.*\)\.", said)
    assert said.count("\n") == 0


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no such locks")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("command", ["queue", "queue --json", "queue pause default", "health_check queue"])
def test_a_database_whose_tables_are_locked_is_one_sentence(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    for module in ("queue", "health_check"):
        monkeypatch.setattr(f"worker.management.commands.{module}.PATIENCE", 0.3)
    with closing(connection.copy()) as somebody:
        somebody.set_autocommit(False)
        somebody.cursor().execute("LOCK TABLE worker_pause IN ACCESS EXCLUSIVE MODE")
        code, said = fails(*command.split())
    wait_for_questions()
    assert code == 1
    assert "A server does not answer (OperationalError: no answer within " in said
    assert said.endswith(" Whether this was done is not known.") == ("pause" in command)


def test_limits_of_the_queues_are_watched(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    call_command("health_check", "queue")
    assert capsys.readouterr().out == "queue: ok\n"
    set_depth(monkeypatch, 5, 0, 0, timezone.now().timestamp() - 700)
    call_command("health_check", "queue", "--max-age", "800", "--max-waiting", "5")
    code, said = fails("health_check", "queue", "--max-age", "600", "--max-waiting", "4", "--queue", "default")
    assert (code, said) == (
        1,
        "queue: The oldest task of the queue default waits for 700 s, more than 600. "
        "In the queue default 5 tasks wait, more than 4.",
    )
    Pause.objects.create(cluster=clusters()[0], by="ada", since=timezone.now() - timedelta(hours=1))
    assert "more than 600. It is paused by ada." in fails("health_check", "queue", "--max-age", "600")[1]
    set_depth(monkeypatch, error=OSError("away"))
    assert fails("health_check", "queue", "--queue", "default") == (
        1,
        "queue: default: The broker does not answer (OSError: away).",
    )
    set_depth(monkeypatch, 0, 0, 0, None)
    give_signs(monkeypatch, sign(alive=False))
    assert fails("health_check", "queue", "--queue", "default") == (
        1,
        "queue: Nothing serves the queue default: start it with `python manage.py prodserver worker`.",
    )


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("queue --max-age -1", "--max-age is '-1': write a number, such as 600."),
        ("queue --max-age abc", "--max-age is 'abc': write a number, such as 600."),
        ("queue --max-waiting many", "--max-waiting is 'many': write a number, such as 600."),
        ("queue --queue defualt", "There is no queue 'defualt'. Did you mean 'default'?"),
        ("web --max-age 5", "--queue, --max-age and --max-waiting belong to `health_check queue`."),
    ],
)
def test_limits_that_are_none_are_one_sentence(command: str, sentence: str) -> None:
    name, option, value = command.split()
    assert fails("health_check", name, f"{option}={value}") == (2, sentence)


def test_what_strangers_have_sent_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    failed("ValueError: \x1b]0;mine\x07\u202e", func="\x1b[31mred")
    Schedule.objects.create(name="\x9b2J", func="core.tasks.tidy")
    call_command("queue")
    out = capsys.readouterr().out
    assert "ValueError: �]0;mine��" in out
    assert "�[31mred" in out
    assert "�2J" in out
    assert "\x1b" not in fails("queue", "run-schedule", "\x1b")[1]


def test_who_reads_no_further_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Mock(write=Mock(side_effect=BrokenPipeError), fileno=lambda: -1, isatty=lambda: False)
    instead: list[int] = []
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr("os.dup2", lambda new, old: instead.append(old))
    for args in ([], ["--json"], ["--watch", "1"]):
        call_command("queue", *args, stdout=closed)
    assert instead == [-1] * 3


@pytest.mark.parametrize("arguments", ["--json", "--watch 1"])
def test_an_output_that_cannot_be_written_is_one_sentence(environment: Mapping[str, str], arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = manage("queue", *arguments.split(), env=environment, stdout=full)
    sentence = "CommandError: The output cannot be written (OSError: [Errno 28] No space left on device)."
    assert (ended.returncode, ended.stderr.splitlines()) == (1, [sentence])


def test_a_name_that_is_too_long_for_the_database_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "eve\n\udcff" + "x" * 300)
    assert actions.somebody() == "eve ?" + "x" * 249


def test_who_has_no_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("uid not found: 1000")

    monkeypatch.setattr("getpass.getuser", unknown)
    assert actions.somebody().partition("@")[0].isdecimal()


def test_what_has_failed_is_found_by_its_id_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    key = failed("ValueError: no")
    call_command("queue")
    printed = capsys.readouterr().out.splitlines()
    place = printed.index("Failed for good: 1")
    assert printed[place + 1].split()[-1] == key
    assert printed[place + 2].strip() == "ValueError: no"


def test_an_option_may_stand_before_a_name(done: list[Any]) -> None:
    call_command("queue", "purge", "--yes", "default")
    call_command("queue", "--yes", "cancel", "0123456789")
    assert [each[:2] for each in done] == [("purge", "default"), ("cancel", "0123456789")]
