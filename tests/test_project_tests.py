"""The project's own tests pass, by the steps of its GitHub workflow and by its Makefile, with a new app as without."""

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from uv import find_uv_bin

from tests import servers
from tests.combinations import CHOICES, COMBINATIONS, Combination, each, version
from tests.processes import DEADLINE, Environment, free_port, run
from tests.projects import Workplace, uv_environment
from tests.test_demo import Terminal
from tests.workflows import addresses, only_job, run_steps

MANAGE = "uv run python manage.py"  #: as README has it
DJANGO = os.environ.get("TESTS_DJANGO", "")  #: the version to test with, "" for the newest that runs on this Python
SECONDS = 30  #: that `make test` may take, once its packages are there


def newest(broker: str) -> Combination:
    """Return the broker's first combination with the Django that was asked for, else the newest for this Python."""
    usable = [
        it
        for it in COMBINATIONS
        if it.broker == broker and (it.django_version == DJANGO if DJANGO else it.python <= sys.version_info[:2])
    ]
    if not usable:
        pytest.exit(f"TESTS_DJANGO is {DJANGO!r}: write {' or '.join(CHOICES['django_version'])}.", returncode=2)
    return max(usable, key=lambda combination: version(combination.django_version))


def all_passed(printed: str) -> bool:
    """Say whether pytest has passed tests, and skipped none."""
    return bool(re.search(r"\b[1-9]\d* passed", printed)) and not re.search(r"\b[1-9]\d* skipped", printed)


@each("", lambda combination: iter([()]), [newest(broker) for broker in CHOICES["broker"]])
def test_its_workflow_passes(combination: Combination, workplace: Workplace, interpreter: Path) -> None:
    job = only_job(workplace.path)
    with servers.database("postgresql", workplace.temporary) as database:
        assert job["env"].keys() == addresses(job).keys() == database.keys()  # in the place of containers
        environment = {**uv_environment(interpreter), **database, "TMPDIR": str(workplace.temporary)}
        printed = run_steps(job, workplace.path, environment, workplace.temporary)
    assert "make lint" in printed
    assert all_passed(printed["make test"]), printed["make test"]


@each("", lambda combination: iter([()]), [newest(broker) for broker in CHOICES["broker"]])
def test_make_test_takes_seconds_where_nothing_is_set(
    combination: Combination, workplace: Workplace, interpreter: Path
) -> None:
    uv = os.pathsep.join([str(Path(find_uv_bin()).parent), os.environ["PATH"]])
    environment: Environment = {**uv_environment(interpreter), "PATH": uv, "TMPDIR": str(workplace.temporary)}
    run(["make", "install"], workplace.path, environment)
    refused = run(["make", "check"], workplace.path, {**environment, "Q_WORKERS": "two"}, expect=2)
    assert "Q_WORKERS is 'two': write a whole number, 1 or more.\n" in refused
    assert "Traceback" not in refused
    begun = time.monotonic()
    printed = run(["make", "test"], workplace.path, environment)
    assert time.monotonic() - begun < SECONDS
    assert all_passed(printed), printed
    assert "warning" not in printed.splitlines()[-1], printed
    (covered,) = re.findall(r"Total coverage: ([\d.]+)%", printed)
    assert float(covered) > 95, printed  # so that the first lines without a test do not fail it


# A new app


#: Of an app `blog`, in the place where Django's own documentation puts tests.
BLOG_TESTS = """
from django.test import TestCase
import warnings
from django.conf import settings
from django.contrib.staticfiles import finders
from django.template.loader import get_template
from django_q.tasks import async_task

class BlogTest(TestCase):
    def test_it(self) -> None:
        warnings.warn_explicit('It is old.', DeprecationWarning, 'elsewhere.py', 1, module='elsewhere')
        get_template("site.html")
        with self.assertRaises(LookupError):
            settings.LOCALE_PATHS[1]
        self.assertTrue(finders.find('site.css'))
        self.assertEqual( settings.LOCALE_PATHS, [settings.BASE_DIR / 'locale'])
        async_task('time.sleep', 0)
"""
of_each_django = [
    next(it for it in COMBINATIONS if it.django_version == django) for django in CHOICES["django_version"]
]


