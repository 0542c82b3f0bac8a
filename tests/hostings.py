"""What the files of each hosting say, read back in one form, and what the strictest judges have to object to them."""

import json
import os
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import check_jsonschema
import yaml
from jsonschema.validators import validator_for

from tests.combinations import CONTEXT, Combination
from tests.processes import bare, run

SCHEMAS = Path(__file__).parent / "schemas"
COMPOSE = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor/compose-spec.json"
KUBECTL = Path(sys.executable).with_name("kubectl")
RELEASE = "python manage.py release"
MARGIN = 5  #: seconds between the end of Q_GRACE and the kill
#: Where there may be more: all processes read one Q_GRACE, and only those of web wait before they are told to stop.
MOST_MARGIN = {"kubernetes": 15}
ALWAYS = "always"


@dataclass(frozen=True)
class Described:
    """A process, as the files of a hosting describe it."""

    command: str
    window: int  #: seconds until SIGKILL, from SIGTERM on or from the pause ahead of it
    environment: Mapping[str, str] = field(default_factory=dict)  #: what the files set to a plain text
    restart: str = ALWAYS
    pause: int = 0  #: seconds of the window that have passed when SIGTERM comes


@dataclass(frozen=True)
class Deployment:
    """All processes, what runs before them, and where the key that they share comes from."""

    processes: Mapping[str, Described]
    release: str
    keys: frozenset[str]  #: the sources of SECRET_KEY: one, if all processes share it


def load(path: Path) -> Any:
    """Return what a file says, as the platform would read it."""
    match path.suffix:
        case ".json":
            return json.loads(path.read_text())
        case ".toml":
            return tomllib.loads(path.read_text())
        case ".py":  # railway.py; the CLI calls main() without arguments, too
            return runpy.run_path(str(path))["main"]().to_graph()
        case _:
            return yaml.safe_load(path.read_text())


def own_window(combination: Combination, name: str) -> int:
    """Return what the hosting's row says that a process is granted."""
    row = CONTEXT["_hostings"][combination.hosting]
    slow = name.startswith("worker-") and "slow_stop_window" in row
    return int(row["slow_stop_window" if slow else "stop_window"])


def procfile(project: Path) -> dict[str, str]:
    """Return the commands of the Procfile."""
    lines = (project / "Procfile").read_text().splitlines()
    return {name: command.strip() for name, _, command in (line.partition(":") for line in lines)}


def docker(project: Path, combination: Combination) -> Deployment:
    """Read compose.yaml."""
    services = load(project / "compose.yaml")["services"]
    own = {name: service for name, service in services.items() if "manage.py" in service.get("command", ())}
    starts = {name: " ".join(service["command"]) for name, service in own.items()}
    return Deployment(
        {
            name: Described(
                command,
                int(services[name]["stop_grace_period"].removesuffix("s")),
                {key: value for key, value in services[name]["environment"].items() if value and "$" not in value},
                {"unless-stopped": ALWAYS}.get(services[name]["restart"], services[name]["restart"]),
            )
            for name, command in starts.items()
            if command != RELEASE
        },
        next(command for name, command in starts.items() if name == "migrate"),
        frozenset(file for service in own.values() for file in service["env_file"] if "production" in file),
    )


def heroku(project: Path, combination: Combination) -> Deployment:
    """Read Procfile and app.json; nothing but the settings' own defaults says what a stop leaves."""
    commands = procfile(project)
    release = commands.pop("release")
    app = load(project / "app.json")
    processes = {name: Described(command, own_window(combination, name)) for name, command in commands.items()}
    assert app["formation"].keys() == processes.keys()
    return Deployment(processes, release, frozenset([app["env"]["SECRET_KEY"]["generator"]]))


def render(project: Path, combination: Combination) -> Deployment:
    """Read render.yaml."""
    blueprint = load(project / "render.yaml")
    groups = {group["name"]: group["envVars"] for group in blueprint["envVarGroups"]}
    prefix = combination.distribution + "-"
    processes, keys = {}, set()
    services = [service for service in blueprint["services"] if service["type"] in {"web", "worker"}]
    for service in services:
        of_group = [variable for entry in service["envVars"] for variable in groups.get(entry.get("fromGroup"), [])]
        variables = {entry["key"]: entry for entry in [*of_group, *service["envVars"]] if "key" in entry}
        keys |= {entry["fromGroup"] for entry in service["envVars"] if "fromGroup" in entry}
        plain = {key: entry["value"] for key, entry in variables.items() if "value" in entry}
        processes[service["name"].removeprefix(prefix)] = Described(
            service["dockerCommand"], service["maxShutdownDelaySeconds"], plain
        )
    return Deployment(processes, services[0]["preDeployCommand"], frozenset(keys))


