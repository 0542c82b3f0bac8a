"""System checks of what the processes need, run by `manage.py check` and before each process starts."""

import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.utils.module_loading import import_string
from django_prodserver.backends.base import BaseProcessBackend, BaseWorkerBackend
from django_q import conf
from django_q.models import OrmQ, Schedule

from worker import __version__, manifest
from worker.conf import setting
from worker.delivery import brief
from worker.processes import clusters, did_you_mean, nearest, unknown_cluster, unserved

ENTRY = "{'BACKEND': 'django_prodserver.backends.workers.django_q2.DjangoQ2Worker', 'ARGS': {'name': 'slow'}}"
# Variables by which platforms announce themselves whose machines come and go, and with them their disks.
EPHEMERAL = (
    "DYNO",  # Heroku
    "RENDER",  # Render
    "FLY_APP_NAME",  # Fly.io
    "RAILWAY_ENVIRONMENT_NAME",  # Railway
    "KUBERNETES_SERVICE_HOST",  # Kubernetes
)
NOWHERE = {"host": "/-", "hostaddr": ""}  #: where no server is
LIBPQ = "Take it out of what follows the ?, or see https://www.postgresql.org/docs/current/libpq-connect.html."
HOST = r"(?i)\*|\.?[a-z0-9-]+(\.[a-z0-9-]+)*|\[[a-f0-9:.]+\]"  #: what ALLOWED_HOSTS can match
ORIGIN = r"[a-z][a-z0-9+.-]*://((\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*|\[[a-f0-9:.]+\])(:\d+)?"  #: what a browser can send
MOST = 10  #: names that are told at a time
OWN_PORT = r"https://.*:443|http://.*:80"  #: which a browser leaves out
WHOLE = {"workers": 1, "timeout": 1, "retry": 3, "queue_limit": 1, "bulk": 1, "max_attempts": 0}  #: numbers, the least
OPTIONAL = {"recycle": 0, "save_limit": -1, "max_rss": 0, "cpu_affinity": 0}  #: likewise, where they are set
#: numbers beside Q_CLUSTER, from 1 to this, 0 for no limit
SETTINGS = {"Q_GRACE": 0, "Q_KEEP_FAILURES": 36_500, "Q_KEEP_RESULTS": 36_500, "Q_MOST_RESULTS": 0, "Q_QUIET": 0}


def wrong_process(entry: Any) -> str:
    """Return what is wrong with an entry of PRODUCTION_PROCESSES, "" if nothing is."""
    if not isinstance(entry, Mapping):
        return f"it is a {type(entry).__name__}."
    if unknown := entry.keys() - {"BACKEND", "ARGS"}:
        return f"the key {min(unknown)!r} is unknown."
    if "BACKEND" not in entry:
        return "it has no BACKEND."
    try:
        backend = import_string(entry["BACKEND"])
        if not issubclass(backend, BaseProcessBackend):
            raise TypeError("it is not a backend of django-prodserver")
    except (AttributeError, ImportError, TypeError) as error:
        return f"the BACKEND {entry['BACKEND']!r} cannot be used: {error}."
    args = entry.get("ARGS", {})
    if not isinstance(args, Mapping) or not all(
        isinstance(option, str) and isinstance(value, str | None) for option, value in args.items()
    ):
        return f"ARGS {args!r} is not a dict of strings."
    return unknown_cluster(args.get("name")) if issubclass(backend, BaseWorkerBackend) else ""


@register()
def check_processes(**_: Any) -> Iterator[CheckMessage]:
    """Check PRODUCTION_PROCESSES, and that each cluster has a process in it."""
    processes = getattr(settings, "PRODUCTION_PROCESSES", None)
    if not isinstance(processes, Mapping) or not processes:
        hint = "Write {'web': {'BACKEND': …}, 'worker': {'BACKEND': …}}."
        yield Error("PRODUCTION_PROCESSES is not a dict of processes.", hint=hint, id="worker.E001")
        return
    wrong = {name: problem for name, entry in processes.items() if (problem := wrong_process(entry))}
    for name, problem in wrong.items():
        hint = f"Write one such as {ENTRY}, with None for an option without a value."
        yield Error(f"PRODUCTION_PROCESSES[{name!r}]: {problem}", hint=hint, id="worker.E002")
    for name in [] if wrong else unserved():
        problem = f"No process of PRODUCTION_PROCESSES serves the cluster {name!r}: its tasks would wait for ever."
        yield Warning(problem, hint=f"Add one such as {ENTRY}.", id="worker.W037")