def recipe(project: Path, target: str) -> list[str]:
    """Return what a target of the Makefile runs by uv."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)*)", (project / "Makefile").read_text(), re.MULTILINE)
    return re.findall(r"^\tuv run (.*)", lines.replace("$$", "$"), re.MULTILINE)


def start_blog(workplace: Workplace) -> None:
    """Type what somebody types who begins with an app, and with folders for the whole site."""
    workplace.manage("startapp", "blog", environment={"DEBUG": "true"})
    settings = workplace.path / "config/settings.py"
    settings.write_text(settings.read_text().replace('    "core",\n', '    "blog",\n    "core",\n'))
    for name in ("templates/site.html", "static/site.css", "locale/de/LC_MESSAGES/django.po"):
        (workplace.path / name).parent.mkdir(parents=True)
        (workplace.path / name).touch()


@each("", lambda combination: iter([()]), of_each_django)
def test_a_new_app_is_clean_tested_and_in_the_image(combination: Combination, workplace: Workplace) -> None:
    start_blog(workplace)
    lint = recipe(workplace.path, "lint")
    assert len(lint) == 4
    for command in lint:
        cache = ("--cache-dir", str(workplace.python.parent.parent / "mypy_cache")) * command.startswith("mypy")
        workplace.run(*command.split(), *cache, environment={"DEBUG": "true"})
    (workplace.path / "blog/tests.py").write_text(BLOG_TESTS)
    readme = (workplace.path / "README.md").read_text()
    (example,) = (
        it for it in re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL) if "TestCase" in it
    )
    assert example.startswith("from django.test")
    (workplace.path / "blog/test_tasks.py").write_text(example)
    (workplace.path / "templates/site.html").write_text("<div>\n<p>A page.</p>\n</div>\n")
    for command in [*recipe(workplace.path, "format"), *lint[:3]]:
        run(["sh", "-c", command], workplace.path, workplace.environment({"DEBUG": "true"}))
    printed = workplace.run("pytest", "-k", "BlogTest or TasksTest", environment={"DEBUG": "true"})
    assert re.search(r" 2 passed, .* 1 warning", printed), printed
    check_context(workplace.path)


def check_context(project: Path) -> None:
    """Check what the builder of an image is given: all folders of the site, and no secret that lies about."""
    secrets = [
        ".env",
        ".git/config",
        ".venv/bin/python",
        "db.sqlite3",
        "key.pem",
        "blog/.env",
        "blog/__pycache__/a.pyc",
    ]
    for name in secrets:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    (project / "uv.lock").touch()
    rules = [line for line in (project / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    given = {name for name in exclude_paths(str(project), rules) if (project / name).is_file()}
    given -= {"Dockerfile", ".dockerignore"}  # which the engine is sent in any case
    assert {name.partition("/")[0] for name in given} == {
        *("blog", "config", "core", "locale", "static", "templates", "worker"),
        *("manage.py", "pyproject.toml", "uv.lock"),
    }
    assert given >= {"blog/models.py", "blog/migrations/__init__.py", "locale/de/LC_MESSAGES/django.po"}
    assert not given & set(secrets)


# What `make` does


def test_make_alone_lists_its_targets(bake: Callable[[Combination], Path]) -> None:
    project = bake(COMBINATIONS[0])
    targets = re.findall(r"^([a-z-]+):", (project / "Makefile").read_text(), re.MULTILINE)
    printed = run(["make"], project, os.environ)
    assert re.findall(r"^  make ([\w-]+)\t\w+", printed, re.MULTILINE) == [
        name for name in targets if name not in {"help", "install"}
    ]


def test_the_readme_needs_no_virtual_environment_for_any_command(bake: Callable[[Combination], Path]) -> None:
    commands = re.findall(r"`([^`]*manage\.py [^`]*)`", (bake(COMBINATIONS[0]) / "README.md").read_text())
    assert f"{MANAGE} check" in commands
    assert [command for command in commands if not command.startswith(MANAGE)] == []


@each("", lambda combination: iter([()]), [newest("sqs")])
def test_make_run_needs_no_server_and_a_ctrl_c_gives_tasks_back(
    combination: Combination, workplace: Workplace, interpreter: Path
) -> None:
    uv = os.pathsep.join([str(Path(find_uv_bin()).parent), os.environ["PATH"]])
    environment = {**uv_environment(interpreter), "PATH": uv, "TMPDIR": str(workplace.temporary)}
    environment["PORT"] = str(free_port())
    example = (workplace.path / ".env.example").read_text()
    (workplace.path / ".env").write_text(example.replace("localhost:5566", f"localhost:{free_port()}"))
    nap = "from django_q.tasks import async_task; async_task('time.sleep', 60, timeout=90)"
    terminal = Terminal("make run", workplace.path, environment)
    try:
        terminal.read_until(r"Q Cluster \w+ \[\w+\] running", DEADLINE)
        run([*MANAGE.split(), "shell", "-c", nap], workplace.path, environment)
        terminal.read_until("processing .* 'time.sleep'", DEADLINE)
        terminal.press_ctrl_c()
        shown = terminal.read_until(r"worker.1 +stopped|worker.1 stopped", DEADLINE)
        assert "sending SIGKILL" not in shown
        assert "Gave 1 tasks back" in shown
        assert "does not answer" not in shown.partition("SIGINT received")[2], shown
        assert terminal.shell.wait(DEADLINE) in {0, -signal.SIGINT}
    finally:
        terminal.close()


@each("", lambda combination: iter([()]), [newest("sqs")])
def test_a_port_that_is_taken_is_named(combination: Combination, workplace: Workplace) -> None:
    makefile = (workplace.path / "Makefile").read_text().replace("$$", "$")
    (command,) = re.findall(r"\.venv/bin/(.*) > /dev/null &", makefile)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (workplace.path / ".env").write_text(f"AWS_ENDPOINT_URL_SQS=http://localhost:{port}\n")
        printed = run(["sh", "-c", command], workplace.path, workplace.environment({}), expect=1)
    assert f"Port {port} is in use by another program." in printed
