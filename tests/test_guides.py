"""The guides in docs/ are followed, block by block, in a project with a worker beside it.

A block's first line says where the rest belongs: `# core/tasks.py` is a file, to which it is added; `# manage.py shell`
a shell, in which the blocks of a page are typed one after the other. Commands are run in the project's folder. A block
of `text` after any of these is what is printed, with `…` for what differs from one time to the next.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import servers
from tests.combinations import CHOICES, COMBINATIONS, Combination
from tests.interpreters import for_combination
from tests.processes import Command, Process, free_port, run, started
from tests.projects import PRODUCTION, Environments, Workplace
from tests.test_docs import BLOCK, DIFFERENCE, DOCS, ELSEWHERE, commands, guides

#: Answers that the project of a page needs, where they are not the first ones.
ANSWERS = {
    "tasks/commit.md": {"broker": "redis"},
    "tasks/limits.md": {"queues": "fast_and_slow"},
    **{f"brokers/{broker}.md": {"broker": broker} for broker in CHOICES["broker"]},
}
DEADLINE = 30.0  #: seconds that what a page shows may take to come true
PLACE = re.compile(r"# ([\w./-]+|manage\.py shell)\n")
SHELL = r"""
import contextlib, io, json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(json.loads(line), "block", "exec"), names)
        except BaseException:
            traceback.print_exc(file=printed)
    print("\0" + json.dumps(printed.getvalue()), flush=True)  # other lines are of the log
