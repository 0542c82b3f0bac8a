"""What docs/operations/incidents.md says to do is done, in a project to which just that happens.

Its servers are behind links that can be cut. Commands are those of the page, under the heading that a test is about.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import servers
from tests.browser import Browser, status
from tests.combinations import COMBINATIONS, TEMPLATE, Combination
from tests.faults.lab import Link
from tests.interpreters import for_combination
from tests.processes import Command, Environment, Process, run, started
from tests.projects import PRODUCTION, Environments, Workplace
from tests.test_docs import BLOCK, DOCS, commands
from tests.test_guides import Reader
from tests.test_run import STAFF

PAGE, RESTORE = DOCS / "operations/incidents.md", DOCS / "operations/restore.md"
#: Headings of which other tests show what is said; all others have a test here that names them.
ELSEWHERE = {
    # What is full is a matter of figures, which scale.md has of the benchmarks.
    "The queue grows": ("tests/test_handbook.py", "def test_figures_are_those_of_the_page_of_performance"),
}
TASKS = """

def write(word):
    with open("ran.txt", "a") as file:
        file.write(f"{word}\\n")


@task
def note(word):
    write(word)


@task(queue_name="slow")
def note_slowly(word):
    write(word)


@task(timeout=3600)
def hold(word):
    write(f"{word}-begins")
    while not os.path.exists(word):
        time.sleep(0.05)
    write(f"{word}-ends")


@task(max_attempts=1)
def spoilt(word):
    if os.path.exists("spoilt"):
        raise ValueError("of this deploy")
    write(word)
"""
FULL = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute('''
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$
    ''')
    cursor.execute("CREATE TRIGGER full_disk BEFORE INSERT ON django_q_task EXECUTE FUNCTION full_disk()")
"""
ROOM = """
with connection.cursor() as cursor:
    cursor.execute("DROP TRIGGER full_disk ON django_q_task")
"""
OLD = """
from datetime import timedelta
from django.utils import timezone
from django_q.models import Success
long_ago = timezone.now() - timedelta(days=8)
Success.objects.create(id="0" * 32, name="old", func="core.tasks.note", started=long_ago, stopped=long_ago)
"""


MISSED = """
from datetime import timedelta
from django.utils import timezone
from django_q.tasks import schedule
schedule("core.tasks.write", "missed", next_run=timezone.now() - timedelta(days=3), schedule_type="D")
"""


def part(heading: str) -> str:
    """Return what the page says under a heading."""
    return PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def commands_of(heading: str) -> list[str]:
    """Return the commands under a heading, in their order."""
    return [it for kind, text in BLOCK.findall(part(heading)) if kind == "sh" for it in commands(text)]


