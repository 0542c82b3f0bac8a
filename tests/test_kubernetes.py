"""The hosting kubernetes: its files as kustomize renders them, as strictly judged as can be without a cluster."""

import copy
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pytest_cookies.plugin import Cookies

from tests import servers
from tests.browser import status
from tests.combinations import CHOICES, COMBINATIONS, CONTEXT, TEMPLATE, Combination, each
from tests.hostings import KUBECTL, kustomize
from tests.platforms.platform import WORK, Ledger, wait_until
from tests.processes import Command, bare, free_port, run, started, succeeds
from tests.projects import PRODUCTION, Workplace

Object = dict[str, Any]
Objects = list[Object]

VERSION = kubernetes_validate.latest_version()
#: What judges objects that are none of Kubernetes' own, by the begin of their apiVersion.
FOREIGN = {
    api: json.loads((Path(__file__).parent / "schemas" / f"{name}.schema.json").read_text())
    for api, name in {"gateway.networking.k8s.io/": "gateway", "keda.sh/": "keda"}.items()
}
WINDOW: int = CONTEXT["_hostings"]["kubernetes"]["stop_window"]
ON_KUBERNETES = [combination for combination in COMBINATIONS if combination.hosting == "kubernetes"]
# Django's version is in no file of the hosting.
RENDERED = [it for it in ON_KUBERNETES if it.django_version == CHOICES["django_version"][0]]
COMPONENTS = ["autoscale-web", "autoscale-workers", "servers"]
SCALED_BY = {"autoscale-web": "web", "autoscale-workers": "worker.*", "servers": "nothing"}

each_rendered = each("", lambda combination: iter([()]), RENDERED)


def render(folder: Path) -> Objects:
    """Return the objects that a folder describes."""
    return list(yaml.safe_load_all(kustomize(folder)))


@pytest.fixture
def kubernetes(project: Path, tmp_path: Path) -> Path:
    """A copy of the project's folder `kubernetes`."""
    return Path(shutil.copytree(project / "kubernetes", tmp_path / "kubernetes"))


def with_components(kubernetes: Path, names: Sequence[str]) -> Path:
    """Return the overlay, with components added as DEPLOY.md says."""
    overlay = kubernetes / "overlays" / "production"
    file = overlay / "kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text())
    kustomization["components"] = [f"../../components/{name}" for name in names]
    scaled = "|".join(SCALED_BY[name] for name in names)
    kustomization["replicas"] = [row for row in kustomization["replicas"] if not re.fullmatch(scaled, row["name"])]
    file.write_text(yaml.safe_dump(kustomization))
    return overlay


def all_renderings(project: Path, folder: Path) -> Iterator[tuple[str, Objects]]:
    """Yield what there is to apply: the base, the overlay, with each component, and with all of them."""
    yield "base", render(project / "kubernetes" / "base")
    yield "overlay", render(project / "kubernetes" / "overlays" / "production")
    for names in [*([name] for name in COMPONENTS), COMPONENTS]:
        title = "+".join(names)
        copied = Path(shutil.copytree(project / "kubernetes", folder / title))
        yield title, render(with_components(copied, names))


@pytest.fixture(scope="session")
def renderings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, Objects]]:
    """What all_renderings() yields, once for each project."""

    @cache
    def found(project: Path) -> dict[str, Objects]:
        return dict(all_renderings(project, tmp_path_factory.mktemp("renderings")))

    return found


@pytest.fixture
def everything(project: Path, renderings: Callable[[Path], dict[str, Objects]]) -> Objects:
    """The overlay with all components, to be changed at will."""
    return copy.deepcopy(renderings(project)["+".join(COMPONENTS)])


