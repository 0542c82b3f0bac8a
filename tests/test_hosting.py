"""Each platform's files: judged by the strictest schemas that there are, and read back for what they have in common."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.combinations import CHOICES, COMBINATIONS, CONTEXT, TEMPLATE, Combination, each
from tests.hostings import FILES, READERS, load, objections, settings
from tests.processes import Command, bare, run
from tests.projects import python_of
from tests.test_examples import load as load_script

Bake = Callable[[Combination], Path]

HEADINGS = [
    "What you need",
    "Deploy",
    "Scale",
    "Logs",
    "A shell",
    "Roll back",
    "What a deploy does to running tasks",
    "Limits",
    "Costs that surprise",
]
PROGRAMS = Path(sys.executable).parent

#: One Django: none of these files knows which there is.
ANY_DJANGO = [combination for combination in COMBINATIONS if combination.django_version == CHOICES["django_version"][0]]


def chosen(**answers: str) -> list[Combination]:
    """Return the combinations with these answers."""
    return [each for each in ANY_DJANGO if answers.items() <= each.answers.items()]


@each("", lambda combination: iter([()]), ANY_DJANGO)
def test_its_files_are_right_and_agree(combination: Combination, project: Path) -> None:
    assert list(objections(project, combination)) == []


def test_every_hosting_is_judged() -> None:
    assert READERS.keys() == FILES.keys() == set(CHOICES["hosting"])


@pytest.mark.parametrize("broker", CHOICES["broker"])
def test_the_python_of_a_project_does_not_depend_on_its_hosting(broker: str, bake: Bake) -> None:
    # So costly tests of it are shared, and who moves to another platform brings their code along as it is.
    assert len({python_of(bake(combination)) for combination in chosen(broker=broker, queues="single")}) == 1


def test_no_window_is_longer_than_its_platform_grants() -> None:
    most = {"heroku": 30, "render": 300, "fly": 300, "digitalocean": 600}
    for hosting, row in CONTEXT["_hostings"].items():
        assert row["stop_window"] <= row.get("slow_stop_window", row["stop_window"]) <= most.get(hosting, 10**6), (
            hosting
        )


@pytest.mark.parametrize("queues", CHOICES["queues"])
def test_a_container_takes_no_more_of_the_machine_than_its_share(queues: str, bake: Bake) -> None:
    services = load(bake(chosen(hosting="docker", queues=queues)[0]) / "compose.yaml")["services"]
    for service in services.values():
        assert {"mem_limit", "pids_limit"} <= service.keys()
        if "manage.py" in service.get("command", ()):
            assert all(":size=" in it for it in service["tmpfs"])


@dataclass(frozen=True)
class Broken:
    """A slip that somebody could make in a file."""

    hosting: str
    file: str
    old: str
    new: str
    broker: str = "redis"

    def __str__(self) -> str:
        """Return the test's id."""
        return f"{self.hosting}: {self.new.strip() or 'without ' + self.old.strip()}"