class Place(Reader):
    """A project as it runs in production, and who is called when something is wrong with it."""

    def __init__(self, workplace: Workplace, variables: Environment, links: dict[str, Link], stack: ExitStack) -> None:
        """Release it, and start web."""
        super().__init__(workplace, variables, stack)
        self.links, self.port = links, int(self.environment["PORT"])
        super().run("python manage.py release && python manage.py collectstatic --noinput")
        self.web = stack.enter_context(self.process("web"))
        self.web.wait_until(lambda: status(self.port, "/livez") == 200, "an answer to /livez")
        workplace.manage("createsuperuser", "--noinput", environment={**self.environment, **STAFF})
        self.browser = Browser(self.port)
        self.browser.log_in(STAFF["DJANGO_SUPERUSER_USERNAME"], STAFF["DJANGO_SUPERUSER_PASSWORD"])

    def start(self) -> None:
        """Start no worker but where a test says so."""

    def process(self, name: str) -> AbstractContextManager[Process]:
        """Return a process of the project, which is still to be started."""
        line: Command = [self.workplace.python, "manage.py", "prodserver", name]
        log = f"{name}-{time.monotonic_ns()}"
        return started(log, line, self.workplace.path, self.environment, self.workplace.temporary)

    @contextmanager
    def working(self, name: str = "worker") -> Iterator[Process]:
        """Have a worker for some time, which then stops as it should."""
        with self.process(name) as worker:
            yield worker
            assert worker.stop() == 0, worker.log()

    def mend(self) -> None:
        """Let all servers be reached."""
        for link in self.links.values():
            if not link.process:
                link.mend()
        self.type("from django.db import connection\nconnection.close()")

    def say(self, command: str, expect: int = 0) -> str:
        """Run a command, and return what it prints."""
        return run(["bash", "-e", "-c", command], self.workplace.path, self.environment, expect)

    def wait_until_unready(self, server: str) -> None:
        """Wait until /readyz names a server."""
        expected = (503, f"the {server} does not answer\n")

        def named() -> bool:
            answer = self.browser.get("/readyz")
            return (answer.status, answer.text) == expected

        self.web.wait_until(named, f"an answer about the {server}")

    def queue(self, task: str, *words: str) -> None:
        """Queue a task for each word, as web does."""
        self.type(f"import core.tasks\nfor word in {words}:\n    core.tasks.{task}.enqueue(word)")
        assert "Traceback" not in self.printed, self.printed

    def ask(self, expression: str) -> str:
        """Return what an expression is in the shell."""
        self.type(f"from django_q.models import *\nprint({expression})")
        return self.printed.strip()

    def let_end(self, word: str) -> None:
        """Let a task end that holds on until it may."""
        (self.workplace.path / word).touch()

    def ran(self) -> list[str]:
        """Return what has run, in its order."""
        file = self.workplace.path / "ran.txt"
        return file.read_text().split() if file.exists() else []

    def wait(self, worker: Process, *words: str) -> None:
        """Wait until these have run, each once."""
        worker.wait_until(lambda: set(words) <= set(self.ran()), f"the runs of {words}")
        assert [self.ran().count(word) for word in words] == [1] * len(words)


def workplace_of(
    broker: str, bake: Callable[[Combination], Path], environments: Environments, folder: Path
) -> Workplace:
    """Return a project of this broker, with some tasks of its own."""
    chosen = {"broker": broker, "hosting": "docker", "queues": "fast_and_slow", "django_version": "5.2"}
    combination = next(it for it in COMBINATIONS if it.answers == chosen)
    workplace = Workplace.of(bake(combination), for_combination(combination), environments, folder)
    with (workplace.path / "core/tasks.py").open("a") as file:
        file.write(f"import os\n{TASKS}")
    return workplace