def fly(project: Path, combination: Combination) -> Deployment:
    """Read fly.toml."""
    app = load(project / "fly.toml")
    patience = int(app["deploy"]["wait_timeout"].removesuffix("m")) * 60
    assert patience > app["kill_timeout"], "a deploy fails that waits for a long task"
    restart = {name: entry["policy"] for entry in app["restart"] for name in entry["processes"]}
    return Deployment(
        {
            name: Described(command, app["kill_timeout"], app["env"], restart.get(name, "on-failure"))
            for name, command in app["processes"].items()
        },
        app["deploy"]["release_command"],
        frozenset(["a secret of the app"]),
    )


def railway(project: Path, combination: Combination) -> Deployment:
    """Evaluate .railway/railway.py."""
    graph = load(project / ".railway/railway.py")
    services = {resource["name"]: resource for resource in graph["resources"] if resource["type"] == "service"}
    addresses = {resource["address"] for resource in graph["resources"]}
    processes = {}
    for name, service in services.items():
        variables = service["variables"]
        plain = {key: value.get("value", "") if isinstance(value, dict) else value for key, value in variables.items()}
        wired = {value["resource"] for value in variables.values() if isinstance(value, dict) and "resource" in value}
        assert wired <= addresses, "a variable refers to nothing"
        deploy = service["deploy"]
        processes[name] = Described(
            deploy["startCommand"],
            deploy["drainingSeconds"],
            {key: value for key, value in plain.items() if value},
            deploy["restartPolicyType"].lower(),
        )
    keys = frozenset(service["variables"]["SECRET_KEY"]["name"] for service in services.values())
    return Deployment(processes, services["web"]["deploy"]["preDeployCommand"][0], keys)


def dokku(project: Path, combination: Combination) -> Deployment:
    """Read Procfile, app.json, and the commands of DEPLOY.md, where Dokku has no file for what they set."""
    commands = procfile(project)
    release = commands.pop("release")
    app = load(project / "app.json")
    assert app["formation"].keys() == app["healthchecks"].keys() == commands.keys()
    page = (project / "DEPLOY.md").read_text()
    window = re.search(r"^dokku ps:set \S+ stop-timeout-seconds (\d+)$", page, re.MULTILINE)
    restart = re.search(r"^dokku ps:set \S+ restart-policy (\S+)$", page, re.MULTILINE)
    environment = {name: entry["value"] for name, entry in app["env"].items() if "value" in entry}
    processes = {
        name: Described(
            command, int(window[1]) if window else 30, environment, restart[1] if restart else "on-failure:10"
        )
        for name, command in commands.items()
    }
    return Deployment(processes, release, frozenset([app["env"]["SECRET_KEY"]["generator"]]))


def digitalocean(project: Path, combination: Combination) -> Deployment:
    """Read .do/app.yaml."""
    app = load(project / ".do/app.yaml")
    common = {entry["key"]: entry["value"] for entry in app["envs"] if "${" not in entry.get("value", "${")}
    return Deployment(
        {
            component["name"]: Described(
                component["run_command"],
                component["termination"]["grace_period_seconds"],
                {**common, **{entry["key"]: entry["value"] for entry in component.get("envs", [])}},
            )
            for component in [*app["services"], *app["workers"]]
        },
        app["jobs"][0]["run_command"],
        frozenset(entry["key"] for entry in app["envs"] if entry["key"] == "SECRET_KEY"),
    )


def kustomize(folder: Path, expect: int = 0) -> str:
    """Return what kubectl makes of a folder."""
    return run([KUBECTL, "kustomize", folder], folder, bare(HOME=str(folder)), expect)