def wrong_number(name: str, value: Any, least: int, most: int = 0) -> Iterator[CheckMessage]:
    """Yield what is wrong with a setting that is a whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or 0 < most < value:
        hint = f"Write a whole number, {f'from {least} to {most:,}' if most else f'at least {least}'}."
        yield Error(f"{name} is {value!r}.", hint=hint, id="worker.E031")


def wrong_cluster(where: str, cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    """Yield what is wrong with the settings of a cluster."""
    for key, least in WHOLE.items():
        yield from wrong_number(f"{where}: {key}", cluster.get(key), least)
    for key, least in OPTIONAL.items():
        yield from wrong_number(f"{where}: {key}", cluster.get(key) or least, least)
    # django-q2 1.11.1 has no list of its settings, but reads each in the same way.
    known = [*re.findall(r'conf\.get\(\s*"(\w+)"', inspect.getsource(conf)), "ALT_CLUSTERS"]
    for key in cluster.keys() - set(known):
        yield Error(f"{where} has the unknown key {key!r}.", hint=did_you_mean(key, known), id="worker.E034")
    used = conf.resource.getrusage(conf.resource.RUSAGE_SELF).ru_maxrss if conf.resource else 0
    if isinstance(most := cluster.get("max_rss"), int) and 0 < most <= used:
        problem = f"{where}: max_rss is {most}, and a worker begins with {used}: each task would end it."
        hint = "It is in kB, as the system counts; Q_MAX_MEMORY is in MB. Write more, or 0 for no limit."
        yield Error(problem, hint=hint, id="worker.E032")
    if cluster.get("max_attempts") == 0:
        hint = "Write the number of attempts, such as 3."
        yield Warning(f"{where}: a task that fails is tried without end.", hint=hint, id="worker.W036")


@register()
def check_clusters(**_: Any) -> Iterator[CheckMessage]:
    """Check Q_CLUSTER: each cluster as it is once ALT_CLUSTERS is merged."""
    base = settings.Q_CLUSTER
    others = base.get("ALT_CLUSTERS")
    if not isinstance(others, Mapping) or not all(isinstance(other, Mapping) for other in others.values()):
        yield Error("Q_CLUSTER['ALT_CLUSTERS'] is no dict of dicts.", hint="Write {} for none.", id="worker.E030")
        return
    wrong = [problem for name, most in SETTINGS.items() for problem in wrong_number(name, setting(name), 1, most)]
    yield from wrong
    if wrong:
        return
    if not isinstance(zone := base.get("time_zone") or "UTC", str) or zone not in available_timezones():
        hint = f"Write one such as 'Europe/Zurich'. {nearest(str(zone), available_timezones())}"
        yield Error(f"Q_CLUSTER: time_zone is {zone!r}.", hint=hint.rstrip(), id="worker.E031")
    yield from wrong_cluster("Q_CLUSTER", base)
    for name, other in others.items():
        where = f"Q_CLUSTER['ALT_CLUSTERS'][{name!r}]"
        yield from wrong_cluster(where, {**base, **other})
        if other.get("name", base["name"]) != base["name"]:
            hint = "Leave it out: it salts the signature of tasks, and the key is the cluster's name."
            yield Error(f"{where} has a name of its own.", hint=hint, id="worker.E033")
    chosen = os.environ.get("Q_CLUSTER_NAME", base["name"])
    if problem := unknown_cluster(chosen):
        yield Error(f"Q_CLUSTER_NAME is wrong: {problem}", id="worker.E035")
    if isinstance(timeout := base.get("timeout"), int) and timeout > setting("Q_GRACE"):
        # No warning, which a release would refuse: a task that bears to be run twice may well be longer.
        problem = f"A task may run {timeout} s, and a stop leaves it {setting('Q_GRACE')}: a deploy may cut it off."
        hint = "Lower Q_TIMEOUT, raise Q_GRACE if the platform waits for longer, or give long tasks their own queue."
        yield Info(problem, hint=hint, id="worker.I039")


@register()
def check_broker(**_: Any) -> Iterator[CheckMessage]:
    """Check that the broker's packages are there, and what it is told: its settings and URL. No server is asked."""
    try:
        getattr(import_string(settings.Q_CLUSTER["broker_class"]), "check_settings", list)()
    except ModuleNotFoundError as error:
        hint = f"Run `uv sync`, or `uv add {error.name}` if it was removed."
        yield Error(f"The package {error.name} is needed, and not installed here.", hint=hint, id="worker.E010")
    except (ImportError, ImproperlyConfigured) as error:
        yield Error(str(error), id="worker.E014")


