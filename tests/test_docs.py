"""Every command in the pages runs in a test, or is marked as needing more than a project and this machine."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.combinations import CHOICES, COMBINATIONS, TEMPLATE, Combination, each
from tests.interpreters import for_combination
from tests.processes import run
from tests.projects import PRODUCTION, Workplace, uv_environment

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLOUD = "☁"  #: marks a line
FOLLOWS = "# What follows needs "  #: marks the rest of a block
INDENTED = re.compile(r"^    (docker|dokku|doctl|fly|git|heroku|kubectl|make|python|railway|uv) ", re.MULTILINE)

#: What other tests run or read: the file, and what shows it there. All else is run by test_what_is_not_marked_runs().
ELSEWHERE = {
    "make demo": ("tests/test_demo.py", '[MAKE, "demo", "ONCE=1"]'),
    "make run": ("scripts/demo.py", 'running("make", "run"'),
    "make test": (".ci/run", "step make test"),
    "make lint": ("tests/test_project_tests.py", '"make lint" in printed'),
    "cookiecutter https://github.com/OWNER/cookiecutter-django-q2": (
        "tests/test_docs.py",
        "def test_the_template_is_used_as_the_readme_says",
    ),
    "docker compose up -d --build --wait": ("scripts/docker_check.py", '"up", "--detach", "--build", "--wait"'),
    "docker compose run --build --rm migrate && docker compose up -d --wait web && docker compose up -d --wait": (
        "scripts/docker_check.py",
        "^docker compose run --build .*",
    ),
    "docker compose logs -f worker": ("scripts/docker_check.py", '"logs", "web", *self.workers'),
    "docker compose exec web python manage.py shell": ("scripts/docker_check.py", '"python", "manage.py", "shell"'),
    "docker compose exec worker python manage.py health_check worker": (
        "scripts/docker_check.py",
        '"python", "manage.py", "health_check", "worker"',
    ),
    "docker compose up -d --build --wait web worker": (
        "scripts/docker_check.py",
        '"up", "-d", "--build", "--wait", *self',
    ),
    "from functools import partial": ("tests/test_docs.py", "def test_the_code_in_the_readme_queues_a_task"),
    "components:": ("tests/test_kubernetes.py", 'kustomization["components"] = '),
}
#: What nothing runs: it would need a proxy, or a keyboard.
UNSEEN = {
    "docker compose exec web python manage.py createsuperuser",
    "www.example.com {",
}


def commands(text: str) -> Iterator[str]:
    """Yield the commands of a block that are not marked, each with its further lines."""
    lines = iter(text.partition(FOLLOWS)[0].splitlines())
    for line in lines:
        if not line or line.startswith("#") or CLOUD in line:
            continue
        command, end = line, re.search(r"<<(\w+)$", line)
        while command.endswith("\\") or (end and not command.endswith(f"\n{end[1]}")):
            command += "\n" + next(lines)
        yield command


def unmarked(page: Path) -> list[str]:
    """Return the commands of a page that are not marked, and the first line of each other block."""
    found = []
    for kind, text in BLOCK.findall(page.read_text()):
        found += list(commands(text)) if kind == "sh" else [text.partition("\n")[0]]
    return found


def of_hosting(hosting: str) -> Combination:
    """Return a combination with as many variables that the user must give as there are."""
    return next(it for it in COMBINATIONS if it.hosting == hosting and it.broker == "sqs")


def pages_of(project: Path, hosting: str) -> list[Path]:
    """Return the pages that somebody reads who deploys a project."""
    return [project / "DEPLOY.md", TEMPLATE / "docs/hosting" / f"{hosting}.md"]


def readmes(project: Path) -> list[Path]:
    """Return all other pages."""
    own = list(TEMPLATE.glob("docs/*.md"))
    return [
        TEMPLATE / "README.md",
        TEMPLATE / "CHANGELOG.md",
        *TEMPLATE.glob(".github/*.md"),
        *own,
        project / "README.md",
    ]


@pytest.mark.parametrize("hosting", CHOICES["hosting"])
def test_what_is_not_marked_runs(hosting: str, bake: Callable[[Combination], Path], tmp_path: Path) -> None:
    combination = of_hosting(hosting)
    project = Path(shutil.copytree(bake(combination), tmp_path / "project"))
    upstream = "git init -q --bare -b main ../upstream.git && git remote add origin ../upstream.git"
    begin = ["git init -q -b main", upstream, "git add .", "git commit -q -m Begin", "git tag THE_LAST_GOOD_TAG"]
    typed = [command for page in pages_of(project, hosting) for command in unmarked(page)]
    to_run = [*begin, "git push -q -u origin main", *(it for it in typed if it not in {*ELSEWHERE, *UNSEEN})]
    environment = {
        **uv_environment(for_combination(combination)),
        **{f"GIT_{who}_{what}": "me@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "PATH": os.pathsep.join([str(Path(find_uv_bin()).parent), os.environ["PATH"]]),
    }
    for command in to_run:
        run(["bash", "-e", "-c", command], project, environment)
    assert "uv.lock" in run(["git", "ls-tree", "--name-only", "main"], project, environment)


def test_the_other_pages_hold_only_what_is_seen_elsewhere(bake: Callable[[Combination], Path]) -> None:
    for page in readmes(bake(COMBINATIONS[0])):
        assert [command for command in unmarked(page) if command not in ELSEWHERE] == [], page


def test_what_is_seen_elsewhere_stands_in_a_page_and_is_seen(bake: Callable[[Combination], Path]) -> None:
    pages = readmes(bake(COMBINATIONS[0]))
    pages += [page for name in CHOICES["hosting"] for page in pages_of(bake(of_hosting(name)), name)]
    found = {command for page in pages for command in unmarked(page)}
    assert {*ELSEWHERE, *UNSEEN} <= found
    for file, words in ELSEWHERE.values():
        assert words in (TEMPLATE / file).read_text(), f"{file} holds {words} no more"
    for page in pages:
        assert not INDENTED.search(page.read_text()), f"{page}: a command outside of a block"
        assert CLOUD not in page.read_text() or re.search(f"marked {CLOUD}\\s+needs", page.read_text()), page


def test_a_command_that_is_neither_marked_nor_seen_is_found() -> None:
    text = "a  # ☁\nb \\\n  c\ncat <<END\nd\nEND\n# e\nf\n# What follows needs an account.\ng\n"
    assert list(commands(text)) == ["b \\\n  c", "cat <<END\nd\nEND", "f"]


def test_the_template_is_used_as_the_readme_says(tmp_path: Path) -> None:
    (command,) = (it.split() for it in unmarked(TEMPLATE / "README.md") if it.startswith("cookiecutter "))
    program = Path(sys.executable).parent / command[0]
    environment = {"HOME": str(tmp_path), "PATH": os.defpath}
    run([program, TEMPLATE, "--no-input"], tmp_path, environment)  # in the place of its address
    assert (tmp_path / "my_project/manage.py").exists()


@each("", lambda combination: iter([()]), COMBINATIONS[:1])
def test_the_code_in_the_readme_queues_a_task(combination: Combination, workplace: Workplace) -> None:
    ((_, code),) = (it for it in BLOCK.findall((workplace.path / "README.md").read_text()) if it[0] == "python")
    environment = {**PRODUCTION, "DATABASE_URL": f"sqlite:///{workplace.temporary / 'database.sqlite3'}"}
    workplace.manage("migrate", "-v0", environment=environment)
    count = "from django_q.brokers import get_broker\nprint(get_broker().queue_size())"
    printed = workplace.manage("shell", "-v0", "-c", f"{code}\n{count}", environment=environment)
    assert printed.split()[-1] == "1"