@pytest.fixture(scope="module")
def site(
    bake: Callable[[Combination], Path], environments: Environments, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A project with Redis and PostgreSQL."""
    folder = tmp_path_factory.mktemp("incidents")
    workplace = workplace_of("redis", bake, environments, folder)
    with ExitStack() as stack:
        links, variables = {}, {**PRODUCTION, "Q_WORKERS": "2"}
        for server in (servers.postgresql, servers.redis):
            for name, url in stack.enter_context(server(folder)).items():
                links[name] = Link(name, urlsplit(url).port or 0, folder)
                stack.callback(links[name].cut)
                links[name].mend()
                variables[name] = url.replace(f":{links[name].target}/", f":{links[name].port}/")
        yield Place(workplace, variables, links, stack)


def wait_for_line(process: Process, words: str) -> None:
    """Wait until a process has logged these words."""
    process.wait_until(lambda: words in process.log(), f"{words!r} in its log")


@pytest.fixture
def place(site: Place) -> Iterator[Place]:
    """The project, with all its servers, and no worker yet."""
    yield site
    site.mend()


pytestmark = pytest.mark.xdist_group("incidents")  # which share what runs


def test_tasks_wait_and_none_runs(place: Place) -> None:
    health, *_ = commands_of("Tasks wait, and none runs")
    place.queue("note", "none")
    assert "worker: " in place.say(health, expect=1)
    with place.working() as worker:
        worker.wait_until(lambda: "ok" in place.say(f"{health} || true"), "its health")
        place.follow(part("Tasks wait, and none runs"))
        place.wait(worker, "none")
    for variable, sentence in {"REDIS_URL": "The broker does not", "DATABASE_URL": "The database does not"}.items():
        place.queue("note", variable)
        place.links[variable].cut()
        with place.working() as worker:
            wait_for_line(worker, sentence)
            place.links[variable].mend()
            place.wait(worker, variable)
    with place.working() as worker:
        place.queue("hold", "busy-1", "busy-2")
        place.wait(worker, "busy-1-begins", "busy-2-begins")
        behind = [f"behind-{number}" for number in range(40)]
        place.queue("note", *behind)
        worker.wait_until(lambda: place.say("python manage.py queue").count("core.tasks.hold") >= 2, "what runs")
        assert not {*behind} & {*place.ran()}
        with place.working() as another:
            another.wait_until(lambda: len({*behind} & {*place.ran()}) >= 30, "the runs of what nobody had fetched")
            place.let_end("busy-1")
            place.let_end("busy-2")
            place.wait(worker, *behind)
        place.say("python manage.py queue pause default")
        place.queue("note", "paused")
        assert re.search(r"paused .*by", place.say("python manage.py queue"))
        assert "paused" not in place.ran()
        place.say("python manage.py queue resume default")
        place.wait(worker, "paused")
        place.queue("note_slowly", "slow")
        with place.working("worker-slow") as slow:
            place.wait(slow, "slow")


def test_the_broker_was_away(place: Place) -> None:
    with place.working() as worker:
        place.queue("hold", "through-broker")
        place.wait(worker, "through-broker-begins")
        place.queue("note", "waited-1", "waited-2")
        place.wait(worker, "waited-1", "waited-2")
        place.links["REDIS_URL"].cut()
        wait_for_line(worker, "next try in")
        place.let_end("through-broker")
        place.wait(worker, "through-broker-ends")
        place.links["REDIS_URL"].mend()
        place.queue("note", "after-broker")
        place.wait(worker, "after-broker", "through-broker-begins", "through-broker-ends")


def test_the_database_was_away(place: Place) -> None:
    saved = "Success.objects.filter(func='core.tasks.hold', args__isnull=False).count()"
    with place.working() as worker:
        before = int(place.ask(saved))
        place.queue("hold", "through-database")
        place.wait(worker, "through-database-begins")
        place.links["DATABASE_URL"].cut()
        place.let_end("through-database")
        place.wait(worker, "through-database-ends")
        assert place.browser.get("/").status == 503
        wait_for_line(worker, "next try in")
        place.mend()
        worker.wait_until(lambda: int(place.ask(saved)) == before + 1, "the result")
        place.queue("note", "after-database")
        place.wait(worker, "after-database", "through-database-begins", "through-database-ends")


def test_the_disk_of_the_database_is_full(place: Place) -> None:
    saved = "Success.objects.filter(func='core.tasks.note').count()"
    place.type(OLD)
    with place.working() as worker, ExitStack() as stack:
        place.type(FULL)
        stack.callback(place.type, ROOM)
        before = int(place.ask(saved))
        place.queue("note", "onto-a-full-disk")
        place.wait(worker, "onto-a-full-disk")
        wait_for_line(worker, "No space left")
        (command,) = commands_of("The disk of the database is full")
        place.say(command)
        assert int(place.ask(saved)) == before - 1, "what is old is gone"
        stack.close()
        worker.wait_until(lambda: int(place.ask(saved)) == before, "the result")
        assert place.ask("Failure.objects.count()") == "0"


def test_a_worker_restarts_again_and_again(place: Place) -> None:
    said = place.say("Q_WORKERS=two python manage.py prodserver worker", expect=1)
    assert "Q_WORKERS is 'two': write a whole number, 1 or more." in said  # for the agent, see faults/test_kills.py


def test_a_worker_is_ok_and_a_task_runs_for_hours(place: Place) -> None:
    with place.working() as worker:
        place.queue("hold", "for-ever")
        place.wait(worker, "for-ever-begins")

        found = worker.wait_until(
            lambda: re.search(r"core\.tasks\.hold +([0-9a-f]+)$", place.say("python manage.py queue"), re.MULTILINE),
            "its id",
        )
        place.say(f"python manage.py queue cancel {found[1]} --yes")
        worker.wait_until(lambda: place.ask("Failure.objects.filter(func='core.tasks.hold').count()") == "1", "its end")
        place.queue("note", "after-it")
        place.wait(worker, "after-it", "for-ever-begins")
        assert place.ask("Failure.objects.filter(func='core.tasks.hold').delete() and 0") == "0"


def test_a_wrong_mail_is_being_sent_a_thousand_times(place: Place) -> None:
    pause, purge, resume = commands_of("A wrong mail is being sent, a thousand times")
    with place.working() as worker:
        place.queue("hold", "begun")
        place.wait(worker, "begun-begins")
        place.say(pause)
        place.queue("note", *(f"wrong-{number}" for number in range(20)))
        place.let_end("begun")
        place.wait(worker, "begun-ends")
        assert "20" in place.say(purge)
        place.say(resume)
        place.queue("note", "right")
        place.wait(worker, "right")
        assert not [it for it in place.ran() if it.startswith("wrong")]


def test_a_page_says_503(place: Place) -> None:
    (command,) = commands_of("A page says 503")
    for variable, named in {"REDIS_URL": "broker", "DATABASE_URL": "database"}.items():
        place.links[variable].cut()
        place.wait_until_unready(named)
        if named == "database":
            assert "worker.E025" in place.say(command, expect=1)
            assert place.browser.get("/").status == 503
        place.mend()
        place.web.wait_until(lambda: status(place.port, "/readyz") == 200, "a site that is ready")
    place.follow(part("A page says 503"))


def test_many_tasks_have_failed(place: Place) -> None:
    (command,) = commands_of("Many tasks have failed")
    (place.workplace.path / "spoilt").touch()
    with place.working() as worker:
        place.queue("spoilt", "failed-1", "failed-2")
        failed = "Failure.objects.filter(func='core.tasks.spoilt').count()"
        worker.wait_until(lambda: place.ask(failed) == "2", "their failures")
        assert re.search(
            r"^Failed for good: \d+\n(.*\n)*2  core\.tasks\.spoilt .*\n    ValueError: of this deploy$",
            place.say("python manage.py queue"),
            re.MULTILINE,
        )
        (place.workplace.path / "spoilt").unlink()
        assert "Queued 2 tasks again." in place.say(command.replace("core.tasks.count_words", "core.tasks.spoilt"))
        place.wait(worker, "failed-1", "failed-2")
        worker.wait_until(lambda: place.ask(failed) == "0", "their success")
    assert "No task of core.tasks.count_words has failed for good." in place.say(command, expect=1)


def test_a_backup_is_restored_as_the_page_says(
    bake: Callable[[Combination], Path], environments: Environments, tmp_path: Path
) -> None:
    (look,) = (text for kind, text in BLOCK.findall(RESTORE.read_text()) if kind == "python")
    release = next(text for kind, text in BLOCK.findall(RESTORE.read_text()) if kind == "sh")
    with ExitStack() as stack:
        url = stack.enter_context(servers.postgresql(tmp_path))["DATABASE_URL"]
        workplace = workplace_of("orm", bake, environments, tmp_path)
        it = Place(workplace, {**PRODUCTION, "DATABASE_URL": url}, {}, stack)
        it.queue("note", "waited")
        it.type(MISSED)
        dump, restore = (servers.program(name) for name in ("pg_dump", "pg_restore"))
        it.say(f"{dump} --format=custom --file=backup {url}")
        with it.working() as worker:
            it.wait(worker, "waited", "missed")
        it.web.stop()
        it.stop()
        it.say(f"{servers.program('psql')} {url} -c 'CREATE DATABASE restored'")
        restored = f"{url.rpartition('/')[0]}/restored"
        it.say(f"{restore} --dbname={restored} backup")
        it.environment = {**it.environment, "DATABASE_URL": restored}
        it.type(look)
        assert it.printed.split()[0] == "1", "what waited then, and has run since"
        it.say(release)
        with it.working() as worker:
            worker.wait_until(lambda: it.ran().count("missed") == 2, "the schedule, once more")
            it.queue("note", "afterwards")
            it.wait(worker, "afterwards", "waited")


def test_each_incident_is_tried() -> None:
    headings = re.findall("^## (.*)$", PAGE.read_text(), re.MULTILINE)
    names = {f"test_{re.sub('[^a-z0-9]+', '_', it.lower())}": it for it in headings}
    assert {heading for name, heading in names.items() if name not in globals()} == ELSEWHERE.keys()
    for file, words in ELSEWHERE.values():
        assert words in (TEMPLATE / file).read_text()
