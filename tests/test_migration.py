"""Projects that were not made by the template move to it, by the steps of docs/migration/, and lose nothing."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import pytest
from uv import find_uv_bin

from tests import servers
from tests.combinations import COMBINATIONS, Combination
from tests.interpreters import for_combination
from tests.processes import Command, Environment, Process, run, started
from tests.projects import Environments, Workplace, uv_environment
from tests.test_docs import DOCS
from tests.test_guides import Reader

PAGES = DOCS / "migration"
HEADING = re.compile(r"^## (?=(\d)\. )", re.MULTILINE)
#: What worker/ uses beside: Django, what comes with django-q2, and what is of a broker, tests, web or another Django.
OPTIONAL = {
    *("asgiref", "croniter", "django", "django-picklefield", "django-tasks"),
    *("gunicorn", "psycopg", "pytest", "python-dotenv", "redis"),
}
INSTALLED = """
import importlib.metadata, json, pathlib, re, sys
names = {name for path in pathlib.Path("worker").rglob("*.py")
         for name in re.findall(r"^ *(?:from|import) (\\w+)", path.read_text(), re.MULTILINE)}
found = importlib.metadata.packages_distributions()
used = {it for name in names - sys.stdlib_module_names for it in found.get(name, ())}
print(json.dumps(sorted(it.lower().replace("_", "-") for it in used)))
"""
TASKS = """
from pathlib import Path

def note(word):
    with Path("ran.txt").open("a") as file:
        file.write(f"{word}\\n")
    return word
"""


class Mover(Reader):
    """Does what a page says in a project of somebody else's."""

    def __init__(
        self, workplace: Workplace, baked: Path, stack: ExitStack, settings: str, variables: Environment
    ) -> None:
        """Begin as Django does, with an app."""
        super().__init__(workplace, variables, stack)
        self.baked = baked
        super().run("django-admin startproject mysite .")
        self.add("shop/__init__.py", "")
        self.add("shop/tasks.py", TASKS)
        self.add("mysite/settings.py", f'INSTALLED_APPS += ["shop"]\n{settings}')

    def begin(self, *command: str) -> Process:
        """Start a process that goes on."""
        line: Command = [self.workplace.python, "manage.py", *command]
        return self.stack.enter_context(
            started(command[-1], line, self.workplace.path, self.environment, self.workplace.temporary)
        )

    def start(self) -> None:
        """Start no worker before the page says so."""
        assert "Traceback" not in self.printed, self.printed

    def run(self, command: str) -> None:
        """Run a command, but for those that a test can only do its own way."""
        if command.startswith("uvx cookiecutter -o .. "):
            shutil.copytree(self.baked, self.workplace.path.parent / "my_project")
        elif command.startswith("uv add "):
            self.install(re.findall(r"'?([\w-]+(?:\[\w+\])?[=\w.]*)'?", command)[2:])
        elif command == "python manage.py prodserver worker":
            self.worker = self.begin("prodserver", "worker")
        else:
            super().run(command)

    def install(self, packages: list[str]) -> None:
        """See that a project of the template has these packages, and that worker/ needs no others."""
        wanted = (self.baked / "pyproject.toml").read_text()
        assert [it for it in packages if f'"{it}' not in wanted] == []
        used = json.loads(run([self.workplace.python, "-c", INSTALLED], self.workplace.path, self.environment))
        assert set(used) - OPTIONAL == {re.split(r"[\[=]", it)[0] for it in packages}

    def steps(self, page: str, *numbers: int) -> None:
        """Do some of the steps of a page."""
        _, *parts = HEADING.split((PAGES / page).read_text())
        found = {int(number): text for number, text in zip(parts[::2], parts[1::2], strict=True)}
        for number in numbers or found:
            self.follow(found[number])

    def ask(self, code: str) -> str:
        """Run a line in a fresh shell, and return what it prints."""
        return self.workplace.manage("shell", "-v0", "-c", code, environment=self.environment).strip()

    def ran(self) -> list[str]:
        """Return what has run, in its order."""
        file = self.workplace.path / "ran.txt"
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def mover(bake: Callable[[Combination], Path], environments: Environments, tmp_path: Path) -> Callable[..., Mover]:
    """Return a function that makes a project which is to take a broker, in the environment of that broker."""

    def make(broker: str, stack: ExitStack, settings: str = "", variables: Environment = MappingProxyType({})) -> Mover:
        combination = next(it for it in COMBINATIONS if it.broker == broker)
        folder, temporary = tmp_path / "a place" / "site", tmp_path / "temporary"
        folder.mkdir(parents=True)
        temporary.mkdir()
        python = environments.python(bake(combination), for_combination(combination))
        return Mover(Workplace(folder, python, temporary), bake(combination), stack, settings, variables)

    return make