BASE = "kubernetes/base"
BROKEN = [
    Broken("docker", "compose.yaml", "service_completed_successfully", "completed"),
    Broken("docker", "compose.yaml", "stop_grace_period: 90s", "stop_grace: 90s"),
    Broken("docker", "compose.yaml", "stop_grace_period: 90s", "stop_grace_period: 80s"),
    Broken("docker", "compose.yaml", 'Q_GRACE: "85"', 'Q_GRACE: "90"'),
    Broken("docker", "compose.yaml", "restart: unless-stopped", "restart: on-failure"),
    Broken("heroku", "app.json", '"formation"', '"healthchecks": {}, "formation"'),
    Broken("heroku", "app.json", '"size": "basic"', '"size": "Basic"'),
    Broken(
        "heroku", "app.json", '"ALLOWED_HOSTS": {', '"CSRF_TRUSTED_ORIGINS": {"description": "x"}, "ALLOWED_HOSTS": {'
    ),
    Broken("heroku", "app.json", '"generator": "secret"', '"value": "abc"'),
    Broken("heroku", "Procfile", "release: python manage.py release", "release: python manage.py migrate"),
    Broken("heroku", "config/settings.py", '"Q_GRACE", 25', '"Q_GRACE", 30'),
    Broken("heroku", "config/settings.py", '"Q_TIMEOUT", Q_GRACE', '"Q_TIMEOUT", 60'),
    Broken("heroku", "config/settings.py", "str(Q_GRACE)", '"60"'),
    Broken("render", "render.yaml", "maxShutdownDelaySeconds: 90", "maxShutdownDelaySeconds: 900"),
    Broken("render", "render.yaml", "maxShutdownDelaySeconds: 90", "maxShutdownDelaySeconds: 60"),
    Broken("render", "render.yaml", "preDeployCommand", "preDeploycommand"),
    Broken("render", "render.yaml", "plan: starter", "plan: free"),
    Broken("render", "render.yaml", "type: worker", "type: background"),
    Broken("render", "render.yaml", "healthCheckPath: /livez", "healthCheckPath: /readyz"),
    Broken("render", "render.yaml", "generateValue: true", "value: secret"),
    Broken("render", "render.yaml", "maxmemoryPolicy: noeviction", "maxmemoryPolicy: allkeys-lru"),
    Broken("render", "render.yaml", 'value: "85"', 'value: "90"'),
    Broken("fly", "fly.toml", 'kill_signal = "SIGTERM"', 'kill_signal = "SIGINT"'),
    Broken("fly", "fly.toml", "kill_timeout = 300", "kill_timeout = 301"),
    Broken("fly", "fly.toml", "kill_timeout = 300", "kill_timout = 300"),
    Broken("fly", "fly.toml", 'Q_GRACE = "295"', 'Q_GRACE = "310"'),
    Broken("fly", "fly.toml", 'policy = "always"', 'policy = "on-failure"'),
    Broken("fly", "fly.toml", 'wait_timeout = "10m"', 'wait_timeout = "5m"'),
    Broken("fly", "fly.toml", 'auto_stop_machines = "off"', "auto_stop_machines = false"),
    Broken("fly", "fly.toml", 'PORT = "8000"', 'PORT = "8000"\nSECRET_KEY = "abc"'),
    Broken("fly", "fly.toml", 'path = "/livez"', 'path = "/readyz"'),
    Broken("railway", ".railway/railway.py", '"drainingSeconds": 90', '"drainingSeconds": "90"'),
    Broken("railway", ".railway/railway.py", '"drainingSeconds": 90', '"drainingSeconds": 60'),
    Broken("railway", ".railway/railway.py", '"drainingSeconds": 90', '"drainSeconds": 90'),
    Broken("railway", ".railway/railway.py", '"ALWAYS"', '"ON_FAILURE"'),
    Broken("railway", ".railway/railway.py", "shared.SECRET_KEY", '"abc"'),
    Broken("railway", ".railway/railway.py", "[database, broker, web", "[database, web"),
    Broken("railway", ".railway/railway.py", 'preDeploy="python', 'predeploy="python'),
    Broken("dokku", "app.json", '"path": "/readyz"', '"path": "/readyz", "uptime": 5'),
    Broken("dokku", "app.json", '"attempts"', '"atempts"'),
    Broken("dokku", "app.json", '"value": "85"', '"value": "95"'),
    Broken("dokku", "app.json", '"worker": { "quantity": 1 }', '"wroker": { "quantity": 1 }'),
    Broken("dokku", "DEPLOY.md", "stop-timeout-seconds 90", "stop-timeout 90"),
    Broken("dokku", "DEPLOY.md", "restart-policy always", "restart-policy on-failure"),
    Broken("digitalocean", ".do/app.yaml", "kind: PRE_DEPLOY", "kind: BEFORE_DEPLOY"),
    Broken("digitalocean", ".do/app.yaml", "grace_period_seconds: 90", "grace_period_seconds: 900"),
    Broken("digitalocean", ".do/app.yaml", "grace_period_seconds: 90", "grace_period_seconds: 60"),
    Broken("digitalocean", ".do/app.yaml", "http_port", "httpport"),
    Broken("digitalocean", ".do/app.yaml", "engine: VALKEY", "engine: REDIS"),
    Broken("digitalocean", ".do/app.yaml", "production: true", "production: false"),
    Broken("digitalocean", ".do/app.yaml", "cluster_name: my-project-broker", ""),
    Broken("digitalocean", ".do/app.yaml", "name: my-project", "name: my_project"),
    Broken("digitalocean", ".do/app.yaml", "type: SECRET", "value: abc"),
    Broken("kubernetes", f"{BASE}/worker.yaml", "PeriodSeconds: 90", "PeriodSeconds: 80"),
    Broken("kubernetes", f"{BASE}/worker.yaml", "prodserver, worker", "qcluster"),
    Broken("kubernetes", f"{BASE}/web.yaml", "terminationGracePeriodSeconds: 90", "terminationGracePeriod: 90"),
    Broken("kubernetes", f"{BASE}/web.yaml", "seconds: 5 #", "seconds: 11 #"),
    Broken("kubernetes", f"{BASE}/kustomization.yaml", "Q_GRACE=75", "Q_GRACE=85"),
    Broken("kubernetes", f"{BASE}/kustomization.yaml", "Q_GRACE=75", "Q_GRACE=60"),
    Broken("kubernetes", f"{BASE}/kustomization.yaml", "Q_TIMEOUT=70", "Q_TIMEOUT=80"),
    Broken("kubernetes", f"{BASE}/migrate.yaml", "manage.py, release", "manage.py, migrate"),
    Broken("kubernetes", "config/settings.py", "str(Q_GRACE)", '"80"'),
]


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_a_slip_is_seen(broken: Broken, bake: Bake, tmp_path: Path) -> None:
    combination = chosen(hosting=broken.hosting, broker=broken.broker, queues="single")[0]
    project = Path(shutil.copytree(bake(combination), tmp_path / "project"))
    text = (project / broken.file).read_text()
    assert broken.old in text
    (project / broken.file).write_text(text.replace(broken.old, broken.new))
    assert list(objections(project, combination)) != []


