"""Every command in the pages runs in a test, or is marked as needing more than a project and this machine."""

import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests import servers
from tests.browser import HOST, Browser, Response, ask
from tests.combinations import CHOICES, COMBINATIONS, TEMPLATE, Combination, each
from tests.hostings import KUBECTL
from tests.interpreters import for_combination
from tests.processes import Command, Process, bare, free_port, run, started
from tests.projects import PRODUCTION, Workplace, uv_environment
from tests.test_examples import load
from tests.test_project_tests import newest
from tests.test_run import check_schedules, check_stranger, production

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCS = TEMPLATE / "docs"
CLOUD = "☁"  #: marks a line
FOLLOWS = "# What follows needs "  #: marks the rest of a block
INDENTED = re.compile(r"^    (docker|dokku|doctl|fly|git|heroku|kubectl|make|python|railway|uv) ", re.MULTILINE)

DIFFERENCE = "(cd .. && diff -ruN before/my_project after/my_project) > ../broker.patch || test $? -eq 1"

#: What other tests run or read: the file, and what shows it there. All else is run by test_what_is_not_marked_runs().
ELSEWHERE = {
    "make demo": ("tests/test_demo.py", '[MAKE, "demo", "ONCE=1"]'),
    "make run": ("scripts/demo.py", 'running("make", "run"'),
    "make test": (".ci/run", "step make test"),
    "uv run --script docs/upstream/fallback_keys.py": ("tests/test_upstream.py", "run([workplace.python, path]"),
    "make update-worker VERSION=1.1.0": ("tests/test_update.py", 'make("update-worker", '),
    "make update VERSION=1.1.0": ("tests/test_update.py", 'make("update", '),
    "make lint": ("tests/test_project_tests.py", '"make lint" in printed'),
    "uvx cookiecutter https://github.com/OWNER/cookiecutter-django-q2": (
        "tests/test_docs.py",
        "def test_the_template_is_used_as_the_readme_says",
    ),
    "docker compose up -d --build --wait": ("scripts/docker_check.py", '"up", "--detach", "--build", "--wait"'),
    "./deploy": ("scripts/docker_check.py", 'self.line("./deploy")'),
    "docker compose --env-file local.env up -d --build --wait": (
        "scripts/docker_check.py",
        'self.line("docker compose --env-file local.env up ")',
    ),
    "docker compose logs -f worker": ("scripts/docker_check.py", '"logs", "web", *self.workers'),
    "docker compose exec web python manage.py shell": ("scripts/docker_check.py", '"python", "manage.py", "shell"'),
    "docker compose exec worker python manage.py health_check worker": (
        "scripts/docker_check.py",
        '"python", "manage.py", "health_check", "worker"',
    ),
    "docker compose exec web python manage.py createsuperuser": (
        "scripts/docker_check.py",
        'self.line("docker compose exec web python manage.py createsuperuser")',
    ),
    "{": (
        "tests/test_docs.py",
        "def test_the_first_user_comes_in_through_the_proxy_of_the_page_and_no_stranger",
    ),
    "uvx cookiecutter -o ../before https://github.com/OWNER/cookiecutter-django-q2": (
        "tests/test_guides.py",
        "def test_the_broker_is_changed_as_the_page_says",
    ),
    "uvx cookiecutter -o ../after https://github.com/OWNER/cookiecutter-django-q2": (
        "tests/test_guides.py",
        "def test_the_broker_is_changed_as_the_page_says",
    ),
    DIFFERENCE: ("tests/test_guides.py", "DIFFERENCE"),
    "patch -p2 --dry-run < ../broker.patch": ("tests/test_guides.py", '"patch -p2 --dry-run < ../broker.patch"'),
    "patch -p2 < ../broker.patch": ("tests/test_guides.py", '"patch -p2 < ../broker.patch"'),
    "uv lock && uv sync": ("tests/test_guides.py", "environments.python("),
    "uv add sentry-sdk": ("tests/test_reports.py", "run `uv add sentry-sdk`"),
    "python manage.py queue retry --all --yes --function core.tasks.count_words": (
        "tests/test_incidents.py",
        'commands_of("Many tasks have failed")',
    ),
    "make lock": ("tests/test_docs.py", "def test_every_command_is_one_that_its_program_knows"),
    "from django.test import TestCase": ("tests/test_project_tests.py", 'startswith("from django.test")'),
    "from datetime import timedelta": (
        "tests/engine/test_schedules.py",
        "def test_what_the_readme_shows_can_be_declared",
    ),
    "from worker.tasks import exponential, task": (
        "tests/test_docs.py",
        "def test_the_code_in_the_readme_queues_a_task",
    ),
    "from core.tasks import count_words": ("tests/test_docs.py", "def test_the_code_in_the_readme_queues_a_task"),
    "scrape_configs:": ("tests/test_monitoring.py", 'block("scrape_configs")'),
    "- type: prometheus": ("tests/test_monitoring.py", 'block("type: prometheus")'),
    "components:": ("tests/test_kubernetes.py", 'kustomization["components"] = '),
}
#: What the programs are told in the pages, in blocks or within prose, as the reference of each has it. What is here of
#: them is asked itself: the project, make, uv and kubectl.
TOLD = {
    "cat": {">"},
    "cd": {"my_project"},
    "cp": {"-R"},
    "cruft": {"link", "update"},
    "diff": {"-ruN"},
    "docker": {
        "build",
        "compose --env-file local.env down",
        "compose --env-file local.env up",
        "compose exec",
        "compose logs",
        "compose pull",
        "compose run",
        "compose up",
        "push",
        "run",
    },
    "doctl": {
        "apps console",
        "apps create",
        "apps list",
        "apps logs",
        "apps spec get",
        "apps update",
        "databases create",
        "databases firewalls append",
    },
    "dokku": {
        "apps:create",
        "config:set",
        "domains:set",
        "letsencrypt:cron-job",
        "letsencrypt:enable",
        "letsencrypt:set",
        "logs",
        "mongo:create",
        "mongo:link",
        "nginx:set",
        "postgres:backup",
        "postgres:create",
        "postgres:link",
        "ps:scale",
        "ps:set",
        "ps:stop",
        "redis:create",
        "redis:link",
        "run",
    },
    "fly": {
        "apps create",
        "deploy",
        "launch",
        "logs",
        "mpg attach",
        "mpg create",
        "mpg list",
        "redis create",
        "releases",
        "scale count",
        "scale memory",
        "secrets set",
        "ssh console",
    },
    "git": {
        "add",
        "branch -m",
        "checkout",
        "clone",
        "commit",
        "diff",
        "fetch --unshallow",
        "init",
        "merge --abort",
        "merge --continue",
        "pull",
        "push",
        "remote add",
    },
    "heroku": {
        "addons:create",
        "addons:upgrade",
        "config:set",
        "create",
        "logs",
        "pg:info",
        "ps:scale",
        "rollback",
        "run",
    },
    "kill": {"-9", "-TERM"},
    "kubernetes/deploy": {""},
    "patch": {"-p2"},
    "pip": {"install uv"},
    "pipx": {"run cookiecutter"},
    "python3": {"-c"},
    "railway": {"config apply", "config plan", "domain", "init", "logs", "redeploy", "ssh"},
    "render": {"logs", "ssh"},
    "set": {"-C"},
    "uvx": {"cookiecutter"},
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
    return [project / "DEPLOY.md", DOCS / "hosting" / f"{hosting}.md"]


def guides() -> list[Path]:
    """Return the pages that tests/test_guides.py follows block by block."""
    pages = sorted(DOCS.rglob("*.md"))
    elsewhere = {"hosting", "migration"}  # whose projects are others
    return [page for page in pages if page.parent.name not in elsewhere and BLOCK.search(page.read_text())]


def readmes(project: Path) -> list[Path]:
    """Return all other pages."""
    own = [page for page in DOCS.rglob("*.md") if page.stem not in CHOICES["hosting"]]
    return [
        *TEMPLATE.glob("*.md"),
        *TEMPLATE.glob(".github/*.md"),
        *own,
        *(project / name for name in ("AGENTS.md", "README.md", "worker/README.md")),
    ]


@pytest.mark.parametrize("hosting", CHOICES["hosting"])
def test_what_is_not_marked_runs(hosting: str, bake: Callable[[Combination], Path], tmp_path: Path) -> None:
    combination = of_hosting(hosting)
    project = Path(shutil.copytree(bake(combination), tmp_path / "project"))
    upstream = "git init -q --bare -b main ../upstream.git && git remote add origin ../upstream.git"
    first, *others = pages_of(project, hosting)
    tagged = ["git tag THE_LAST_GOOD_TAG"]
    typed = [*unmarked(first), *tagged, *(command for page in others for command in unmarked(page))]
    to_run = ["git init -q -b main", upstream, *(it for it in typed if it not in ELSEWHERE)]
    environment = {
        **uv_environment(for_combination(combination)),
        **{f"GIT_{who}_{what}": "me@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "PATH": os.pathsep.join([str(Path(find_uv_bin()).parent), os.environ["PATH"]]),
    }
    for command in to_run:
        run(["bash", "-e", "-c", command], project, environment)
    committed = run(["git", "ls-tree", "--name-only", "main"], project, environment).split()
    assert {"config", "manage.py", "uv.lock"} <= set(committed)
    assert run(["git", "ls-files", "--others", "--exclude-standard"], project, environment) == ""


def test_the_other_pages_hold_only_what_is_seen_elsewhere(bake: Callable[[Combination], Path]) -> None:
    followed = {*guides(), *(DOCS / "migration").glob("*.md")}  # the latter by tests/test_migration.py
    for page in set(readmes(bake(COMBINATIONS[0]))) - followed:
        assert [command for command in unmarked(page) if command not in ELSEWHERE] == [], page


def test_what_is_seen_elsewhere_stands_in_a_page_and_is_seen(bake: Callable[[Combination], Path]) -> None:
    pages = readmes(bake(COMBINATIONS[0]))
    pages += [page for name in CHOICES["hosting"] for page in pages_of(bake(of_hosting(name)), name)]
    found = {command for page in pages for command in unmarked(page)}
    assert ELSEWHERE.keys() <= found
    for file, words in ELSEWHERE.values():
        assert words in (TEMPLATE / file).read_text(), f"{file} holds {words} no more"
    for page in pages:
        assert not INDENTED.search(page.read_text()), f"{page}: a command outside of a block"
        assert CLOUD not in page.read_text() or re.search(f"marked {CLOUD}\\s+needs", page.read_text()), page


def test_a_command_that_is_neither_marked_nor_seen_is_found() -> None:
    text = "a  # ☁\nb \\\n  c\ncat <<END\nd\nEND\n# e\nf\n# What follows needs an account.\ng\n"
    assert list(commands(text)) == ["b \\\n  c", "cat <<END\nd\nEND", "f"]


def test_each_promise_that_the_tests_name_is_listed() -> None:
    page = (DOCS / "reliability.md").read_text()
    listed = {int(it) for it in re.findall(r"^(\d+)\. ", page, re.MULTILINE)}
    named = {
        int(number)
        for it in re.findall(r"^### Promises? ([^:\n]+)", page, re.MULTILINE)
        for number in re.findall(r"\d+", it)
    }
    assert listed == set(range(1, 11)) >= named


# Commands that nothing here can run, and those within prose


def all_commands(page: Path) -> Iterator[str]:
    """Yield all commands of a page, marked or not: each line of a block, and what is one within prose."""
    text = page.read_text()
    lines = [line for kind, block in BLOCK.findall(text) if kind == "sh" for line in block.splitlines()]
    spans = [" ".join(it.split()) for it in re.findall(r"(?<!`)`([^`]+)`(?!`)", BLOCK.sub("", text) + "\n".join(lines))]
    for line in [*lines, *spans]:
        for command in re.split(r" && | \| | (?=railway config )", re.sub(r"\s+#.*", "", line)):
            if re.match(r"[a-z][\w./-]* [^=]|kubernetes/deploy$", command):
                yield command


class Judge:
    """Knows what each program can be told."""

    def __init__(self, workplace: Workplace) -> None:
        """Ask the project for its commands, and the Makefiles for their targets."""
        self.workplace = workplace
        makefiles = [TEMPLATE / "Makefile", workplace.path / "Makefile"]
        self.targets = {it for file in makefiles for it in re.findall(r"^([\w-]+):", file.read_text(), re.MULTILINE)}
        self.manage = set(workplace.manage("help", "--commands").split())
        self.used: set[tuple[str, str]] = set()

    def objection(self, command: str) -> str:
        """Return what is wrong with a command, if anything is."""
        program, _, rest = command.partition(" ")
        if unknown := set(re.findall(r"manage\.py (\w+)", command)) - self.manage:
            return f"there is no manage.py {unknown}"
        match program:
            case "make":
                return "" if rest.split()[0] in self.targets else "make has no such target"
            case "uv" | "kubectl":
                return "" if has_help(program, *rest.split()[:2]) else f"{program} knows no such command"
            case "python" | "manage.py":
                return "" if "manage.py" in command else "that is no command of the project"
        if program in self.manage:
            return ""
        told = [it for it in TOLD.get(program, ()) if f"{rest} ".startswith(f"{it} ") or it == rest]
        self.used |= {(program, it) for it in told}
        return "" if told else "no program is told this"


@cache
def has_help(program: str, *words: str) -> bool:
    """Say whether a program has a help for a command."""
    name = words[: 2 if words[0] in {"config", "create", "rollout"} else 1]
    path = find_uv_bin() if program == "uv" else KUBECTL
    done = subprocess.run([path, *name, "--help"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and f"{program} {' '.join(name)} " in done.stdout


@each("", lambda combination: iter([()]), COMBINATIONS[:1])
def test_every_command_is_one_that_its_program_knows(
    combination: Combination, workplace: Workplace, bake: Callable[[Combination], Path]
) -> None:
    judge = Judge(workplace)
    chosen = [it for it in COMBINATIONS if it.django_version == combination.django_version]
    # What a page says of several queues is the same with each broker.
    chosen = [it for it in chosen if combination.broker == it.broker or combination.queues == it.queues]
    projects = {bake(it): it.hosting for it in chosen}
    pages = {page for project, hosting in projects.items() for page in pages_of(project, hosting)}
    pages |= {page for project in projects for page in readmes(project)}
    wrong = {
        f"{page.name}: {command}: {objection}"
        for page in pages
        for command in all_commands(page)
        if (objection := judge.objection(command))
    }
    assert wrong == set()
    assert judge.used == {(program, it) for program, told in TOLD.items() for it in told}
    for slip in (
        "python manage.py createsuperusr",
        "make runn",
        "uv rum pytest",
        "kubectl rolout undo deployment/web",
        "kubectl rollout undu deployment/web",
        "dokku ps:start my-project",
        "docker compose exec web python manage.py shel",
        "flyctl deploy",
    ):
        assert judge.objection(slip), slip


# The proxy of the page for Docker, and the first user


class Visitor(Browser):
    """A browser that comes to the proxy by HTTPS; it claims otherwise, which must not count."""

    def __init__(self, port: int, authority: Path) -> None:
        """Trust this authority, and no other."""
        super().__init__(port)
        self.context = ssl.create_default_context(cafile=authority)

    def ask(self, method: str, path: str, headers: dict[str, str], body: str | None = None) -> Response:
        """Send a request, and keep the cookies of the answer."""
        cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in self.cookies.items())
        connection = http.client.HTTPSConnection(HOST, context=self.context)
        here = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sock = self.context.wrap_socket(here, server_hostname=HOST)
        try:
            connection.request(method, path, body, {"X-Forwarded-Proto": "http", "Cookie": cookies, **headers})
            answer = connection.getresponse()
            for cookie in answer.headers.get_all("Set-Cookie", []):
                self.cookies.load(cookie)
            return Response(answer.status, answer.headers["Location"], answer.read().decode())
        finally:
            connection.close()


@contextmanager
def caddy(block: str, folder: Path) -> Iterator[tuple[Visitor, int]]:
    """Start Caddy with a block of its configuration and certificates of its own; yield a visitor and the HTTP port."""
    ports = {"https": free_port(), "http": free_port()}
    data = folder / "caddy"
    data.mkdir()
    own = f"admin off\nlocal_certs\nskip_install_trust\nhttps_port {ports['https']}\nhttp_port {ports['http']}"
    assert block.startswith("{\n"), "the page's block begins with its options"
    (data / "Caddyfile").write_text(f"{{\n{own}\nstorage file_system {data}\n{block[2:]}")
    command: Command = [servers.program("caddy"), "run", "--config", "Caddyfile"]
    with started("caddy", command, data, bare(HOME=str(data))) as process:
        authority = data / "pki/authorities/local/root.crt"
        process.wait_until(authority.exists, "the authority's certificate")

        def visitor() -> Visitor | None:
            with suppress(OSError):
                it = Visitor(ports["https"], authority)
                return it if it.get("/livez").status == 200 else None
            return None

        yield process.wait_until(visitor, "an answer through the proxy"), ports["http"]


def caddyfile(project: Path, port: int = 8000, other: int = 8001) -> str:
    """Return the block that the page of a project has for Caddy, with the two ports of web."""
    (block,) = (text for kind, text in BLOCK.findall((project / "DEPLOY.md").read_text()) if kind == "caddyfile")
    return str(block).replace("127.0.0.1:8000 127.0.0.1:8001", f"127.0.0.1:{port} 127.0.0.1:{other}")


@each("", lambda combination: iter([()]), [it for it in COMBINATIONS if it.hosting == "docker"][:1])
def test_caddy_takes_the_block_of_the_page_as_it_is(combination: Combination, project: Path, tmp_path: Path) -> None:
    command: Command = [servers.program("caddy"), "adapt", "--validate", "--config", "Caddyfile"]
    for block, expect in ((caddyfile(project), 0), (caddyfile(project).replace("proxy", "proxi"), 1)):
        (tmp_path / "Caddyfile").write_text(block)
        run(command, tmp_path, bare(HOME=str(tmp_path)), expect)


@each("", lambda combination: iter([()]), [it for it in COMBINATIONS if it.hosting == "docker"][:1])
def test_the_first_user_comes_in_through_the_proxy_of_the_page_and_no_stranger(
    combination: Combination, workplace: Workplace
) -> None:
    servers.program("caddy")
    docker = load(TEMPLATE / "scripts" / "docker_check.py")
    ((_, command),) = (it.split(" web ") for it in ELSEWHERE if it.endswith("createsuperuser"))
    with (
        servers.sqlite(workplace.temporary) as database,
        production(workplace, dict(database)) as site,
        caddy(caddyfile(workplace.path, site.port, free_port()), workplace.temporary) as (visitor, port),
    ):
        assert f":{site.port}" in (workplace.temporary / "caddy/Caddyfile").read_text()
        screen = docker.typed(command.split(), docker.FIRST_USER, workplace.path, site.variables)
        assert "Superuser created successfully." in screen
        assert docker.SECRET not in screen
        redirect = ask(port, "GET", "/admin/", {"Host": HOST, "X-Forwarded-Proto": "https"})
        assert (redirect.status, redirect.location) == (308, f"https://{HOST}/admin/")
        check_stranger(visitor)
        assert visitor.log_in(docker.FIRST_USER["Username"], docker.SECRET).status == 302
        assert "Site administration" in visitor.get("/admin/").text
        assert "<form" in visitor.get("/").text
        check_schedules(visitor)


ANSWER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@each("", lambda combination: iter([()]), [it for it in COMBINATIONS if it.hosting == "docker"][:1])
def test_the_proxy_of_the_page_goes_over_to_a_new_version_without_a_gap(
    combination: Combination, project: Path, tmp_path: Path
) -> None:
    ports = {"8000": free_port(), "8001": free_port()}
    block = caddyfile(project, *ports.values())
    servers.program("caddy")
    with ExitStack() as stack:

        def start(port: str, text: str) -> Process:
            command: Command = [sys.executable, "-c", ANSWER, str(ports[port]), text]
            return stack.enter_context(started(f"version-{text}", command, tmp_path, os.environ))

        old = start("8000", "1")
        visitor, _ = stack.enter_context(caddy(block, tmp_path))
        assert visitor.get("/").text == "1"
        new = start("8001", "2")
        seen = new.wait_until(lambda: visitor.get("/").text == "2", "a visitor of the new version")
        assert seen
        old.stop()
        assert {(it.status, it.text) for it in (visitor.get("/") for _ in range(50))} == {(200, "2")}


def test_the_template_is_used_as_the_readme_says(tmp_path: Path) -> None:
    page = (TEMPLATE / "README.md").read_text()
    assert "`.venv/bin/python -m cookiecutter -o .. .`" in page  # in a clone
    environment = {**os.environ, "HOME": str(tmp_path), "PWD": str(tmp_path)}
    printed = run([sys.executable, "-m", "cookiecutter", "-o", tmp_path, TEMPLATE, "--no-input"], tmp_path, environment)
    following = printed.partition("Next:\n\n")[2]
    assert following.split("\n    ")[-1] == "make run\n"
    run(["sh", "-e", "-c", following.replace("make run", "make --dry-run run")], tmp_path, environment)
    assert run(["git", "symbolic-ref", "HEAD"], tmp_path / "my_project", environment) == "refs/heads/main\n"
    assert "`git init -b main`" in page
    told: Command = [sys.executable, "-m", "cookiecutter", "-o", tmp_path, TEMPLATE, "--no-input", "broker=redis"]
    printed = run([*told, "project_slug=other"], tmp_path, environment)
    assert printed.endswith("    make run\n\nIt needs redis: see README.md\n")


def readme_code(project: Path, word: str) -> str:
    """Return the Python in a project's README that has a word in it."""
    blocks = BLOCK.findall((project / "README.md").read_text())
    (code,) = (text for kind, text in blocks if kind == "python" and word in text)
    return str(code)


SHOW = """
from django_q.brokers import get_broker
from django_q.models import Task
print(get_broker().queue_size(), [task.result for task in Task.objects.filter(func="core.tasks.count_words")])
"""


@each("", lambda combination: iter([()]), COMBINATIONS[:1])
def test_the_code_in_the_readme_queues_a_task(combination: Combination, workplace: Workplace) -> None:
    code = readme_code(workplace.path, "count_words.enqueue")
    tasks = workplace.path / "core/tasks.py"
    tasks.write_text(f"{tasks.read_text()}\n{readme_code(workplace.path, 'exponential')}")
    environment = {**PRODUCTION, "DATABASE_URL": f"sqlite:///{workplace.temporary / 'database.sqlite3'}"}
    workplace.manage("migrate", "-v0", environment=environment)
    printed = workplace.manage("shell", "-v0", "-c", f"{code}\n{SHOW}", environment=environment)
    assert printed.split()[-2:] == ["1", "[]"]


@each("", lambda combination: iter([()]), [newest("redis")])
def test_the_outbox_in_the_readme_loses_nothing(combination: Combination, workplace: Workplace) -> None:
    for file, word in (("models", "class Outgoing"), ("tasks", "send_outgoing")):
        path = workplace.path / f"core/{file}.py"
        imported = "from django.db import models\n" if file == "models" else ""
        path.write_text(f"{path.read_text()}\n{imported}{readme_code(workplace.path, word)}")
    away = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0", "Q_QUIET": "1", "DEBUG": "true"}
    environment = {**away, "DATABASE_URL": f"sqlite:///{workplace.temporary / 'database.sqlite3'}"}
    workplace.manage("makemigrations", "-v0", "core", environment=environment)
    for command in ("migrate", "createcachetable", "schedules"):
        workplace.manage(command, "-v0", environment=environment)
    (create,) = re.findall(r"`(Outgoing\.objects\.create.*)` then", (workplace.path / "README.md").read_text())
    due = "from django.utils import timezone\nfrom django_q.models import Schedule\n"
    due += "assert Schedule.objects.update(next_run=timezone.now()) >= 1\n"
    write = f"from core.models import Outgoing\nfrom core.tasks import count_words\n{create}\n{due}"
    workplace.manage("shell", "-v0", "--no-imports", "-c", write, environment=environment)
    with servers.broker(combination, workplace) as queue:
        there = {**environment, **queue}
        serve: Command = [workplace.python, "manage.py", "prodserver", "worker"]
        with started("worker", serve, workplace.path, workplace.environment(there), workplace.temporary) as it:
            it.wait_until(
                lambda: "[3]" in workplace.manage("shell", "-v0", "-c", SHOW, environment=there) or None, "result"
            )
            it.stop()