def find(objects: Objects, kind: str, name: str) -> Object:
    """Return the only object of this kind and name; a ConfigMap's name has its hash cut off."""
    end = "-[a-z0-9]{10}" if kind == "ConfigMap" else ""
    found = [it for it in objects if it["kind"] == kind and re.fullmatch(name + end, it["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def of_kind(objects: Objects, *kinds: str) -> Objects:
    """Return the objects of these kinds."""
    return [it for it in objects if it["kind"] in kinds]


def templates(objects: Objects) -> dict[str, Object]:
    """Return the pods that are made, by what makes them."""
    makers = of_kind(objects, "Deployment", "StatefulSet", "Job")
    return {it["metadata"]["name"]: it["spec"]["template"] for it in makers}


def workers(objects: Objects) -> dict[str, Object]:
    """Return the pods that run tasks."""
    return {name: it["spec"] for name, it in templates(objects).items() if name.startswith("worker")}


# Judges: each returns what is wrong


@cache
def _invalid(text: str) -> str:
    it = json.loads(text)
    try:
        if foreign := [schema for api, schema in FOREIGN.items() if it["apiVersion"].startswith(api)]:
            jsonschema.validate(it, foreign[0])
        else:
            kubernetes_validate.validate(it, VERSION, strict=True)
    except jsonschema.ValidationError as error:
        return f"{it['kind']} {it['metadata']['name']}: {error.json_path}: {error.message}"
    return ""


def invalid(objects: Objects) -> list[str]:
    """Hold each object against the API of the newest Kubernetes, in which each key is known, or against its own."""
    return list(filter(None, (_invalid(json.dumps(it, sort_keys=True)) for it in objects)))


def unrestricted(objects: Objects) -> list[str]:
    """Hold each pod against the restricted Pod Security profile, and what else becomes one.

    The profile: https://kubernetes.io/docs/concepts/security/pod-security-standards/.
    """
    problems = []
    for name, template in templates(objects).items():
        spec = template["spec"]
        pod = spec.get("securityContext", {})
        facts = {
            "runs as a user with a number": pod.get("runAsNonRoot") is True and pod.get("runAsUser", 0) > 0,
            "seccomp": pod.get("seccompProfile") == {"type": "RuntimeDefault"},
            "no token": spec.get("automountServiceAccountToken") is False,
            "no variables of Services": spec.get("enableServiceLinks") is False,
            "no host namespaces": not {"hostNetwork", "hostPID", "hostIPC"} & set(spec),
            "volumes": all(set(it) & {"emptyDir", "configMap", "secret"} for it in spec.get("volumes", [])),
        }
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            own = container.get("securityContext", {})
            facts |= {
                "no escalation": own.get("allowPrivilegeEscalation") is False,
                "no capabilities": own.get("capabilities") == {"drop": ["ALL"]},
                "read-only root": own.get("readOnlyRootFilesystem") is True,
                "no privileges": not {"privileged", "procMount", "runAsUser", "runAsNonRoot"} & set(own),
                "no host ports": not any("hostPort" in port for port in container.get("ports", [])),
                "/tmp": "/tmp" in {mount["mountPath"] for mount in container.get("volumeMounts", [])},  # noqa: S108
                "memory": "memory" in container.get("resources", {}).get("limits", {}),
                "no limit of CPU": "cpu" not in container.get("resources", {}).get("limits", {}),
            }
        problems += [f"{name}: {fact}" for fact, holds in facts.items() if not holds]
    return problems


def seconds(objects: Objects, worker: str) -> dict[str, int]:
    """Return how long a task of this worker may run, what a stop leaves it, and when its pod is killed."""
    spec = workers(objects)[worker]
    (container,) = spec["containers"]
    settings = find(objects, "ConfigMap", "settings")["data"]
    variables = settings | {it["name"]: it["value"] for it in container.get("env", [])}
    slow = worker.removeprefix("worker").replace("-", "_").upper()
    return {
        "timeout": int(variables[f"Q{slow}_TIMEOUT"]),
        "grace": int(variables["Q_GRACE"]),
        "window": spec["terminationGracePeriodSeconds"],
    }


def too_short(objects: Objects) -> list[str]:
    """Hold the seconds that a pod is given to end against what its process takes: web and worker read one variable."""
    problems = []
    for name in workers(objects):
        found = seconds(objects, name)
        if not found["timeout"] < found["grace"] <= found["window"] - 5:
            problems.append(f"{name}: {found}")
    web = templates(objects)["web"]["spec"]
    gunicorn = int(find(objects, "ConfigMap", "settings")["data"]["Q_GRACE"])
    pause = web["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    if not 0 < pause < pause + gunicorn <= web["terminationGracePeriodSeconds"] - 10:
        problems.append(f"web: {pause} + {gunicorn} in {web['terminationGracePeriodSeconds']}")
    return problems


def unmatched(objects: Objects) -> list[str]:
    """Look for selectors and references that lead nowhere."""
    labels = {name: it["metadata"]["labels"] for name, it in templates(objects).items()}
    names = {(it["kind"], it["metadata"]["name"]) for it in objects}
    problems = []

    def matches(selector: dict[str, str]) -> set[str]:
        return {name for name, found in labels.items() if selector.items() <= found.items()}

    for it in objects:
        kind, name, spec = it["kind"], it["metadata"]["name"], it.get("spec", {})
        selector = {
            "Service": spec.get("selector"),
            "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels"),
        }.get(kind, spec.get("selector", {}).get("matchLabels"))
        if selector and matches(selector) != {name}:
            problems.append(f"{kind} {name} selects {matches(selector)}")
        for constraint in spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", []):
            if matches(constraint["labelSelector"]["matchLabels"]) != {name}:
                problems.append(f"{kind} {name} is spread over others")
        if "scaleTargetRef" in spec and ("Deployment", spec["scaleTargetRef"]["name"]) not in names:
            problems.append(f"{kind} {name} scales nothing")
        for trigger in spec.get("triggers", []):
            if ("TriggerAuthentication", trigger["authenticationRef"]["name"]) not in names:
                problems.append(f"{kind} {name} has no authentication")
    listeners = {
        (it["metadata"]["name"], listener["name"])
        for it in of_kind(objects, "Gateway")
        for listener in it["spec"]["listeners"]
    }
    for it in of_kind(objects, "HTTPRoute"):
        name, spec = it["metadata"]["name"], it["spec"]
        if not {(parent["name"], parent["sectionName"]) for parent in spec["parentRefs"]} <= listeners:
            problems.append(f"HTTPRoute {name} hangs on no listener")
        for backend in (backend for rule in spec["rules"] for backend in rule.get("backendRefs", [])):
            ports = [port["port"] for port in find(objects, "Service", backend["name"])["spec"]["ports"]]
            if backend["port"] not in ports:
                problems.append(f"HTTPRoute {name} leads to no port")
    for name, template in templates(objects).items():
        account = template["spec"].get("serviceAccountName")
        if account and ("ServiceAccount", account) not in names:
            problems.append(f"{name} runs as {account}, whom nobody knows")
        for container in template["spec"]["containers"]:
            for source in container.get("envFrom", []):
                config = source.get("configMapRef", {}).get("name")
                if config and ("ConfigMap", config) not in names:
                    problems.append(f"{name} reads the ConfigMap {config}")
    return problems


def admits(rule: Object, labels: Object, port: int) -> bool:
    """Say whether a rule of a network policy lets through to a pod of the same namespace, or from one.

    Of the peers, pods by their labels count, and all namespaces; another namespace or an address is no such pod.
    """
    peers = rule.get("from") or rule.get("to") or []
    ports = [it["port"] for it in rule.get("ports", [])]
    found = [
        it["podSelector"].get("matchLabels", {}).items() <= labels.items()
        if set(it) == {"podSelector"}
        else it == {"namespaceSelector": {}}
        for it in peers
    ]
    return (not ports or port in ports) and (not peers or any(found))


def reaches(objects: Objects, client: str, server: str, port: int) -> bool:
    """Say whether the network policies let a pod talk to another: out of the one, and into the other."""
    labels = {name: it["metadata"]["labels"] for name, it in templates(objects).items()}
    ways = [("Egress", client, server), ("Ingress", server, client)]
    policies = [it["spec"] for it in of_kind(objects, "NetworkPolicy")]
    return all(
        any(
            admits(rule, labels[other], port)
            for policy in policies
            if way in policy["policyTypes"]
            and policy["podSelector"].get("matchLabels", {}).items() <= labels[pod].items()
            for rule in policy.get(way.lower(), [])
        )
        for way, pod, other in ways
    )


def unserved(objects: Objects) -> list[str]:
    """Hold each server of the cluster against what it takes to be found, asked and probed, and to keep its data."""
    problems = []
    services = {it["metadata"]["name"]: it["spec"] for it in of_kind(objects, "Service")}
    clients = [name for name, it in templates(objects).items() if "command" in it["spec"]["containers"][0]]
    for it in of_kind(objects, "StatefulSet"):
        name, pod = it["metadata"]["name"], it["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        service = services.get(it["spec"]["serviceName"], {})
        ports = [port["containerPort"] for port in container["ports"]]
        claims = {claim["metadata"]["name"]: claim["spec"] for claim in it["spec"]["volumeClaimTemplates"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        variables = {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
        facts = {
            "a version": re.search(r":\d", container["image"]) is not None,
            "a Service of its own": service.get("clusterIP") == "None",
            "its port in the Service": [port["port"] for port in service.get("ports", [])] == ports,
            "every client let in": all(reaches(objects, client, name, port) for client in clients for port in ports),
            "a probe at the start": "exec" in container.get("startupProbe", {}),
            "a probe ever after": "exec" in container.get("readinessProbe", {}),
            "a volume that is mounted": bool(claims) and claims.keys() <= mounts.keys(),
            "a volume for one": all(claim["accessModes"] == ["ReadWriteOnce"] for claim in claims.values()),
            "a volume of some size": all("storage" in claim["resources"]["requests"] for claim in claims.values()),
            "a volume to write to": pod["securityContext"].get("fsGroup") == pod["securityContext"]["runAsUser"],
            "time to end": pod.get("terminationGracePeriodSeconds", 30) >= 60,
        }
        if "PGDATA" in variables:
            facts["data on the volume"] = variables["PGDATA"].startswith(f"{mounts.get('data')}/")
        problems += [f"{name} lacks {fact}" for fact, holds in facts.items() if not holds]
    return problems


def secret_keys(objects: Objects) -> set[str]:
    """Return the keys of the Secret that something reads by name."""
    found = set(re.findall(r'"secretKeyRef": {"key": "(\w+)", "name": "secrets"}', json.dumps(objects, sort_keys=True)))
    for it in of_kind(objects, "TriggerAuthentication"):
        found |= {reference["key"] for reference in it["spec"]["secretTargetRef"]}
    return found


# As they are baked


@each_rendered
def test_all_that_is_rendered_is_valid_restricted_and_holds_together(
    combination: Combination, project: Path, renderings: Callable[[Path], dict[str, Objects]]
) -> None:
    for title, objects in renderings(project).items():
        problems = [*invalid(objects), *unrestricted(objects), *too_short(objects)]
        assert not [*problems, *unmatched(objects), *unserved(objects)], title


@each_rendered
def test_the_processes_of_the_procfile_run_and_no_others(
    combination: Combination, project: Path, everything: Objects
) -> None:
    procfile = dict(line.split(": ") for line in (project / "Procfile").read_text().splitlines())
    run_here = {
        "release" if name == "migrate" else name: " ".join(template["spec"]["containers"][0]["command"])
        for name, template in templates(everything).items()
        if "command" in template["spec"]["containers"][0]
    }
    assert run_here == procfile
    for service in [{"name": "db"}, *combination.row["services"]]:
        assert find(everything, "StatefulSet", service["name"])["spec"]["serviceName"] == service["name"]


@each_rendered
def test_web_and_workers_are_probed_as_they_can_answer(combination: Combination, everything: Objects) -> None:
    (web,) = templates(everything)["web"]["spec"]["containers"]
    paths = {key: value["httpGet"]["path"] for key, value in web.items() if key.endswith("Probe")}
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/livez", "livenessProbe": "/livez"}
    for name, spec in workers(everything).items():
        (container,) = spec["containers"]
        ask = {"exec": {"command": ["python", "manage.py", "health_check", name]}, "timeoutSeconds": 15}
        assert {key: value for key, value in container.items() if key.endswith("Probe")} == {
            "startupProbe": {**ask, "periodSeconds": 5, "failureThreshold": 24},
            "livenessProbe": {**ask, "periodSeconds": 30, "failureThreshold": 3},
        }


@each_rendered
def test_no_request_and_no_task_is_dropped_by_a_deploy_or_a_drain(
    combination: Combination, everything: Objects
) -> None:
    assert seconds(everything, "worker")["window"] == WINDOW
    for name in ("web", *workers(everything)):
        deployment = find(everything, "Deployment", name)
        assert deployment["spec"]["strategy"] == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        assert find(everything, "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1


@each_rendered
def test_only_web_takes_connections_and_only_the_projects_pods_and_keda_reach_its_servers(
    combination: Combination, everything: Objects
) -> None:
    policies = {it["metadata"]["name"]: it["spec"] for it in of_kind(everything, "NetworkPolicy")}
    closed = policies.pop("all")
    assert closed["podSelector"] == {}
    assert closed["policyTypes"] == ["Egress", "Ingress"]
    assert "ingress" not in closed
    assert policies.pop("web")["ingress"] == [{"ports": [{"port": 8000}]}]
    assert set(policies) == {"db", *(service["name"] for service in combination.row["services"])}
    for policy in policies.values():
        (rule,) = policy["ingress"]
        assert rule["from"][0] == {"podSelector": {}}
        assert rule["from"][1]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "keda"}
        assert len(rule["from"]) == 2


@each_rendered
def test_pods_may_ask_for_names_and_nothing_else_where_a_cloud_hands_out_credentials(
    combination: Combination, everything: Objects
) -> None:
    metadata = "169.254.169.254"  # also the address of the names' server, on GKE with Cloud DNS
    open_at = [
        rule.get("ports")
        for rule in find(everything, "NetworkPolicy", "all")["spec"]["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer and ip_address(metadata) in ip_network(peer["ipBlock"]["cidr"])
        if f"{metadata}/32" not in peer["ipBlock"].get("except", [])
    ]
    assert open_at == [[{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]]


@each_rendered
def test_all_pods_run_as_an_account_to_which_a_role_can_be_bound_and_are_not_pid_1(
    combination: Combination, everything: Objects
) -> None:
    assert find(everything, "ServiceAccount", "app")["automountServiceAccountToken"] is False
    for name in ("web", "migrate", *workers(everything)):
        spec = templates(everything)[name]["spec"]
        assert (spec["serviceAccountName"], spec["shareProcessNamespace"]) == ("app", True)


@each_rendered
def test_the_addresses_that_the_page_gives_are_those_of_the_servers(
    combination: Combination, project: Path, everything: Objects
) -> None:
    section = (project / "DEPLOY.md").read_text().partition("## Servers in the cluster")[2].partition("\n## ")[0]
    found = set(re.findall(r"[@/](\w+):(\d+)", section))
    servers_here = {
        it["metadata"]["name"]: container_of(everything, it["metadata"]["name"])
        for it in of_kind(everything, "StatefulSet")
    }
    assert found == {(name, str(it["ports"][0]["containerPort"])) for name, it in servers_here.items()}
    for service in combination.row["services"]:
        assert f"`{service['variable']}={service['url']}`" in section
        mounts = {mount["name"]: mount["mountPath"] for mount in servers_here[service["name"]]["volumeMounts"]}
        assert mounts["data"] == service["data"]
    variables = {it["name"]: it.get("value") for it in servers_here["db"]["env"]}
    assert f"postgres://{variables['POSTGRES_USER']}:PASSWORD@db:5432/{variables['POSTGRES_DB']}" in section


@each_rendered
def test_what_is_scaled_by_load_has_no_fixed_count(
    combination: Combination, project: Path, everything: Objects, renderings: Callable[[Path], dict[str, Objects]]
) -> None:
    names = {"web", *workers(everything)}
    scaled = {it["spec"]["scaleTargetRef"]["name"] for it in everything if "scaleTargetRef" in it.get("spec", {})}
    assert scaled == names
    for name in names:
        assert "replicas" not in find(everything, "Deployment", name)["spec"]
        assert "replicas" in find(renderings(project)["overlay"], "Deployment", name)["spec"]


@each_rendered
def test_every_key_of_the_secret_is_explained_and_no_value_is_in_a_file(
    combination: Combination, project: Path, everything: Objects
) -> None:
    assert not of_kind(everything, "Secret")
    explained = (project / "DEPLOY.md").read_text()
    required = {it["name"] for it in combination.row["environment"] if it["required"]}
    examples = dict(re.findall(r"--from-literal=(\w+)=(\S+)", explained))
    assert {"SECRET_KEY", "DATABASE_URL", *required} <= examples.keys()
    assert not re.search("localhost|127[.]0", str(examples)), "in a pod, that is the pod itself"
    for key in secret_keys(everything):
        assert re.search(rf"\b{key}\b", explained), key


@each_rendered
def test_what_the_files_set_is_read_by_the_settings(
    combination: Combination, project: Path, everything: Objects
) -> None:
    settings = (project / "config" / "settings.py").read_text()
    data = find(everything, "ConfigMap", "settings")["data"]
    assert {"ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "PORT", "Q_GRACE", "Q_TIMEOUT", "Q_WORKERS"} <= set(data)
    for name in data:
        assert f'("{name}"' in settings, name
    host = data["ALLOWED_HOSTS"]
    (listener,) = (it for it in find(everything, "Gateway", "web")["spec"]["listeners"] if it["name"] == "https")
    routes = of_kind(everything, "HTTPRoute")
    assert {listener["hostname"], *(name for it in routes for name in it["spec"]["hostnames"])} == {host}
    assert data["CSRF_TRUSTED_ORIGINS"] == f"https://{host}"


def test_the_base_names_no_namespace_and_the_overlay_names_that_of_the_namespace(
    bake: Callable[[Combination], Path], renderings: Callable[[Path], dict[str, Objects]]
) -> None:
    project = bake(RENDERED[0])
    namespace = yaml.safe_load((project / "kubernetes" / "namespace.yaml").read_text())
    assert invalid([namespace]) == []
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert all("namespace" not in it["metadata"] for it in renderings(project)["base"])
    overlay = renderings(project)["overlay"]
    assert {it["metadata"]["namespace"] for it in overlay} == {namespace["metadata"]["name"]}
    # Nor any tag of an image, without which pods would run whatever is the latest.
    images = {
        title: {template["spec"]["containers"][0]["image"] for template in templates(objects).values()}
        for title, objects in renderings(project).items()
    }
    assert images["base"] == {"my-project"}
    assert images["overlay"] == {"registry.example.com/my-project:1"}


@pytest.mark.parametrize("slug", ["null", "on", "true"])
def test_a_project_may_have_a_name_that_is_none_in_yaml(slug: str, cookies: Cookies) -> None:
    result = cookies.bake({**RENDERED[0].answers, "project_slug": slug}, template=str(TEMPLATE))
    assert result.exception is None, result.exception
    objects = render(with_components(result.project_path / "kubernetes", COMPONENTS))
    assert invalid(objects) == []
    assert {it["metadata"]["namespace"] for it in objects} == {slug}
    assert deploy(result.project_path / "kubernetes", JOB="complete")[0] == f"--namespace {slug} get secret secrets"


def test_the_page_tells_the_numbers_that_the_files_hold(
    bake: Callable[[Combination], Path], renderings: Callable[[Path], dict[str, Objects]]
) -> None:
    page = " ".join((TEMPLATE / "docs" / "hosting" / "kubernetes.md").read_text().split())
    combination = next(it for it in RENDERED if it.queues == "fast_and_slow")
    overlay = renderings(bake(combination))["overlay"]
    found = seconds(overlay, "worker")
    assert f"leaves {found['grace']} seconds (`Q_GRACE`)" in page
    assert f"At {found['window']} seconds (`terminationGracePeriodSeconds`)" in page
    assert f"`Q_TIMEOUT` is {found['timeout']}" in page
    assert f"`worker-slow`, which has {seconds(overlay, 'worker-slow')['window'] // 60} minutes" in page
    assert f"Kubernetes {VERSION.removesuffix('.0')} " in page
    for trigger_type in {it["kubernetes_trigger"]["type"] for it in CONTEXT["_brokers"].values()}:
        assert f"`{trigger_type}`" in page


# Broken on purpose


@dataclass(frozen=True)
class Slip:
    """A change of what is rendered that somebody must notice."""

    title: str
    change: Callable[[Objects], object]
    noticed: Callable[[Objects], list[str]]

    def __str__(self) -> str:
        """Return the test's id."""
        return self.title


def container_of(objects: Objects, name: str) -> Object:
    """Return the container of a pod."""
    (container,) = templates(objects)[name]["spec"]["containers"]
    found: Object = container
    return found


def trigger(objects: Objects) -> Object:
    """Return the trigger that scales the worker."""
    (found,) = find(objects, "ScaledObject", "worker")["spec"]["triggers"]
    it: Object = found
    return it


def typo_in(kind: str, name: str) -> Slip:
    """Return the change of a key, in whatever kind."""
    return Slip(f"typo in {kind}", lambda objects: find(objects, kind, name)["spec"].update(replica=1), invalid)


SLIPS = [
    *(
        typo_in(kind, name)
        for kind, name in {
            "Deployment": "web",
            "Gateway": "web",
            "HTTPRoute": "redirect",
            "HorizontalPodAutoscaler": "web",
            "Job": "migrate",
            "NetworkPolicy": "all",
            "PodDisruptionBudget": "worker",
            "ScaledObject": "worker",
            "Service": "web",
            "StatefulSet": "db",
            "TriggerAuthentication": "broker",
        }.items()
    ),
    Slip("typo in a ConfigMap", lambda them: find(them, "ConfigMap", "settings").update(date={}), invalid),
    Slip("typo in a probe", lambda them: container_of(them, "worker")["livenessProbe"].update(timeout=15), invalid),
    Slip("typo in a container", lambda them: container_of(them, "migrate").update(enviroment=[]), invalid),
    Slip("a number for a text", lambda them: find(them, "ConfigMap", "settings")["data"].update(PORT=8000), invalid),
    Slip("typo in a trigger", lambda them: trigger(them)["metadata"].update(target="5"), invalid),
    Slip("a number in a trigger", lambda them: trigger(them).update(metadata={"x": 5}), invalid),
    *(
        Slip(
            f"{name} without a securityContext",
            lambda them, name=name: container_of(them, name).pop("securityContext"),  # type: ignore[misc]
            unrestricted,
        )
        for name in ("web", "worker", "migrate", "db")
    ),
    Slip(
        "a pod as root", lambda them: templates(them)["web"]["spec"]["securityContext"].pop("runAsUser"), unrestricted
    ),
    Slip(
        "no seccomp", lambda them: templates(them)["db"]["spec"]["securityContext"].pop("seccompProfile"), unrestricted
    ),
    Slip("a token", lambda them: templates(them)["worker"]["spec"].pop("automountServiceAccountToken"), unrestricted),
    Slip(
        "no limit",
        lambda them: container_of(them, "worker")["resources"].pop("limits"),
        unrestricted,
    ),
    *(
        Slip(
            f"{name} with 30 seconds",
            lambda them, name=name: templates(them)[name]["spec"].update(terminationGracePeriodSeconds=30),  # type: ignore[misc]
            too_short,
        )
        for name in ("web", "worker", "worker-slow")
    ),
    Slip(
        "a grace below the timeout",
        lambda them: find(them, "ConfigMap", "settings")["data"].update(Q_GRACE="60"),
        too_short,
    ),
    Slip(
        "a Service for nobody",
        lambda them: find(them, "Service", "web")["spec"]["selector"].update({"app.kubernetes.io/component": "wbe"}),
        unmatched,
    ),
    Slip(
        "a budget for nobody",
        lambda them: find(them, "PodDisruptionBudget", "worker")["spec"].update(selector={"matchLabels": {"a": "b"}}),
        unmatched,
    ),
    *(
        Slip(f"{server} {title}", partial(change, server=server), unserved)
        for server in ("db", "redis")
        for title, change in {
            "of any version": lambda them, server: container_of(them, server).update(image=server),
            "of the latest version": lambda them, server: container_of(them, server).update(image=f"{server}:latest"),
            "without a first probe": lambda them, server: container_of(them, server).pop("startupProbe"),
            "without a probe": lambda them, server: container_of(them, server).pop("readinessProbe"),
            "with its data in the container": lambda them, server: container_of(them, server)["volumeMounts"].pop(0),
            "without a claim": lambda them, server: find(them, "StatefulSet", server)["spec"].update(
                volumeClaimTemplates=[]
            ),
            "that may not write": lambda them, server: templates(them)[server]["spec"]["securityContext"].pop(
                "fsGroup"
            ),
            "under another port": lambda them, server: find(them, "Service", server)["spec"]["ports"][0].update(port=1),
            "under another name": lambda them, server: find(them, "StatefulSet", server)["spec"].update(
                serviceName="web"
            ),
            "closed": lambda them, server: find(them, "NetworkPolicy", server)["spec"].update(ingress=[]),
            "closed to pods": lambda them, server: find(them, "NetworkPolicy", server)["spec"]["ingress"][0][
                "from"
            ].pop(0),
            "open at another port": lambda them, server: find(them, "NetworkPolicy", server)["spec"]["ingress"][
                0
            ].update(ports=[{"port": 1}]),
            "killed at once": lambda them, server: templates(them)[server]["spec"].update(
                terminationGracePeriodSeconds=1
            ),
        }.items()
    ),
    Slip("a way out for nobody", lambda them: find(them, "NetworkPolicy", "all")["spec"].update(egress=[]), unserved),
    Slip(
        "data beside the volume",
        lambda them: container_of(them, "db")["env"][3].update(value="/var/lib/postgresql/17"),
        unserved,
    ),
    Slip(
        "a route to nobody",
        lambda them: find(them, "HTTPRoute", "web")["spec"]["rules"][0]["backendRefs"][0].update(port=8000),
        unmatched,
    ),
    Slip("a route from nowhere", lambda them: find(them, "Gateway", "web")["spec"]["listeners"].pop(), unmatched),
    Slip(
        "an account that is not there",
        lambda them: templates(them)["web"]["spec"].update(serviceAccountName="ap"),
        unmatched,
    ),
    Slip(
        "an autoscaler of nothing",
        lambda them: find(them, "ScaledObject", "worker")["spec"]["scaleTargetRef"].update(name="workers"),
        unmatched,
    ),
]


@pytest.mark.parametrize("slip", SLIPS, ids=str)
def test_a_slip_is_noticed(
    slip: Slip, bake: Callable[[Combination], Path], renderings: Callable[[Path], dict[str, Objects]]
) -> None:
    combination = next(it for it in RENDERED if it.queues == "fast_and_slow" and it.row["services"])
    objects = copy.deepcopy(renderings(bake(combination))["+".join(COMPONENTS)])
    assert slip.noticed(objects) == []
    slip.change(objects)
    assert slip.noticed(objects) != []


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("base/kustomization.yaml", "resources:", "resource:"),
        ("base/kustomization.yaml", "web.yaml", "wbe.yaml"),
        ("overlays/production/kustomization.yaml", "newTag", "tag"),
        ("overlays/production/kustomization.yaml", "name: web", "name: wbe"),
        ("overlays/production/kustomization.yaml", "name: settings", "name: setting"),
    ],
)
def test_kustomize_refuses_a_slip_in_its_own_files(
    file: str, old: str, new: str, bake: Callable[[Combination], Path], tmp_path: Path
) -> None:
    kubernetes = Path(shutil.copytree(bake(RENDERED[0]) / "kubernetes", tmp_path / "kubernetes"))
    text = (kubernetes / file).read_text()
    assert old in text
    (kubernetes / file).write_text(text.replace(old, new, 1))
    kustomize(kubernetes / "overlays" / "production", expect=1)


# The deploy, with a kubectl that only writes down what it is told

FAKE = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
    *"get secret"*) exit "${NO_SECRET:-0}" ;;
    *"get statefulsets"*) echo statefulset.apps/db ;;
    *"get deployments"*) printf '%s\\n' deployment.apps/web deployment.apps/worker ;;
    *condition=complete*) test "$JOB" = complete ;;
    *condition=failed*) test "$JOB" = failed ;;
esac
"""


def deploy(kubernetes: Path, expect: int = 0, **variables: str) -> list[str]:
    """Run the script, and return what it has told kubectl."""
    programs = kubernetes / "programs"
    programs.mkdir()
    (programs / "kubectl").write_text(FAKE)
    (programs / "kubectl").chmod(0o755)
    log = kubernetes / "log"
    environment = bare(PATH=f"{programs}:{os.defpath}", LOG=str(log), **variables)
    run([kubernetes / "deploy"], kubernetes.parent, environment, expect, seconds=30)
    return [line.removeprefix("--namespace my-project ") for line in log.read_text().splitlines()]


@each_rendered
def test_a_deploy_migrates_before_it_changes_web_and_workers(combination: Combination, kubernetes: Path) -> None:
    told = deploy(kubernetes, JOB="complete")
    component = "app.kubernetes.io/component"
    slow = "".join(f", worker-{name}" for name in CONTEXT["_queues"][combination.queues]["slow"])
    assert told == [
        "get secret secrets",
        f"apply --kustomize . --selector {component} notin (migrate, web, worker{slow})",
        "get statefulsets --output name",
        "rollout status statefulset.apps/db --timeout=10m",
        "delete job migrate --ignore-not-found --wait",
        f"apply --kustomize . --selector {component}=migrate",
        "wait job/migrate --for=condition=complete --timeout=2s",
        "apply --kustomize .",
        "get deployments --output name",
        "rollout status deployment.apps/web --timeout=10m",
        "rollout status deployment.apps/worker --timeout=10m",
    ]


def test_shellcheck_has_no_objection_to_the_script(bake: Callable[[Combination], Path], tmp_path: Path) -> None:
    shellcheck: Command = [KUBECTL.with_name("shellcheck"), "deploy"]
    for combination in RENDERED:
        if combination.broker == CHOICES["broker"][0]:
            run(shellcheck, bake(combination) / "kubernetes", bare())
    text = (bake(RENDERED[0]) / "kubernetes" / "deploy").read_text()
    (tmp_path / "deploy").write_text(text.replace('"$statefulset"', "$statefulset"))
    assert "SC2086" in run(shellcheck, tmp_path, bare(), expect=1)


@pytest.mark.parametrize("variables", [{"JOB": "failed"}, {"JOB": "complete", "NO_SECRET": "1"}], ids=str)
def test_a_deploy_changes_no_pod_if_the_release_fails(
    variables: dict[str, str], bake: Callable[[Combination], Path], tmp_path: Path
) -> None:
    kubernetes = Path(shutil.copytree(bake(RENDERED[0]) / "kubernetes", tmp_path / "kubernetes"))
    told = deploy(kubernetes, expect=1, **variables)
    assert "apply --kustomize ." not in told
    assert not [line for line in told if "deployments" in line]


@each_rendered
def test_what_a_deploy_applies_ahead_is_neither_web_nor_a_worker(combination: Combination, everything: Objects) -> None:
    later = {"migrate", "web", *workers(everything)}
    ahead = [
        it for it in everything if it["metadata"].get("labels", {}).get("app.kubernetes.io/component") not in later
    ]
    kinds = {it["kind"] for it in ahead}
    assert {"ConfigMap", "NetworkPolicy", "ServiceAccount", "StatefulSet"} <= kinds
    assert not kinds & {"Deployment", "Job", "HorizontalPodAutoscaler", "ScaledObject", "Gateway", "HTTPRoute"}


# The triggers, asked as KEDA asks them (github.com/kedacore/keda, pkg/scalers)

MEASURE = """
import json, os, sys
from django_q.brokers import get_broker
from django_q.tasks import async_task

def postgresql(it, secret):
    import psycopg
    with psycopg.connect(secret["connection"]) as connection:
        return connection.execute(it["query"]).fetchone()[0]

def redis_streams(it, secret):
    from redis import Redis
    host, port = secret["address"].split(":")
    client = Redis(host, int(port), username=secret["username"] or None, password=secret["password"] or None)
    return client.xlen(it["stream"])

def aws_sqs_queue(it, secret):
    import boto3
    keys = {"aws_access_key_id": secret["awsAccessKeyID"], "aws_secret_access_key": secret["awsSecretAccessKey"]}
    client = boto3.client("sqs", region_name=secret["awsRegion"], **keys)
    names = ["ApproximateNumberOfMessages"]
    names += ["ApproximateNumberOfMessagesNotVisible"] * (it["scaleOnInFlight"] == "true")
    found = client.get_queue_attributes(QueueUrl=it["queueURL"], AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)

def mongodb(it, secret):
    from bson.json_util import loads
    from pymongo import MongoClient
    with MongoClient(secret["connectionString"]) as client:
        return client[it["dbName"]][it["collection"]].count_documents(loads(it["query"]))

def measure():
    return [globals()[it["type"].replace("-", "_")](it["metadata"], given["secret"]) for it in given["triggers"]]

given = json.loads(os.environ["GIVEN"])
names = [None, "slow"]
for name, number in zip(names, (7, 3)):
    for _ in range(number):
        async_task("time.sleep", 0, cluster=name)
seen = [measure()]
broker = get_broker()
taken = broker.claim(2, 1_000_000)
assert 0 < len(taken) <= 2
seen.append(measure())
broker.acknowledge_all([taken[0].receipt])
seen.append(measure())
print(json.dumps(seen))
"""


def keda_secret(objects: Objects, variables: dict[str, str]) -> dict[str, str]:
    """Return what KEDA would read from the Secret, if that held these variables."""
    (authentication,) = of_kind(objects, "TriggerAuthentication")
    references = authentication["spec"]["secretTargetRef"]
    return {it["parameter"]: variables[it["key"]] for it in references}


@each("", lambda combination: iter([()]), [it for it in RENDERED if it.queues == "fast_and_slow"])
def test_the_triggers_see_all_tasks_that_are_not_done(
    combination: Combination, everything: Objects, workplace: Workplace
) -> None:
    database = servers.database("sqlite" if combination.row["environment"] else "postgresql", workplace.temporary)
    with database as found, servers.broker(combination, workplace) as queue:
        variables = {**PRODUCTION, **found, **queue}
        workplace.manage("migrate", "-v0", environment=variables)
        address = re.sub(r"^\w+://|/.*$", "", queue.get("REDIS_URL", ""))
        by_hand = {"REDIS_ADDRESS": address, "REDIS_USERNAME": "", "REDIS_PASSWORD": "", "REDIS_TLS": ""}
        triggers = [find(everything, "ScaledObject", name)["spec"]["triggers"][0] for name in ("worker", "worker-slow")]
        given = {"triggers": triggers, "secret": keda_secret(everything, {**by_hand, **variables})}
        answer = workplace.manage(
            "shell", "-v0", "-c", MEASURE, environment={**variables, "GIVEN": json.dumps(given)}
        ).splitlines()[-1]
    assert json.loads(answer) == [[7, 3], [7, 3], [6, 3]]
    targets = [next(int(value) for value in it["metadata"].values() if value.isdigit()) for it in triggers]
    assert targets == [100, 1]  # short tasks, and such as take minutes


# The pods' processes, run here as the rendered files say

LONG_TASKS = ("long-None", "long-slow")  #: each worker is in the middle of one when its pod is told to go
QUEUE_LONG_TASKS = """
from django_q.tasks import async_task
for name in (None, "slow"):
    async_task("work.work", f"long-{name}", cluster=name)
"""
COUNT_TASKS = """
from django_q.models import Success
print(Success.objects.filter(func="work.work", attempt_count=1).count())
"""


@dataclass
class Pod:
    """A pod's only container, as it would run."""

    workplace: Workplace
    container: Object
    variables: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """What Kubernetes would set, in its order: the ConfigMap, the Secret, the container's own."""
        own = {it["name"]: it["value"] for it in self.container.get("env", [])}
        return dict(self.workplace.environment({**self.variables, **own}))

    def command(self, command: Sequence[str]) -> list[str | Path]:
        """Return a command, with the project's Python where the image has one."""
        return [self.workplace.python, *command[1:]]

    def passes(self, probe: str) -> bool:
        """Probe once; the Host header is an address."""
        asked = self.container[probe]
        if "httpGet" in asked:
            return 200 <= status(int(self.variables["PORT"]), asked["httpGet"]["path"]) < 400
        command = self.command(asked["exec"]["command"])
        # More patience than a cluster has: this machine runs other tests as well.
        return succeeds(command, self.workplace.path, self.environment, asked["timeoutSeconds"] * 4)


@each("", lambda combination: iter([()]), [it for it in RENDERED if it.queues == "fast_and_slow"][:1])
def test_what_its_pods_run_passes_the_probes_and_ends_its_tasks_in_time(
    combination: Combination, everything: Objects, workplace: Workplace, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "work")
    (workplace.path / "work.py").write_text(WORK.format(folder=str(ledger.folder)))
    with (
        servers.database("postgresql", workplace.temporary) as database,
        servers.broker(combination, workplace) as queue,
        ExitStack() as stack,
    ):
        variables = {
            **find(everything, "ConfigMap", "settings")["data"],
            **database,
            **queue,
            "SECRET_KEY": PRODUCTION["SECRET_KEY"],
            "PORT": str(free_port()),
        }
        pods = {
            name: Pod(workplace, container_of(everything, name), variables)
            for name in ("migrate", "web", *workers(everything))
        }
        migrate = pods.pop("migrate")
        run(migrate.command(migrate.container["command"]), workplace.path, migrate.environment)
        processes = {
            name: stack.enter_context(
                started(
                    name, pod.command(pod.container["command"]), workplace.path, pod.environment, workplace.temporary
                )
            )
            for name, pod in pods.items()
        }
        for name, pod in pods.items():
            for probe in ("startupProbe", "livenessProbe"):
                processes[name].wait_until(partial(pod.passes, probe), f"the {probe} of {name}")
        assert pods["web"].passes("readinessProbe")
        workplace.manage("shell", "-v0", "-c", QUEUE_LONG_TASKS, environment=variables)
        wait_until(lambda: len(ledger.count("begin")) == len(LONG_TASKS), "the begin of both tasks")
        for process in processes.values():
            process.popen.send_signal(signal.SIGTERM)
        for name in workers(everything):
            wait_until(lambda it=processes[name]: "stopping" in it.log(), f"the stop of {name}")  # type: ignore[misc]
        for task in LONG_TASKS:
            ledger.let_go(task)
        for name, process in processes.items():
            assert process.popen.wait(seconds(everything, "worker")["window"]) == 0, f"{name}\n{process.log()}"
        assert workplace.manage("shell", "-v0", "-c", COUNT_TASKS, environment=variables).split()[-1] == "2"