@register()
def check_databases(**_: Any) -> Iterator[CheckMessage]:
    """Check the options of each database, which is not asked itself."""
    for alias, database in settings.DATABASES.items():
        if not database.get("AUTOCOMMIT", True):
            problem = f"DATABASES[{alias!r}] has no AUTOCOMMIT: each task would leave a transaction open."
            yield Error(problem, hint="Take that out; transaction.atomic() begins transactions.", id="worker.E026")
        if database.get("OPTIONS", {}).get("pool"):
            # The cluster forks, and its processes would share the pool's connections.
            problem = f"DATABASES[{alias!r}] has a connection pool, which does not outlive the fork of a worker."
            yield Error(problem, hint="Take it out of OPTIONS; CONN_MAX_AGE keeps connections.", id="worker.E021")
        elif connections[alias].vendor == "postgresql" and (problem := refused_option(connections[alias])):
            where = "DATABASE_URL" if alias == DEFAULT_DB_ALIAS else f"DATABASES[{alias!r}]"
            yield Error(f"{where} has an option that cannot be used: {problem}.", hint=LIBPQ, id="worker.E024")


@register(Tags.database)
def check_servers(databases: Collection[str] | None = None, **_: Any) -> Iterator[CheckMessage]:
    """Ask the databases that a command is about to change; `check` asks none by itself."""
    for alias in databases or ():
        try:
            connections[alias].ensure_connection()
        except DatabaseError as error:
            problem = f"The database {alias} does not answer ({brief(error)})."
            yield Error(problem, hint="Start its server, or change what its URL says.", id="worker.E025")


@register(Tags.database)
def check_strangers(databases: Collection[str] | None = None, **_: Any) -> Iterator[CheckMessage]:
    """Name what waits for a cluster that is not there: with another "name", what was queued before is never run."""
    if not databases:
        return
    own = f"The clusters of Q_CLUSTER are {', '.join(map(repr, clusters()))}. Take the former name, or delete it."
    for place in foreign_queues():
        yield Warning(f"Tasks wait in {place}, which no cluster serves.", hint=own, id="worker.W038")
    with suppress(DatabaseError):  # the table is not there yet, or the database is away
        rows = Schedule.objects.exclude(cluster=None).exclude(cluster__in=[*clusters(), ""])
        for name in rows.values_list("cluster", flat=True).distinct().order_by("cluster")[:MOST]:
            yield Warning(f"Schedules wait for the cluster {name!r}, which is not there.", hint=own, id="worker.W041")


def foreign_queues() -> Iterator[str]:
    """Yield where tasks wait that no cluster takes."""
    alias = settings.Q_CLUSTER.get("orm")
    with suppress(DatabaseError):
        rows = OrmQ.objects.using(alias or DEFAULT_DB_ALIAS).exclude(key__in=clusters() if alias else [])
        for key in rows.values_list("key", flat=True).distinct().order_by("key")[:MOST]:
            yield f"the table django_q_ormq with the key {key!r}"
    with suppress(ImportError, ImproperlyConfigured):  # which check_broker() tells
        broker = import_string(settings.Q_CLUSTER["broker_class"])
        if hasattr(broker, "lists"):
            yield from sorted({*broker().lists()} - {f"django_q:{name}:q" for name in clusters()})[:MOST]


def refused_option(connection: Any) -> str:
    """Return why libpq refuses the options of a connection, "" if it does not. It connects to no server."""
    from psycopg import ProgrammingError, conninfo, pq

    parameters = connection.get_connection_params()
    own = {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}  # psycopg's
    try:
        text = conninfo.make_conninfo(**{key: value for key, value in parameters.items() if key not in own} | NOWHERE)
    except ProgrammingError as error:
        return str(error).strip()
    attempt = pq.PGconn.connect_start(text.encode())
    problem = attempt.error_message.decode().strip()
    attempt.finish()
    return problem if problem.startswith("invalid") else ""


