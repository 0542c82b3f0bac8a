"""What is baked: the files of each combination, and that nothing in them shows where they come from."""

import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

from tests.combinations import CHOICES, CONTEXT, TEMPLATE, TREE, Combination, each_combination
from tests.projects import files

BASE = {
    ".answers.toml",
    ".dockerignore",
    ".env.example",
    ".github/dependabot.yml",
    ".github/workflows/ci.yml",
    ".gitignore",
    ".pre-commit-config.yaml",
    ".python-version",
    "Dockerfile",
    "Makefile",
    "Procfile",
    "AGENTS.md",
    "README.md",
    "config/__init__.py",
    "config/asgi.py",
    "config/settings.py",
    "config/urls.py",
    "config/wsgi.py",
    "conftest.py",
    "core/__init__.py",
    "core/admin.py",
    "core/apps.py",
    "core/forms.py",
    "core/migrations/0001_initial.py",
    "core/migrations/__init__.py",
    "core/models.py",
    "core/static/core/icon.svg",
    "core/static/core/start.js",
    "core/static/core/style.css",
    "core/tasks.py",
    "core/templates/403.html",
    "core/templates/403_csrf.html",
    "core/templates/404.html",
    "core/templates/500.html",
    "core/templates/core/base.html",
    "core/templates/core/start.html",
    "core/templates/core/stranger.html",
    "core/urls.py",
    "core/views.py",
    "manage.py",
    "pyproject.toml",
    "tests/__init__.py",
    "tests/test_pages.py",
    "tests/test_settings.py",
    "tests/test_tasks.py",
    "worker/README.md",
    "worker/__init__.py",
    "worker/admin.py",
    "worker/allowed.py",
    "worker/announcements.py",
    "worker/apps.py",
    "worker/broker/__init__.py",
    "worker/checks.py",
    "worker/cluster/__init__.py",
    "worker/cluster/after.py",
    "worker/cluster/agent.py",
    "worker/cluster/attempts.py",
    "worker/cluster/channels.py",
    "worker/cluster/child.py",
    "worker/cluster/due.py",
    "worker/cluster/forks.py",
    "worker/cluster/functions.py",
    "worker/cluster/hand_out.py",
    "worker/cluster/leases.py",
    "worker/cluster/listener.py",
    "worker/cluster/messages.py",
    "worker/cluster/orders.py",
    "worker/cluster/process.py",
    "worker/cluster/registration.py",
    "worker/cluster/results.py",
    "worker/cluster/rows.py",
    "worker/cluster/saving.py",
    "worker/cluster/schedules.py",
    "worker/cluster/scoreboard.py",
    "worker/cluster/supervisor.py",
    "worker/cluster/tallies.py",
    "worker/cluster/task_log.py",
    "worker/conf.py",
    "worker/delivery.py",
    "worker/development/__init__.py",
    "worker/development/debugger.py",
    "worker/development/reloader.py",
    "worker/django_tasks.py",
    "worker/enqueue.py",
    "worker/errors.py",
    "worker/failures.py",
    "worker/health.py",
    "worker/heartbeat.py",
    "worker/logs.py",
    "worker/management/__init__.py",
    "worker/management/commands/__init__.py",
    "worker/management/commands/health_check.py",
    "worker/management/commands/prodserver.py",
    "worker/management/commands/qcluster.py",
    "worker/management/commands/queue.py",
    "worker/management/commands/release.py",
    "worker/management/commands/schedules.py",
    "worker/manifest.json",
    "worker/manifest.py",
    "worker/migrations/0001_index_results.py",
    "worker/migrations/0002_lapse.py",
    "worker/migrations/0003_schedule_state.py",
    "worker/migrations/0004_failure.py",
    "worker/migrations/0005_index_queue.py",
    "worker/migrations/0006_signs_and_tallies.py",
    "worker/migrations/0007_queue.py",
    "worker/migrations/__init__.py",
    "worker/migrations/_beside.py",
    "worker/models.py",
    "worker/packages.py",
    "worker/policy.py",
    "worker/processes.py",
    "worker/queue/__init__.py",
    "worker/queue/actions.py",
    "worker/queue/cancel.py",
    "worker/queue/depths.py",
    "worker/queue/metrics.py",
    "worker/queue/overview.py",
    "worker/queue/page.py",
    "worker/queue/signs.py",
    "worker/queue/state.py",
    "worker/queue/text.py",
    "worker/queue/urls.py",
    "worker/recurrence.py",
    "worker/resubmit.py",
    "worker/results.py",
    "worker/retention.py",
    "worker/schedules.py",
    "worker/single_flight.py",
    "worker/static/worker/queue.css",
    "worker/static/worker/queue.js",
    "worker/tasks.py",
    "worker/templates/admin/queue/now.html",
    "worker/templates/admin/queue/page.html",
    "worker/templates/admin/queue/sure.html",
    "worker/templates/admin/queue/task.html",
    "worker/templatetags/__init__.py",
    "worker/templatetags/queue.py",
    "worker/testing/__init__.py",
    "worker/testing/commits.py",
    "worker/testing/in_process.py",
    "worker/testing/memory.py",
    "worker/testing/process.py",
    "worker/traces.py",
    "worker/trigger.py",
    "worker/web/__init__.py",
    "worker/web/gunicorn.py",
    "worker/web/http.py",
    "worker/web/middleware.py",
}  #: what every project has; what a choice adds is read from its folder

