"""Projects that were not made by the template move to it, by the steps of docs/migration/, and lose nothing."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import pytest
from uv import find_uv_bin

from tests import servers
from tests.combinations import CHOICES, COMBINATIONS, Combination
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
        elif command == "uv remove django-q":
            self.environment = {key: value for key, value in self.environment.items() if key != "PYTHONPATH"}
        elif command.startswith("uv add 'django>="):
            assert self.ask("import django; print(django.__version__)").startswith(f"{command[16:19]}.")
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

    def keep_settings(self) -> Environment:
        """Keep the settings as they are, and return the environment of a process that began with them."""
        shutil.copy(self.workplace.path / "mysite/settings.py", self.workplace.path / "mysite/former.py")
        return {**self.environment, "DJANGO_SETTINGS_MODULE": "mysite.former"}

    def ran(self) -> list[str]:
        """Return what has run, in its order."""
        file = self.workplace.path / "ran.txt"
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def mover(bake: Callable[[Combination], Path], environments: Environments, tmp_path: Path) -> Callable[..., Mover]:
    """Return a function that makes a project which is to take a broker, in the environment of that broker."""

    def make(
        broker: str,
        stack: ExitStack,
        settings: str = "",
        variables: Environment = MappingProxyType({}),
        packages: Sequence[str] = (),
        django: str = "5.2",
    ) -> Mover:
        combination = next(it for it in COMBINATIONS if (it.broker, it.django_version) == (broker, django))
        folder, temporary = tmp_path / "a place" / "site", tmp_path / "temporary"
        folder.mkdir(parents=True)
        temporary.mkdir()
        python = environments.python(bake(combination), for_combination(combination))
        if packages:  # beside those of the project, or in their place
            beside = tmp_path / "beside"
            install: Command = [find_uv_bin(), "pip", "install", "-q", "--target", beside, *packages]
            run(install, tmp_path, uv_environment(python))
            variables = {**variables, "PYTHONPATH": str(beside)}
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
QUEUE_ROW = """
from django.contrib.auth.models import Group
from django_q.tasks import async_task
async_task("shop.tasks.note", Group(name="third"))
"""
DAILY = """
from datetime import timedelta
from django.utils import timezone
from django_q.tasks import schedule
schedule("shop.tasks.note", "daily", next_run=timezone.now() + timedelta(days=1), schedule_type="D")
"""
DUE = "from django_q.models import Schedule; from django.utils import timezone; "
DUE += "Schedule.objects.update(next_run=timezone.now())"
RESULTS = "from django_q.models import Success; print(*sorted(str(it.result) for it in Success.objects.all()))"


@pytest.mark.parametrize("broker", CLUSTERS)
@pytest.mark.parametrize("package", ["django-q", "django-q2"])
def test_what_a_qcluster_leaves_is_run_after_the_steps_of_the_page(
    package: str, broker: str, mover: Callable[..., Mover], tmp_path: Path
) -> None:
    original = package == "django-q"
    packages = ["django-q==1.3.9", "django>=4.2,<4.3", "setuptools<81"] if original else []
    with ExitStack() as stack:
        variables = stack.enter_context(servers.BROKERS[broker](tmp_path)) if broker in servers.BROKERS else {}
        it = mover(broker, stack, f'INSTALLED_APPS += ["django_q"]\n{CLUSTERS[broker]}', variables, packages)
        former_web = it.keep_settings()
        it.workplace.manage("migrate", "-v0", environment=it.environment)
        it.ask(f"{QUEUE.format('first')}\n{DAILY}")
        former = it.begin("qcluster")
        former.wait_until(it.ran, "the first task")
        former.wait_until(lambda: it.ask(RESULTS).endswith("first"), "its result")
        it.steps("qcluster.md", 1)
        it.environment = {**it.environment, "PID": str(former.popen.pid)}
        it.steps("qcluster.md", 2)
        former.wait_until_gone()
        it.ask("\n".join([QUEUE.format("second"), QUEUE_ROW, DUE]))

        if original:
            it.steps("django-q.md", 3)
        it.steps("existing.md", 1, 2, 3, 5)
        it.steps("qcluster.md", 4)
        settings = it.workplace.path / "mysite/settings.py"
        kept = settings.read_text()
        it.add("mysite/settings.py", 'Q_CLUSTER["name"] = "shop"\n')
        it.run("python manage.py check --database default")
        assert re.search(r"worker.W038\) Tasks wait in .*shop:eu", it.printed), it.printed
        settings.write_text(kept)
        it.steps("qcluster.md", 5, 6)
        expected = ["daily", "first", "second", "third"]
        if broker == "orm":  # over Redis that may take a minute
            it.workplace.manage("shell", "-c", QUEUE.format("web"), environment=former_web)
            expected.append("web")
        assert it.worker
        it.worker.wait_until(lambda: len(it.ran()) == len(expected), "all tasks")
        it.worker.wait_until(lambda: it.ask(RESULTS).split() == expected, "their results")
        assert sorted(it.ran()) == expected
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
        it = mover("orm", stack, "", server, ["celery[redis]>=5.7,<6"])
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


RQ = """
import os
INSTALLED_APPS += ["django_rq"]
RQ_QUEUES = {"default": {"URL": os.environ["REDIS_URL"]}}
"""
QUEUE_IN_RQ = """
from datetime import timedelta
import django_rq
from shop.tasks import note
note.delay("first")
queue = django_rq.get_queue("default")
queue.enqueue("shop.tasks.note", "second")
queue.enqueue_in(timedelta(days=30), note, word="later")
"""
LATER = "from django_q.models import OrmQ; from django.utils import timezone; "
LATER += "print(OrmQ.objects.filter(lock__gt=timezone.now()).update(lock=timezone.now()))"


def test_what_rq_holds_is_run_while_the_steps_of_the_page_are_done(mover: Callable[..., Mover], tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(servers.redis(tmp_path))
        it = mover("orm", stack, RQ, server, ["django-rq>=4.2,<5", "rq>=3,<4", "django>=5.2,<5.3"])
        it.add("shop/tasks.py", "from django_rq import job\n\nnote = job('default')(note)\n")
        it.ask(QUEUE_IN_RQ)
        it.steps("existing.md", 1, 2, 3, 4, 5, 6)
        it.steps("rq.md", 2)
        rq = it.begin("rqworker", "--with-scheduler", "default")
        it.steps("rq.md", 3, 4, 5)
        it.environment = {**it.environment, "PID": str(rq.popen.pid)}
        it.steps("rq.md", 6)
        rq.wait_until_gone()
        assert sorted(it.ran()) == ["first", "new", "second"]
        assert it.ask(LATER) == "1"
        assert it.worker
        it.worker.wait_until(lambda: "later" in it.ran(), "what was for later")
        it.stop()


TASKS_DB = """
INSTALLED_APPS += ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
"""
QUEUE_IN_TASKS_DB = """
from datetime import timedelta
from django.utils import timezone
from django_tasks_db.models import DBTaskResult
from shop.tasks import note
note.enqueue(word="second")
note.using(priority=5).enqueue("first")
note.using(run_after=timezone.now() + timedelta(days=30)).enqueue("later")
DBTaskResult.objects.filter(id=note.enqueue("cut").id).update(status="RUNNING")
"""


@pytest.mark.parametrize("django", CHOICES["django_version"])
def test_what_django_tasks_db_holds_is_moved_by_the_steps_of_the_page(
    django: str, mover: Callable[..., Mover], tmp_path: Path
) -> None:
    tasks = "django.tasks" if django > "6" else "django_tasks"
    packages = ["django-tasks-db>=0.13,<0.14", f"django=={django}.*", *([] if django > "6" else ["django-tasks<0.13"])]
    with ExitStack() as stack:
        it = mover("orm", stack, TASKS_DB, packages=packages, django=django)
        it.add("shop/tasks.py", f"from {tasks} import task\n\nnote = task()(note)\n")
        former_web = it.keep_settings()
        it.workplace.manage("migrate", "-v0", environment=it.environment)
        it.ask("from shop.tasks import note; note.enqueue('done')")
        former = it.begin("db_worker")
        former.wait_until(it.ran, "the first task")
        it.environment = {**it.environment, "PID": str(former.popen.pid)}
        it.steps("existing.md", 1, 2, 3, 4, 5, 6)
        it.add("mysite/settings.py", 'Q_CLUSTER["workers"] = 1\n')  # so that the order can be seen
        it.steps("django-tasks-db.md", 3)
        former.wait_until_gone()
        it.workplace.manage("shell", "-c", QUEUE_IN_TASKS_DB, environment=former_web)
        it.steps("django-tasks-db.md", 4)
        assert it.worker
        it.worker.wait_until(lambda: it.ran() == ["done", "first", "second"], "what waited")
        it.type('move("RUNNING")')
        it.worker.wait_until(lambda: "cut" in it.ran(), "what ran")
        assert it.ask(LATER) == "1"
        it.worker.wait_until(lambda: "later" in it.ran(), "what was for later")
        it.steps("django-tasks-db.md", 5)
        it.stop()