"""


def combination_of(page: str) -> Combination:
    """Return the combination that a page is about."""
    answers = ANSWERS.get(page, {})
    return next(it for it in COMBINATIONS if answers.items() <= it.answers.items())


def surroundings(page: str) -> Mapping[str, str]:
    """Return the variables of where a page is read: at a desk, or where the project is deployed."""
    return {"DEBUG": "true"} if page.startswith(("start", "tasks/")) else PRODUCTION


def pattern_of(text: str) -> re.Pattern[str]:
    """Return a pattern that finds these lines, in their order."""
    lines = (re.escape(line.strip()).replace("…", ".*") for line in text.splitlines())
    return re.compile(".*".join(lines), re.DOTALL)


class Reader:
    """Does what a page says."""

    def __init__(self, workplace: Workplace, variables: Mapping[str, str], stack: ExitStack) -> None:
        """Begin with a project that is migrated."""
        self.workplace, self.stack = workplace, stack
        self.environment = workplace.environment({"PORT": str(free_port()), **variables})
        self.worker: Process | None = None
        self.shell: subprocess.Popen[str] | None = None
        self.print: Callable[[], str] = str  #: what repeats the last step
        self.printed = ""  #: by the last step, if nobody has looked yet

    def follow(self, page: str) -> None:
        """Go through the blocks of a page."""
        for kind, text in BLOCK.findall(page):
            place = PLACE.match(text)
            if kind == "text":
                self.expect(text)
            elif kind == "sh":
                for command in commands(text):
                    if command not in ELSEWHERE:
                        self.run(command)
            elif text.partition("\n")[0] in ELSEWHERE:
                continue
            elif place and place[1] == "manage.py shell":
                self.type(text)
            else:
                assert place, f"a block that says nowhere where it belongs:\n{text}"
                self.add(place[1], text[place.end() :])

    def add(self, name: str, text: str) -> None:
        """Add lines to a file, or begin it; what runs knows the former one, and is stopped."""
        self.stop()
        path = self.workplace.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"\n\n{text}")

    def run(self, command: str) -> None:
        """Run a command, and keep what it prints."""
        self.start()
        typed: Command = ["bash", "-e", "-c", command.replace("uv run ", "")]

        def again() -> str:
            return run(typed, self.workplace.path, self.environment)

        self.print, self.printed = again, again()

    def type(self, code: str) -> None:
        """Type this into the shell, and keep what it prints."""
        self.start()
        shell = self.shell or self.open()
        assert shell.stdin
        assert shell.stdout

        def again() -> str:
            assert shell.stdin
            assert shell.stdout
            shell.stdin.write(f"{json.dumps(code)}\n")
            shell.stdin.flush()
            answer = next((line for line in shell.stdout if line[0] == "\0"), "")
            assert answer, f"the shell has ended: {(self.workplace.temporary / 'shell.err').read_text()}"
            return str(json.loads(answer[1:]))

        self.print, self.printed = again, again()

    def expect(self, text: str) -> None:
        """See that this is printed, at once or after a while."""
        end = time.monotonic() + DEADLINE
        while not pattern_of(text).search(self.printed):
            assert time.monotonic() < end, f"expected:\n{text}\nprinted:\n{self.printed}"
            time.sleep(0.3)
            self.printed = self.print()
        self.printed = ""  # what was expected is no accident

    def open(self) -> subprocess.Popen[str]:
        """Start the shell."""
        command: Command = [self.workplace.python, "manage.py", "shell", "-v0", "-c", SHELL]
        with (self.workplace.temporary / "shell.err").open("w") as errors:
            self.shell = subprocess.Popen(
                command,
                cwd=self.workplace.path,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.stack.callback(self.close, self.shell)
        return self.shell

    @staticmethod
    def close(shell: subprocess.Popen[str]) -> None:
        """End the shell."""
        shell.communicate()

    def start(self) -> None:
        """Start the worker, unless it runs; what the last step has printed was no error that nobody expected."""
        assert "Traceback" not in self.printed, self.printed
        if not self.worker:
            serve: Command = [self.workplace.python, "manage.py", "prodserver", "worker"]
            name = f"worker-{time.monotonic_ns()}"
            self.worker = self.stack.enter_context(
                started(name, serve, self.workplace.path, self.environment, self.workplace.temporary)
            )

    def stop(self) -> None:
        """Stop what runs."""
        assert "Traceback" not in self.printed, self.printed
        if self.worker:
            self.worker.stop()
        if self.shell:
            self.close(self.shell)
        self.worker = self.shell = None


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Workplace], Path]:
    """Return a function that copies a migrated database, which is made once for each environment."""
    made: dict[Path, Path] = {}

    def copy(workplace: Workplace) -> Path:
        if workplace.python not in made:
            file = tmp_path_factory.mktemp("migrated") / "database.sqlite3"
            environment = {**PRODUCTION, "DATABASE_URL": f"sqlite:///{file}"}
            for command in ("migrate", "createcachetable"):
                workplace.manage(command, "-v0", environment=environment)
            made[workplace.python] = file
        return Path(shutil.copy(made[workplace.python], workplace.temporary / "database.sqlite3"))

    return copy


def read_together() -> dict[str, list[Path]]:
    """Return the pages by what they are read in: a project of its own for each that adds to files of it."""
    together: dict[str, list[Path]] = {}
    for page in guides():
        name = page.relative_to(DOCS).as_posix()
        places = {found[1] for _, text in BLOCK.findall(page.read_text()) if (found := PLACE.match(text))}
        where = "desk" if "DEBUG" in surroundings(name) else "deployed"
        key = name if places - {"manage.py shell"} else f"{combination_of(name)}-{where}"
        together.setdefault(key, []).append(page)
    return together


@pytest.mark.parametrize("pages", read_together().values(), ids=read_together())
def test_what_pages_say_can_be_done(
    pages: list[Path],
    bake: Callable[[Combination], Path],
    environments: Environments,
    migrated: Callable[[Workplace], Path],
    tmp_path: Path,
) -> None:
    name = pages[0].relative_to(DOCS).as_posix()
    combination = combination_of(name)
    workplace = Workplace.of(bake(combination), for_combination(combination), environments, tmp_path)
    variables = {"DATABASE_URL": f"sqlite:///{migrated(workplace)}", **surroundings(name)}
    with ExitStack() as stack:
        variables |= stack.enter_context(servers.broker(combination, workplace))
        reader = Reader(workplace, variables, stack)
        for page in pages:
            print(page)  # so that a failure tells it
            reader.follow(page.read_text())
        reader.stop()
    workplace.manage("check", environment=variables)


QUEUE = """
from core.tasks import count_words
print(count_words.enqueue("one two three").id)
"""


def test_the_broker_is_changed_as_the_page_says(
    bake: Callable[[Combination], Path],
    environments: Environments,
    migrated: Callable[[Workplace], Path],
    tmp_path: Path,
) -> None:
    before, after = (next(it for it in COMBINATIONS if it.broker == broker) for broker in ("orm", "redis"))
    workplace = Workplace.of(bake(before), for_combination(before), environments, tmp_path)
    folder = workplace.path
    for name, line in (("config/settings.py", "OWN = 1"), ("core/tasks.py", "# mine"), ("README.md", "Mine.")):
        (folder / name).write_text(f"{(folder / name).read_text()}\n{line}\n")
    variables = {**PRODUCTION, "DATABASE_URL": f"sqlite:///{migrated(workplace)}", "PORT": str(free_port())}
    worker: Command = [workplace.python, "manage.py", "prodserver", "worker"]

    def queue() -> str:
        return workplace.manage("shell", "-v0", "-c", QUEUE, environment=variables).split()[-1]

    def ask(identity: str) -> Callable[[], bool]:
        code = f"from core.tasks import count_words; print(count_words.get_result({identity!r}).status)"
        return lambda: "SUCCESSFUL" in workplace.manage("shell", "-v0", "-c", code, environment=variables)

    first = queue()
    with started("orm", worker, folder, workplace.environment(variables), workplace.temporary) as it:
        it.wait_until(ask(first), "the first result")
        it.stop()
    for name, combination in (("before", before), ("after", after)):
        shutil.copytree(bake(combination), folder.parent / name / folder.name)
    for command in (DIFFERENCE, "patch -p2 --dry-run < ../broker.patch", "patch -p2 < ../broker.patch"):
        printed = run(["bash", "-e", "-c", command], folder, workplace.environment({}))
        assert "FAILED" not in printed
    assert all("ine" in (folder / name).read_text()[-7:] for name in ("core/tasks.py", "README.md"))
    workplace = Workplace(folder, environments.python(folder, for_combination(after)), workplace.temporary)
    worker = [workplace.python, "manage.py", "prodserver", "worker"]
    with servers.broker(after, workplace) as address:
        variables |= address
        workplace.manage("release", environment=variables)
        second = queue()
        assert ask(first)()
        with started("redis", worker, folder, workplace.environment(variables), workplace.temporary) as it:
            it.wait_until(ask(second), "the second result")
            it.stop()


#: What pages print of all queues, or of all that has failed for good, each with what is there before.
COUNTS = {
    "operations/stop.md": ('async_task("math.sqrt", 4, cluster="slow")', "1"),
    "brokers/changing.md": ("", "1"),
    "operations/poison.md": (
        """