PARSERS: dict[str, Callable[[str], object]] = {
    ".json": json.loads,
    ".py": ast.parse,
    ".toml": tomllib.loads,
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".yml": lambda text: list(yaml.safe_load_all(text)),
}


def parse(project: Path) -> None:
    """Parse every file that a program will parse."""
    for name, path in files(project):
        if parser := PARSERS.get(path.suffix):
            try:
                parser(path.read_text())
            except (SyntaxError, ValueError, yaml.YAMLError) as error:
                pytest.fail(f"{name}: {error}")


def added_by(combination: Combination) -> set[str]:
    """Return the files that lie in the folders of the chosen variants."""
    return {
        name
        for question, choice in combination.answers.items()
        for name, _ in files(TREE / "_variants" / question / choice)
    }


@each_combination
def test_a_project_consists_of_these_files_and_no_others(combination: Combination, project: Path) -> None:
    assert {name for name, _ in files(project)} == BASE | added_by(combination)


@each_combination
def test_every_file_parses(project: Path) -> None:
    parse(project)


@each_combination
def test_every_file_is_tidy(project: Path) -> None:
    for name, path in files(project):
        text = path.read_text()
        assert not text or re.search(r"[^\n]\n\Z", text), f"{name} does not end with one newline"
        assert not re.search(r"[ \t\r]$", text, re.MULTILINE), f"{name} has trailing whitespace"
        prose = re.sub(r"^```python\n.*?^```$", "```", text, flags=re.MULTILINE | re.DOTALL)
        assert path.suffix == ".py" or "\n\n\n" not in prose, f"{name} has two blank lines in a row"


@each_combination
def test_nothing_shows_that_there_is_a_template(project: Path) -> None:
    for name, path in files(project):
        text = f"{name}\n{path.read_text()}"
        assert name in {"AGENTS.md", "worker/README.md"} or "cookiecutter" not in text.lower(), name
        assert path.suffix == ".html" or "{%" not in text, name


def words(broker: str) -> set[str]:
    """Return what only a project with this broker has reason to name: its title, packages and variables."""
    row = CONTEXT["_brokers"][broker]
    packages = {re.split(r"[^\w-]", requirement)[0] for requirement in row["packages"]}
    return {row["title"], *packages, *(variable["name"] for variable in row["environment"])}


def union(sets: Iterable[set[str]]) -> set[str]:
    """Return the union of sets."""
    return set().union(*sets)


@each_combination
def test_a_project_names_no_other_broker(combination: Combination, project: Path) -> None:
    foreign = union(map(words, CHOICES["broker"])) - words(combination.broker)
    pattern = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(foreign)), re.IGNORECASE)
    for name, path in files(project):
        assert not (found := pattern.search(path.read_text())), f"{name} names {found}"