@register(Tags.caches)
def check_cache(**_: Any) -> Iterator[CheckMessage]:
    """Check that the cache, into which workers put results of the option `cached`, is shared by all processes."""
    alias = settings.Q_CLUSTER.get("cache", "default")
    backend = settings.CACHES.get(alias, {}).get("BACKEND", "")
    if backend.rpartition(".")[2] in {"", "DummyCache", "LocMemCache"}:
        problem = f"CACHES[{alias!r}] is not shared by the processes, so web cannot see the results of `cached` tasks."
        yield Warning(problem, hint="Use django.core.cache.backends.db.DatabaseCache.", id="worker.W011")


@register(deploy=True)
def check_task_backends(**_: Any) -> Iterator[CheckMessage]:
    """Check that no entry of TASKS runs its tasks in web, or not at all, as those that are meant for tests do."""
    for alias, entry in (getattr(settings, "TASKS", None) or {DEFAULT_DB_ALIAS: {}}).items():
        if (name := str(entry.get("BACKEND")).rpartition(".")[2]) in {"None", "DummyBackend", "ImmediateBackend"}:
            problem = f"TASKS[{alias!r}] has the BACKEND {name}: a worker runs none of its tasks."
            hint = "Write worker.tasks.Backend, or take the entry out."
            yield Warning(problem, hint=hint, id="worker.W051")


@register(Tags.security, deploy=True)
def check_hosts(**_: Any) -> Iterator[CheckMessage]:
    """Check that each name of the site can be one that a browser sends."""
    for name, pattern, example in (
        ("ALLOWED_HOSTS", HOST, "names without scheme, port, path or quotes, as in www.example.com,.example.org"),
        ("CSRF_TRUSTED_ORIGINS", ORIGIN, "scheme and name in small letters and no more, as in https://www.example.com"),
    ):
        for value in getattr(settings, name):
            if not re.fullmatch(pattern, value) or re.fullmatch(OWN_PORT, value):
                hint = f"Write {example}, separated by commas; a $NAME must be the name of a variable that is set."
                yield Warning(f"{name} has {value!r}, which can never match.", hint=hint, id="worker.W023")


@register(deploy=True)
def check_database(**_: Any) -> Iterator[CheckMessage]:
    """Check that production has a database which is still there after the next deploy."""
    database = settings.DATABASES[DEFAULT_DB_ALIAS]
    if settings.DEBUG or not database["ENGINE"].endswith("sqlite3"):
        return
    hint = "Set it to a server's, as in postgres://user:password@host:5432/name."
    name = str(database["NAME"])
    lost = ""
    if not os.environ.get("DATABASE_URL"):
        yield Error("DATABASE_URL is not set, and DEBUG is off.", hint=hint, id="worker.E020")
    elif ":memory:" in name or "mode=memory" in name:
        lost = "one in memory ends with its process"
    elif Path(name).resolve().is_relative_to(setting("BASE_DIR")):
        lost = "a file in the project's folder is replaced with it at the next deploy"
    elif announced := [variable for variable in EPHEMERAL if variable in os.environ]:
        lost = f"this machine's disk goes with it, as {announced[0]} tells"
    if lost:
        yield Error(f"DATABASE_URL names a SQLite database, and {lost}.", hint=hint, id="worker.E022")


@register()
def check_release(**_: Any) -> Iterator[CheckMessage]:
    """Check that this app is as it was released: what is changed in it would be lost with its next version."""
    try:
        changed = manifest.changed()
    except (OSError, ValueError) as error:
        changed = [f"{manifest.NAME} ({error})"]
    if changed:
        # No warning, which a release would refuse: a fix may be wanted before it is released.
        problem = f"worker/ is not as version {__version__} was released: {', '.join(changed)}."
        hint = "Its next version replaces it whole. Move what is yours into an app, or ask for it upstream."
        yield Info(problem, hint=hint, id="worker.I060")


def require_database(*refused: str) -> None:
    """Go on only with a database that is meant."""
    for problem in check_database():
        if problem.id in refused:
            raise CommandError(f"{problem.msg} {problem.hint}")