def kubernetes(project: Path, combination: Combination) -> Deployment:
    """Read what kustomize makes of kubernetes/overlays/production."""
    objects = list(yaml.safe_load_all(kustomize(project / "kubernetes/overlays/production")))
    (data,) = (it["data"] for it in objects if it["kind"] == "ConfigMap")
    (release,) = (it["spec"]["template"]["spec"]["containers"][0]["command"] for it in objects if it["kind"] == "Job")
    processes, keys = {}, set()
    for it in objects:
        if it["kind"] != "Deployment":
            continue
        pod = it["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        own = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        keys |= {source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source}
        processes[it["metadata"]["name"]] = Described(
            " ".join(container["command"]),
            pod["terminationGracePeriodSeconds"],
            {**data, **own},
            pod.get("restartPolicy", "Always").lower(),
            container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0),
        )
    return Deployment(processes, " ".join(release), frozenset(keys))


READERS: dict[str, Callable[[Path, Combination], Deployment]] = {
    reader.__name__: reader for reader in (docker, heroku, render, fly, railway, dokku, digitalocean, kubernetes)
}
#: Each file of a hosting, and the schema that judges it.
FILES: dict[str, dict[str, Path]] = {
    "docker": {"compose.yaml": COMPOSE, "compose.local.yaml": COMPOSE},
    "heroku": {"app.json": SCHEMAS / "heroku.yaml"},
    "render": {"render.yaml": SCHEMAS / "render.yaml"},
    "fly": {"fly.toml": SCHEMAS / "fly.yaml"},
    "railway": {".railway/railway.py": SCHEMAS / "railway.yaml"},
    "dokku": {"app.json": SCHEMAS / "dokku.yaml"},
    "digitalocean": {".do/app.yaml": SCHEMAS / "digitalocean.yaml"},
    "kubernetes": {},  # tests/test_kubernetes.py judges what kustomize makes of them
}


@cache
def validator(schema: Path) -> Any:
    """Return what judges by a schema."""
    content = yaml.safe_load(schema.read_text())
    kind = validator_for(content)
    kind.check_schema(content)
    return kind(content)


def settings(project: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the project's settings with these variables, and no others."""
    with patch.dict(os.environ, {**environment, "SECRET_KEY": "k"}, clear=True):
        return runpy.run_path(str(project / "config/settings.py"))


def objections(project: Path, combination: Combination) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with a project's hosting."""
    wrong = [
        f"{name}: {error.json_path}: {error.message}"
        for name, schema in FILES[combination.hosting].items()
        for error in validator(schema).iter_errors(load(project / name))
    ]
    if wrong:
        yield from wrong
        return
    try:
        deployment = READERS[combination.hosting](project, combination)
    except Exception as error:  # a broken copy lacks what the reader looks for
        yield f"it cannot be read: {error!r}"
        return
    if deployment.release != RELEASE:
        yield f"before a new version runs {deployment.release}"
    if len(deployment.keys) != 1:
        yield f"SECRET_KEY comes from {sorted(deployment.keys)}"
    names = settings(project, {})["PRODUCTION_PROCESSES"].keys()
    if deployment.processes.keys() != names:
        yield f"it starts {sorted(deployment.processes)}, not {sorted(names)}"
    for name, process in deployment.processes.items():
        yield from (f"{name}: {objection}" for objection in objections_to(name, process, project, combination))


def objections_to(name: str, process: Described, project: Path, combination: Combination) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with a process."""
    if process.command != f"python manage.py prodserver {name}":
        yield f"it is started by {process.command}"
    if process.restart != ALWAYS:
        yield f"it is restarted {process.restart}"
    if process.window != own_window(combination, name):
        yield f"it is killed after {process.window} s, which is not what the row says"
    found = settings(project, process.environment)
    grace, queue = found["Q_GRACE"], found["Q_CLUSTER"]
    if not MARGIN <= process.window - process.pause - grace <= MOST_MARGIN.get(combination.hosting, MARGIN):
        yield f"it is killed after {process.window} s, of which {process.pause} pass before, and Q_GRACE is {grace}"
    if name == "web" and not int(found["PRODUCTION_PROCESSES"]["web"]["ARGS"]["graceful-timeout"]) <= grace:
        yield "requests get longer than Q_GRACE"
    if name == "worker" and queue["timeout"] > grace:
        yield f"a task may run {queue['timeout']} s, longer than Q_GRACE"