def read_by_settings(project: Path) -> set[str]:
    """Return the variables for which settings.py asks `env`, number() or truth()."""
    return {
        node.args[0].value
        for node in ast.walk(ast.parse((project / "config/settings.py").read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).partition(".")[0] in {"env", "number", "truth"}
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


@each_combination
def test_the_example_of_an_environment_names_the_variables_that_are_read(
    combination: Combination, project: Path
) -> None:
    example = re.findall(r"^#?([A-Z][A-Z0-9_]*)=", (project / ".env.example").read_text(), re.MULTILINE)
    variables = combination.row["environment"]
    by_client = {variable["name"] for variable in variables if variable.get("read_by_client")}
    aliases = {alias for variable in variables for alias in variable.get("aliases", [])}
    assert sorted(example) == sorted((read_by_settings(project) | by_client) - aliases)


@each_combination
def test_the_readme_says_what_the_settings_say(combination: Combination, project: Path) -> None:
    readme, settings = (project / "README.md").read_text(), (project / "config/settings.py").read_text()
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", readme, re.MULTILINE))
    read = dict(re.findall(r"""(?:env\.\w+|number|truth)\("(\w+)", "?([\w:/.@-]+)"?[,)]""", settings))
    printed = {name: default.strip("`") for name, default in told.items() if re.fullmatch("`[^`]+`", default)}
    assert {"Q_WORKERS", *(it["name"] for it in combination.row["environment"] if "default" in it)} <= told.keys()
    assert {name: read[name].lower() for name in printed if name in read} == {
        name: default.lower() for name, default in printed.items() if name in read
    }
    assert [name for name, default in told.items() if default.startswith("see ")] == []
    places = re.findall(r"`(\w+)`\s+in\s+`([\w/.]+)`", readme)
    assert {name for name, _ in places} >= {"fail_under", "POLICY", "Q_SCHEDULE_MODULES"}
    assert [(name, file) for name, file in places if name not in (project / file).read_text()] == []


@each_combination
def test_what_a_project_takes_of_worker_is_promised(project: Path) -> None:
    promised = re.findall(r"`(worker\.[\w.]+)`", (project / "worker/README.md").read_text())
    taken = set()
    for name, path in files(project):
        if path.suffix == ".py" and not name.startswith("worker/"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.ImportFrom(module=str(module), names=names):
                        taken |= {f"{module}.{it.name}" for it in names}
                    case ast.Constant(value=str(text)) if re.fullmatch(r"[\w.]+", text):
                        taken.add(text)
    taken = {it for it in taken if it.startswith("worker.")}
    assert len(taken) > 15
    assert {it for it in taken if not any(f"{it}.".startswith(f"{name}.") for name in promised)} == set()


def test_no_condition_stands_in_the_project_tree() -> None:
    rendered_by_django = ".html"
    for name, path in files(TREE):
        if path.suffix not in {rendered_by_django, ".pyc"}:
            assert not re.search(r"{%[-+]?\s*(if|elif|else)\b", path.read_text()), name


def test_what_an_agent_reads_first_stays_short() -> None:
    for path, most in ((TEMPLATE / "AGENTS.md", 60), (TREE / "AGENTS.md", 60), (TREE / "worker/README.md", 80)):
        assert len(path.read_text().splitlines()) < most, path


def test_the_hooks_stay_short() -> None:
    assert sum(len(path.read_text().splitlines()) for _, path in files(TEMPLATE / "hooks")) < 45


def test_every_choice_is_explained() -> None:
    for question, choices in CHOICES.items():
        assert set(CONTEXT["__prompts__"][question]) == {"__prompt__", *choices}


def test_every_table_has_a_row_for_each_choice_of_a_question() -> None:
    tables = {key: set(value) for key, value in CONTEXT.items() if re.match("_[a-z]+s$", key)}
    assert tables
    for name, rows in tables.items():
        assert rows in map(set, CHOICES.values()), name


def test_every_variant_is_a_choice() -> None:
    for question in (TREE / "_variants").iterdir():
        assert {choice.name for choice in question.iterdir()} <= set(CHOICES[question.name])