from datetime import timedelta
from django.utils import timezone
from django_q.models import Task
from worker.models import Failure as Attempt
now = timezone.now()
for key, next_try in (("again", now + timedelta(hours=1)), ("lost", None)):
    Task.objects.create(id=key, name=key, func=f"core.tasks.{key}", args=(), started=now, stopped=now, success=False)
    Attempt.objects.create(task=key, attempts=1, max_attempts=3, next_try=next_try, errors=[])
""",
        "core.tasks.lost ()",
    ),
}


def test_pages_count_all_queues_and_only_what_has_failed_for_good(
    bake: Callable[[Combination], Path],
    environments: Environments,
    migrated: Callable[[Workplace], Path],
    tmp_path: Path,
) -> None:
    combination = combination_of("tasks/limits.md")
    workplace = Workplace.of(bake(combination), for_combination(combination), environments, tmp_path)
    code = "from django_q.tasks import async_task"
    for page, (before, _) in COUNTS.items():
        (block,) = [
            text for _, text in BLOCK.findall((DOCS / page).read_text()) if text.startswith("# manage.py shell")
        ]
        code += f"\n{before}\n{block}"
    variables = {**PRODUCTION, "DATABASE_URL": f"sqlite:///{migrated(workplace)}"}
    printed = workplace.manage("shell", "-v0", "-c", code, environment=variables).splitlines()[-len(COUNTS) :]
    assert [line.partition("+00:00 ")[2] or line for line in printed] == [counted for _, counted in COUNTS.values()]


SLIPS = {
    "no such name": "```python\n# manage.py shell\ncount_wrods\n```\n\n```sh\ntrue\n```\n",
    "another output": "```sh\necho one\n```\n\n```text\ntwo\n```\n",
    "no place": "```python\nx = 1\n```\n",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_a_page_is_seen(
    slip: str,
    bake: Callable[[Combination], Path],
    environments: Environments,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tests.test_guides.DEADLINE", 0.1)
    combination = COMBINATIONS[0]
    workplace = Workplace.of(bake(combination), for_combination(combination), environments, tmp_path)
    with ExitStack() as stack:
        reader = Reader(workplace, {"DEBUG": "true"}, stack)
        with pytest.raises(AssertionError):
            reader.follow(SLIPS[slip])