def test_worker_is_added_to_a_project_as_the_page_says(mover: Callable[..., Mover], tmp_path: Path) -> None:
    absent = tmp_path / "absent"  # what a project of the template has, and the page does not ask for
    absent.mkdir()
    for name in ("dj_database_url", "dotenv", "environs", "gunicorn", "psycopg", "whitenoise"):
        (absent / f"{name}.py").write_text("raise ModuleNotFoundError(__name__)\n")
    with ExitStack() as stack:
        it = mover("orm", stack, "", {"PYTHONPATH": str(absent)})
        it.steps("existing.md")
        it.stop()


#: What a plain django-q2 has in its settings; a colon in the name is allowed.
CLUSTERS: Mapping[str, str] = {
    "orm": 'Q_CLUSTER = {"name": "shop:eu", "orm": "default", "timeout": 20, "retry": 90}',
    "redis": 'import os\nQ_CLUSTER = {"name": "shop:eu", "redis": os.environ["REDIS_URL"], "timeout": 20, "retry": 90}',
}
QUEUE = "from django_q.tasks import async_task; async_task('shop.tasks.note', {!r})"
DAILY = """
from datetime import timedelta
from django.utils import timezone
from django_q.tasks import schedule
schedule("shop.tasks.note", "daily", next_run=timezone.now() + timedelta(days=1), schedule_type="D")
"""
DUE = "from django_q.models import Schedule; from django.utils import timezone; "
DUE += "Schedule.objects.update(next_run=timezone.now())"
RESULTS = "from django_q.models import Success; print(*sorted(it.result for it in Success.objects.all()))"


@pytest.mark.parametrize("broker", CLUSTERS)
def test_what_a_plain_qcluster_leaves_is_run_after_the_steps_of_the_page(
    broker: str, mover: Callable[..., Mover], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        variables = stack.enter_context(servers.BROKERS[broker](tmp_path)) if broker in servers.BROKERS else {}
        it = mover(broker, stack, f'INSTALLED_APPS += ["django_q"]\n{CLUSTERS[broker]}', variables)
        it.workplace.manage("migrate", "-v0", environment=it.environment)
        it.ask(f"{QUEUE.format('first')}\n{DAILY}")
        former = it.begin("qcluster")
        former.wait_until(it.ran, "the first task")
        former.wait_until(lambda: it.ask(RESULTS) == "first", "its result")
        it.steps("qcluster.md", 1)
        it.environment = {**it.environment, "PID": str(former.popen.pid)}
        it.steps("qcluster.md", 2)
        former.wait_until_gone()
        it.ask("\n".join([QUEUE.format("second"), QUEUE.format("third"), DUE]))

        it.steps("existing.md", 1, 2, 3, 5)
        it.steps("qcluster.md", 4)
        settings = it.workplace.path / "mysite/settings.py"
        kept = settings.read_text()
        it.add("mysite/settings.py", 'Q_CLUSTER["name"] = "shop"\n')
        it.run("python manage.py check --database default")
        assert re.search(r"worker.W038\) Tasks wait in .*shop:eu", it.printed), it.printed
        settings.write_text(kept)
        it.steps("qcluster.md", 5, 6)
        assert it.worker
        it.worker.wait_until(lambda: len(it.ran()) == 4, "all tasks")
        it.worker.wait_until(lambda: it.ask(RESULTS) == "daily first second third", "their results")
        assert sorted(it.ran()) == ["daily", "first", "second", "third"]
        assert broker == "orm" or "Moved 2 tasks from django_q:shop:eu:q to " in it.worker.log()
        it.stop()


CELERY = {
    "mysite/celery.py": """
import os
from celery import Celery
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
app = Celery("mysite", broker=os.environ["REDIS_URL"])
app.autodiscover_tasks()
""",
    "mysite/__init__.py": "from mysite.celery import app\n",
    "shop/tasks.py": "from celery import shared_task\n\nnote = shared_task(name='shop.tasks.note')(note)\n",
}


def test_what_celery_holds_is_run_while_the_steps_of_the_page_are_done(
    mover: Callable[..., Mover], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(servers.redis(tmp_path))
        it = mover("orm", stack, "", {**server, "PYTHONPATH": str(tmp_path / "celery")})
        install: Command = [
            find_uv_bin(),
            "pip",
            "install",
            "-q",
            "--target",
            tmp_path / "celery",
            "celery[redis]>=5.7,<6",
        ]
        run(install, tmp_path, uv_environment(it.workplace.python))
        for name, text in CELERY.items():
            it.add(name, text)
        it.ask("from shop.tasks import note; note.delay('first'); note.delay('second')")
        it.steps("existing.md", 1, 2, 3, 4, 5, 6)
        it.steps("celery.md", 2)
        line: Command = [it.workplace.python, "-m", "celery", "-A", "mysite", "worker", "--concurrency=1"]
        celery = stack.enter_context(started("celery", line, it.workplace.path, it.environment, it.workplace.temporary))
        it.steps("celery.md", 3, 4)
        it.environment = {**it.environment, "PID": str(celery.popen.pid)}
        it.steps("celery.md", 5)
        celery.wait_until_gone()
        assert sorted(it.ran()) == ["first", "new", "second"]
        it.stop()
