"""System checks of what the processes need, run by `manage.py check` and before each process starts."""

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections, router
from django.utils.module_loading import import_string
from django_prodserver.backends.base import BaseProcessBackend
from django_prodserver.backends.servers.gunicorn import GunicornServer
from django_prodserver.backends.workers.django_q2 import DjangoQ2Worker
from django_q import conf
from django_q.models import OrmQ
from gunicorn.config import Config as GunicornConfig

from worker.processes import workers

# Variables by which platforms announce themselves whose machines come and go, and with them their disks.
EPHEMERAL = (
    "DYNO",  # Heroku
    "RENDER",  # Render
    "FLY_APP_NAME",  # Fly.io
    "RAILWAY_ENVIRONMENT_NAME",  # Railway
    "KUBERNETES_SERVICE_HOST",  # Kubernetes
)

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def _did_you_mean(word: str, known: list[str]) -> str:
    by_lower_case = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower_case, n=1)
    return f"Did you mean {by_lower_case[close[0]]!r}?" if close else f"Known are: {', '.join(sorted(known))}."


def _options(backend: type[BaseProcessBackend]) -> list[str]:
    """Return the options that the backend's program knows, without their dashes; [] if it cannot be asked."""
    if issubclass(backend, DjangoQ2Worker):
        return ["name"]
    if not issubclass(backend, GunicornServer):
        return []
    return [
        option.removeprefix("--")
        for action in GunicornConfig().parser()._actions  # noqa: SLF001 (argparse has no public list)
        for option in action.option_strings
        if option.startswith("--")
    ]


def _check_process(name: str, entry: Any) -> Iterator[CheckMessage]:
    where = f"PRODUCTION_PROCESSES[{name!r}]"
    if not isinstance(entry, Mapping):
        yield Error(f"{where} is a {type(entry).__name__}.", hint="Write {'BACKEND': …}.", id="worker.E002")
        return
    for key in entry.keys() - {"BACKEND", "ARGS"}:
        hint = _did_you_mean(key, ["ARGS", "BACKEND"])
        yield Error(f"{where} has the unknown key {key!r}.", hint=hint, id="worker.E003")
    name_a_class = "Name a class, such as worker.backend.DjangoQ2Worker."
    if "BACKEND" not in entry:
        yield Error(f"{where} has no BACKEND.", hint=name_a_class, id="worker.E004")
        return
    try:
        backend = import_string(entry["BACKEND"])
        if not issubclass(backend, BaseProcessBackend):
            raise TypeError(f"{entry['BACKEND']} is not a backend of django-prodserver")
    except (AttributeError, ImportError, TypeError) as error:
        message = f"{where}: the BACKEND {entry['BACKEND']!r} cannot be used: {error}."
        yield Error(message, hint=name_a_class, id="worker.E005")
        return
    args = entry.get("ARGS", {})
    if not isinstance(args, Mapping) or not all(
        isinstance(option, str) and isinstance(value, str | None) for option, value in args.items()
    ):
        yield Error(
            f"{where}: ARGS {args!r} is not a dict of strings.",
            hint="Write {'option': 'value'}, and {'option': None} for an option without a value.",
            id="worker.E006",
        )
        return
    known = _options(backend)
    for option in args:
        if known and option not in known:
            yield Error(f"{where}: there is no option {option!r}.", hint=_did_you_mean(option, known), id="worker.E007")
    cluster = args.get("name")
    clusters = {settings.Q_CLUSTER["name"], *(settings.Q_CLUSTER.get("ALT_CLUSTERS") or ())}
    if issubclass(backend, DjangoQ2Worker) and cluster and cluster not in clusters:
        hint = _did_you_mean(cluster, list(clusters))
        yield Error(f"{where}: Q_CLUSTER knows no cluster {cluster!r}.", hint=hint, id="worker.E008")