@pytest.mark.parametrize("queues", CHOICES["queues"])
def test_honcho_takes_the_procfile(queues: str, bake: Bake) -> None:
    project = bake(chosen(queues=queues)[0])
    said = run([PROGRAMS / "honcho", "check"], project, bare())
    assert "Valid procfile detected" in said
    assert "release, web, worker" in said


def test_honcho_finds_no_process_in_a_broken_procfile(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("release python manage.py release\n")
    assert "release" not in run([PROGRAMS / "honcho", "check"], tmp_path, bare())


def test_hadolint_has_no_objection_to_the_dockerfile(bake: Bake, tmp_path: Path) -> None:
    hadolint: Command = [PROGRAMS / "hadolint", "--failure-threshold", "warning", "Dockerfile"]
    run(hadolint, bake(ANY_DJANGO[0]), bare())
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /app && apt-get install curl\n")
    run(hadolint, tmp_path, bare(), expect=1)


def test_the_dockerfile_suits_all_builders(bake: Bake) -> None:
    # Railway and Kaniko refuse --mount, Dokku would serve on the port of EXPOSE, and ENTRYPOINT means something else
    # on each platform.
    instructions = (bake(ANY_DJANGO[0]) / "Dockerfile").read_text()
    assert not re.search(r"--mount|^(EXPOSE|ENTRYPOINT|HEALTHCHECK|STOPSIGNAL)", instructions, re.MULTILINE)


@pytest.mark.parametrize(
    ("combination", "folder"),
    [
        (combination, folder)
        for hosting, folder in {"railway": ".railway", "digitalocean": ".do"}.items()
        for combination in chosen(hosting=hosting)
    ],
    ids=str,
)
def test_the_programs_for_platforms_are_tidy(combination: Combination, folder: str, bake: Bake) -> None:
    project = bake(combination)
    for command in (["format", "--check"], ["check"]):
        run([PROGRAMS / "ruff", *command, "--no-cache", "--config", "pyproject.toml", folder], project, bare())


def test_the_program_for_railway_prints_nothing_but_what_the_cli_asks_for(bake: Bake) -> None:
    # As the CLI runs it: what comes out must be JSON.
    project = bake(chosen(hosting="railway", broker="mongodb", queues="fast_and_slow")[0])
    ask = "import json, runpy; print(json.dumps(runpy.run_path('.railway/railway.py')['main']().to_graph()))"
    printed = json.loads(run([sys.executable, "-c", ask], project, bare()))
    assert [it["name"] for it in printed["resources"]] == ["postgres", "mongo", "web", "worker", "worker-slow"]
    assert printed["resources"][2]["variables"]["MONGODB_URL"]["output"] == "MONGO_URL"


@pytest.mark.parametrize("combination", chosen(hosting="digitalocean"), ids=str)
def test_the_button_of_digitalocean_deploys_the_same(combination: Combination, bake: Bake) -> None:
    app = load(bake(combination) / ".do/app.yaml")
    wrapped = load(bake(combination) / ".do/deploy.template.yaml")["spec"]
    for component in [*app["services"], *app["workers"], *app["jobs"]]:
        del component["github"]
    for component in [*wrapped["services"], *wrapped["workers"], *wrapped["jobs"]]:
        assert component.pop("git")["branch"] == "main"
    assert wrapped == app


#: Each breaks what is put into YAML, or into a program's text, as it is.
AWKWARD = """p&a|s's \\1 "w" : #$HOME{{ \U0001f511 }}"""


def test_secrets_are_added_to_the_app_of_digitalocean_on_their_way(bake: Bake, tmp_path: Path) -> None:
    project = bake(chosen(hosting="digitalocean", broker="sqs")[0])
    names = ["SECRET_KEY", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    answers = dict.fromkeys(names, AWKWARD) | {"SECRET_KEY": ""}
    asked = {f"{name} (Enter makes one up)" if name == "SECRET_KEY" else name: text for name, text in answers.items()}
    printed = tmp_path / "spec.json"
    here = ': < "$(tty)"; '  # so that there is a /dev/tty, at which it asks
    ask = here + '"$0" .do/spec.py > "$1"'
    typed = load_script(TEMPLATE / "scripts/docker_check.py").typed
    shown = typed(["sh", "-c", ask, sys.executable, printed], asked, project)
    assert AWKWARD not in shown
    spec = yaml.safe_load(printed.read_text())
    found = {entry["key"]: entry.pop("value") for entry in spec["envs"] if entry.get("type") == "SECRET"}
    assert len(found["SECRET_KEY"]) > 50
    assert found == {**answers, "SECRET_KEY": found["SECRET_KEY"]}
    assert spec == load(project / ".do/app.yaml")
    # The next time they come from the app itself, and are not asked for.
    again = run(["sh", "-c", '"$0" .do/spec.py < "$1"', sys.executable, printed], project, bare())
    assert again == printed.read_text()
    (tmp_path / "empty").touch()
    lacking = typed(
        ["sh", "-c", here + '"$0" .do/spec.py < "$1" || true', sys.executable, tmp_path / "empty"],
        {**dict.fromkeys(asked, "x"), "AWS_REGION": ""},
        project,
    )
    assert "AWS_REGION has no value: type it, or take it out of .do/app.yaml." in lacking


def test_no_page_puts_a_value_into_a_file_by_a_pattern(bake: Bake) -> None:
    # In the place of a pattern, & and \\1 mean something, and YAML reads : # ' " as it likes.
    for combination in chosen(queues="single"):
        for page in (bake(combination) / "DEPLOY.md", TEMPLATE / f"docs/hosting/{combination.hosting}.md"):
            assert not re.search(r"^\s*(sed|perl|awk)\b", page.read_text(), re.MULTILINE), page


@pytest.mark.parametrize("combination", chosen(hosting="digitalocean"), ids=str)
def test_the_clusters_that_the_app_of_digitalocean_wants_are_created_before(
    combination: Combination, bake: Bake
) -> None:
    project = bake(combination)
    databases = load(project / ".do/app.yaml")["databases"]
    wanted = {entry["cluster_name"]: entry["engine"] for entry in databases if "cluster_name" in entry}
    typed = (project / "DEPLOY.md").read_text().partition("doctl apps create")[0]
    created = re.findall(r"^doctl databases create (\S+) --engine (\S+) --region (\S+?)\d ", typed, re.MULTILINE)
    assert {name: engine.upper() for name, engine, _ in created} == wanted
    assert {region for *_, region in created} <= {load(project / ".do/app.yaml")["region"]}


def test_the_service_of_dokku_gives_access_to_the_database_that_the_project_uses(bake: Bake) -> None:
    # Its plugin makes a user who may use one database: that of the service's name, with its dashes made underscores.
    project = bake(chosen(hosting="dokku", broker="mongodb")[0])
    (name,) = re.findall(r"^dokku mongo:create (\S+)$", (project / "DEPLOY.md").read_text(), re.MULTILINE)
    assert name.replace("-", "_") == settings(project, {})["Q_CLUSTER"]["mongo_db"]


def test_what_docker_keeps_secret_stays_out_of_git_and_of_the_image(bake: Bake) -> None:
    project = bake(chosen(hosting="docker")[0])
    compose = (project / "compose.yaml").read_text()
    for name in re.findall(r"ENV_FILE:-([\w.]+)", compose):
        assert f"\n{name}\n" in (project / ".gitignore").read_text()
        assert f"cat > {name}) <<END" in (project / "DEPLOY.md").read_text()
    assert not re.search(r"\$\{(?!ENV_FILE|PORTS|COMPOSE_PROJECT_NAME)", compose), (
        "it would be read from a developer's .env"
    )


@pytest.mark.parametrize("broker", CHOICES["broker"])
def test_the_mode_without_tls_is_none_in_which_to_deploy(broker: str, bake: Bake) -> None:
    project = bake(chosen(hosting="docker", broker=broker)[0])
    variables = dict(re.findall(r"^(\w+)=(.*)$", (project / "local.env").read_text(), re.MULTILINE))
    assert variables["DEBUG"] == "true"  # which `release` refuses
    assert variables["COMPOSE_PROJECT_NAME"] != load(project / "compose.yaml")["name"]
    assert "ALLOWED_HOSTS" not in variables
    local = load(project / "compose.local.yaml")["services"]
    assert "release" not in " ".join(local["migrate"]["command"])
    for name, service in load(project / "compose.yaml")["services"].items():
        assert ("127.0.0.1:" in str(service["ports"])) if name == "web" else ("ports" not in service)


def test_no_page_has_a_platform_look_for_a_server_on_itself(bake: Bake) -> None:
    for combination in chosen(queues="single"):
        page = (bake(combination) / "DEPLOY.md").read_text()
        for address in re.findall(r"^.*[A-Z]_URL='?\w+://\S+", page, re.MULTILINE):
            assert "localhost" not in address, f"{combination}: {address}"


def test_render_waits_for_checks_only_where_they_run(bake: Bake) -> None:
    # Where nothing runs .github/workflows, no commit has a check that passes, and so none is ever deployed.
    project = bake(chosen(hosting="render")[0])
    services = [it for it in load(project / "render.yaml")["services"] if "autoDeployTrigger" in it]
    assert {it["autoDeployTrigger"] for it in services} == {"checksPass"}
    for page in (project / "DEPLOY.md", TEMPLATE / "docs/hosting/render.md", TEMPLATE / "cookiecutter.json"):
        assert not re.search("gitlab|bitbucket", page.read_text(), re.IGNORECASE), page


def headings(page: Path) -> list[str]:
    """Return the headings below a page's title."""
    return re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)


def test_every_hosting_has_a_page_with_the_same_headings() -> None:
    pages = {page.stem: headings(page) for page in (TEMPLATE / "docs/hosting").glob("*.md") if page.stem != "index"}
    assert pages == dict.fromkeys(CHOICES["hosting"], HEADINGS)


def test_every_page_tells_the_windows_of_its_row() -> None:
    for hosting, row in CONTEXT["_hostings"].items():
        page = (TEMPLATE / f"docs/hosting/{hosting}.md").read_text()
        told = page.partition("## What a deploy does")[2].partition("\n## ")[0]
        numbers = set(map(int, re.findall(r"\d+", told)))
        for window in (row["stop_window"], row.get("slow_stop_window", row["stop_window"])):
            minutes = window // 60 if window > 600 else window
            assert numbers & {window, minutes}, f"{hosting}: {window}"


def test_every_project_says_how_to_deploy_it_under_the_same_headings(bake: Bake) -> None:
    common = ["The first time", "Each time after", "What to know"]
    for combination in COMBINATIONS:
        if combination.broker == CHOICES["broker"][0]:
            found = headings(bake(combination) / "DEPLOY.md")
            assert [heading for heading in found if heading in common] == common, combination
            assert (found[0], found[-1]) == (common[0], common[-1]), combination


@pytest.mark.parametrize("hosting", READERS)
def test_no_file_of_a_hosting_names_a_broker(hosting: str) -> None:
    names = "|".join([*CHOICES["broker"], *(row["title"] for row in CONTEXT["_brokers"].values())])
    for path in (TEMPLATE / "{{cookiecutter.project_slug}}/_variants/hosting" / hosting).rglob("*"):
        if path.is_file():
            assert not (found := re.search(rf"\b({names})\b", path.read_text(), re.IGNORECASE)), f"{path}: {found}"