@register()
def check_processes(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check PRODUCTION_PROCESSES."""
    processes = getattr(settings, "PRODUCTION_PROCESSES", None)
    if not isinstance(processes, Mapping) or not processes:
        return [
            Error(
                "PRODUCTION_PROCESSES is not a dict of processes.",
                hint="Write {'web': {'BACKEND': …}, 'worker': {'BACKEND': …}}.",
                id="worker.E001",
            )
        ]
    return [message for name, entry in processes.items() for message in _check_process(name, entry)]


@register()
def check_broker(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that the broker's client package is there."""
    try:
        import_string(settings.Q_CLUSTER["broker_class"])
    except ModuleNotFoundError as error:
        return [
            Error(
                f"The broker needs the package {error.name}, which is not installed here.",
                hint=f"Run `uv sync`, or `uv add {error.name}` if it was removed.",
                id="worker.E010",
            )
        ]
    return []


@register()
def check_queue(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that a queue in a database is in one that hands out each task once; it is not asked."""
    alias = settings.Q_CLUSTER.get("orm")
    if not alias or settings.Q_CLUSTER["broker_class"] != "worker.broker.Broker":
        return []
    where = f"Q_CLUSTER['orm'] is {alias!r}"
    if alias not in settings.DATABASES:
        hint = _did_you_mean(alias, list(settings.DATABASES))
        return [Error(f"{where}, which DATABASES does not have.", hint=hint, id="worker.E011")]
    if (vendor := connections[alias].vendor) not in {"postgresql", "sqlite"}:
        hint = "Name a database of PostgreSQL or SQLite, or choose another broker."
        message = f"{where}, a database of {vendor}, where two workers would run a task twice."
        return [Error(message, hint=hint, id="worker.E012")]
    if not router.allow_migrate_model(alias, OrmQ):
        hint = "Name the database that the router's allow_migrate() answers for the app django_q."
        return [Error(f"{where}, and a router keeps the queue's table out of it.", hint=hint, id="worker.E013")]
    return []


@register()
def check_clusters(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check Q_CLUSTER: each cluster as it is once ALT_CLUSTERS is merged."""
    base = settings.Q_CLUSTER
    others = base.get("ALT_CLUSTERS")
    if not isinstance(others, Mapping) or not all(isinstance(other, Mapping) for other in others.values()):
        return [
            Error(
                "Q_CLUSTER['ALT_CLUSTERS'] is no dict of dicts.", hint="Write {} if there are none.", id="worker.E030"
            )
        ]
    messages = list(_check_cluster("Q_CLUSTER", base))
    for name, other in others.items():
        where = f"Q_CLUSTER['ALT_CLUSTERS'][{name!r}]"
        messages += _check_cluster(where, {**base, **other})
        if other.get("name", base["name"]) != base["name"]:
            hint = "Leave it out: it salts the signature of tasks, and the key is the cluster's name."
            messages.append(Error(f"{where} has a name of its own.", hint=hint, id="worker.E033"))
    clusters = [base["name"], *others]
    chosen = os.environ.get("Q_CLUSTER_NAME", base["name"])
    if chosen not in clusters:
        hint = _did_you_mean(chosen, clusters)
        messages.append(
            Error(f"Q_CLUSTER_NAME is {chosen!r}, which Q_CLUSTER does not know.", hint=hint, id="worker.E035")
        )
    return messages


def _check_cluster(where: str, cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    for key, least in {"workers": 1, "timeout": 1, "retry": 3, "queue_limit": 1, "bulk": 1, "max_attempts": 0}.items():
        value = cluster.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            hint = f"Write a whole number, at least {least}."
            yield Error(f"{where}: {key} is {value!r}.", hint=hint, id="worker.E031")
    # django-q2 has no list of its settings, but reads each in the same way.
    known = [*re.findall(r'conf\.get\(\s*"(\w+)"', inspect.getsource(conf)), "ALT_CLUSTERS"]
    for key in cluster.keys() - set(known):
        yield Error(f"{where} has the unknown key {key!r}.", hint=_did_you_mean(key, known), id="worker.E034")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else 0
    if cluster.get("max_rss") and cluster["max_rss"] <= used:
        hint = "It is in kB, as the system counts; Q_MAX_MEMORY is in MB. Write more, or 0 for no limit."
        message = f"{where}: max_rss is {cluster['max_rss']}, and a worker begins with {used}"
        yield Error(f"{message}: it would be replaced after each task.", hint=hint, id="worker.E032")
    if cluster.get("max_attempts") == 0:
        hint = "Write the number of attempts, such as 3."
        yield checks.Warning(f"{where}: a task that fails is tried without end.", hint=hint, id="worker.W036")
    if cluster.get("save_limit") == 0:
        hint = "Write the number of results to keep, such as 10_000."
        yield checks.Warning(f"{where}: results of successes pile up without end.", hint=hint, id="worker.W038")


@register()
def check_stop(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that a stop leaves tasks the time that they may run; those of ALT_CLUSTERS may be longer by design.

    It is no warning, which a release would refuse: a task that bears to be run twice may well be longer.
    """
    timeout = settings.Q_CLUSTER.get("timeout")
    if not isinstance(timeout, int) or timeout <= settings.Q_GRACE:
        return []
    return [
        checks.Info(
            f"A task may run {timeout} s, and a stop leaves it {settings.Q_GRACE}: a deploy may cut it off.",
            hint="Lower Q_TIMEOUT, raise Q_GRACE if the platform waits for longer, or give long tasks their own queue.",
            id="worker.I039",
        )
    ]


@register()
def check_pool(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that no database has a pool: the cluster forks, and its processes would share the pool's connections."""
    return [
        Error(
            f"DATABASES[{alias!r}] has a connection pool, which does not outlive the fork of a worker.",
            hint="Take it out of OPTIONS; CONN_MAX_AGE keeps connections.",
            id="worker.E021",
        )
        for alias, database in settings.DATABASES.items()
        if database.get("OPTIONS", {}).get("pool")
    ]


@register()
def check_served(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that each cluster has a process."""
    if check_processes(app_configs):
        return []  # reported already, and a process could not be asked
    served = {process.cluster for process in workers()}
    return [
        checks.Warning(
            f"No process of PRODUCTION_PROCESSES serves the cluster {name!r}: its tasks would wait for ever.",
            hint="Add {'BACKEND': 'worker.backend.DjangoQ2Worker', 'ARGS': {'name': …}}.",
            id="worker.W037",
        )
        for name in [settings.Q_CLUSTER["name"], *(settings.Q_CLUSTER.get("ALT_CLUSTERS") or ())]
        if name not in served
    ]


@register(Tags.caches)
def check_cache(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that the cache which carries the signs of life is shared by all processes."""
    alias = settings.Q_CLUSTER.get("cache", "default")
    backend = settings.CACHES.get(alias, {}).get("BACKEND", "")
    if backend.rpartition(".")[2] not in {"", "DummyCache", "LocMemCache"}:
        return []
    return [
        checks.Warning(
            f"CACHES[{alias!r}] is not shared by the processes, so web cannot see whether a worker is alive.",
            hint="Use django.core.cache.backends.db.DatabaseCache.",
            id="worker.W011",
        )
    ]


@register(Tags.database, deploy=True)
def check_database(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that production has a database which is still there after the next deploy."""
    if settings.DEBUG:
        return []
    if not os.environ.get("DATABASE_URL"):
        hint = "Set it, as in postgres://user:password@host:5432/name."
        return [Error("DATABASE_URL is not set, and DEBUG is off.", hint=hint, id="worker.E020")]
    if reason := _why_sqlite_is_lost(settings.DATABASES["default"]):
        hint = "Set it to a server's, as in postgres://user:password@host:5432/name."
        return [Error(f"DATABASE_URL names a SQLite database, and {reason}.", hint=hint, id="worker.E022")]
    return []


def _why_sqlite_is_lost(database: Mapping[str, Any]) -> str:
    """Return why a database of SQLite will be gone after the next deploy; "" if it will not, or is no SQLite."""
    if not database["ENGINE"].endswith("sqlite3"):
        return ""
    name = str(database["NAME"])
    if ":memory:" in name or "mode=memory" in name:
        return "one in memory ends with its process"
    if Path(name).resolve().is_relative_to(getattr(settings, "BASE_DIR", Path.cwd())):
        return "a file in the project's folder is replaced with it at the next deploy"
    if announced := [variable for variable in EPHEMERAL if variable in os.environ]:
        return f"this machine's disk goes with it, as {announced[0]} tells"
    return ""
