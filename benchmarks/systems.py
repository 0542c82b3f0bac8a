"""The systems that are measured, each with its settings: those of its own documentation, and the best that it has."""

from dataclasses import dataclass, replace

PROJECT = ("manage.py", "prodserver", "worker")
QCLUSTER = ("-m", "django", "qcluster")
NO_LOOK = "2 processes, no look at the kept results for each result, connections kept, logs of warnings only"
DOCUMENTED = "2 processes, else as its documentation begins"
#: By group of packages in pyproject.toml, the oldest Python that has them.
PYTHONS = {"peers": (3, 11), "newer-peers": (3, 12)}


@dataclass(frozen=True)
class System:
    """A queue, its settings, and how to fill and to drain it."""

    key: str
    title: str
    broker: str  #: whose servers it needs
    settings: str
    tasks: int  #: of a drain: one or two seconds of it
    module: str  #: its DJANGO_SETTINGS_MODULE
    fill: str  #: the module that queues tasks
    workers: tuple[tuple[str, ...], ...]  #: arguments of Python
    saved: str = ""  #: SQL that counts its results, if it logs no line for each that is saved
    keeps: bool = True  #: whether it keeps results
    database: str = "postgresql"
    packages: str = ""  #: the group of pyproject.toml that has them, "" for the project's own
    processes: int = 6  #: of a worker with two that run tasks, all included
    workers_at_once: int = 2  #: of ours

    @property
    def is_peer(self) -> bool:
        """Whether it is another queue than django-q2."""
        return bool(self.packages)

    @property
    def queue(self) -> str:
        """How its tasks are queued; what stands behind in a key says how it runs them."""
        return self.key.partition("@")[0]

    @property
    def place(self) -> str:
        """Where its tasks wait."""
        in_database = "SQLite" if self.database == "sqlite" else "PostgreSQL"
        return {"mongodb": "MongoDB", "orm": in_database, "redis": "Redis", "sqs": "SQS"}[self.broker]


def ours(broker: str, tasks: int, database: str = "postgresql") -> System:
    """Return this worker, as it is generated."""
    key = f"ours-{database if broker == 'orm' else broker}"
    settings = "as generated: 2 processes"
    return System(
        key,
        "this worker",
        broker,
        settings,
        tasks,
        "bench_settings",
        "bench.fill",
        (PROJECT,),
        database=database,
        processes=4,
    )


def upstream(broker: str, tasks: int, kind: str = "best", database: str = "postgresql") -> System:
    """Return django-q2's own worker and broker."""
    key = f"django-q2-{kind}-{database if broker == 'orm' else broker}"
    settings = {"best": NO_LOOK, "documented": DOCUMENTED}[kind]
    module = {"best": "bench_upstream_settings", "documented": "bench_documented_settings"}[kind]
    title = f"django-q2 1.11.1, {kind} settings"
    return System(key, title, broker, settings, tasks, module, "bench.fill", (QCLUSTER,), "", True, database)


def peer(
    key: str, title: str, broker: str, settings: str, tasks: int, *workers: tuple[str, ...], saved: str = ""
) -> System:
    """Return another queue."""
    keeps = bool(saved)
    fill = "peers.fill"
    return System(key, title, broker, settings, tasks, "peers.settings", fill, workers, saved, keeps, packages="peers")


def newer(key: str, title: str, broker: str, settings: str, tasks: int, *arguments: str, saved: str = "") -> System:
    """Return another queue that runs Django's own tasks, on a newer Django and Python than those above."""
    workers, packages = (("-m", "django", *arguments),), "newer-peers"
    return System(key, title, broker, settings, tasks, "newer_settings", FILL, workers, saved, packages=packages)


CELERY = ("-m", "celery", "-A", "peers.celery_app", "worker", "--concurrency=2", "--loglevel=WARNING")
RQ = ("-m", "django", "rqworker-pool", "default", "--num-workers=2", "--verbosity=0")
FILL = "bench.enqueue_tasks"  #: queues Django's tasks
NEWER = "2 processes, connections kept; Django 6.1"
TWO = [
    ours("redis", 16_000),
    upstream("redis", 1000),
    upstream("redis", 150, "documented"),
    peer("celery", "Celery 5.7, no results", "redis", "prefork, 2 processes, results ignored", 1200, CELERY),
    peer(
        "celery-db",
        "Celery 5.7, django-db results",
        "redis",
        "prefork, 2 processes, CELERY_DB_REUSE_MAX 1000",
        800,
        CELERY,
        saved="SELECT count(*) FROM django_celery_results_taskresult WHERE status = 'SUCCESS'",
    ),
    peer(
        "huey",
        "huey 3.5, no results",
        "redis",
        "2 processes, results off",
        10_000,
        ("-m", "django", "run_huey", "--worker-type=process", "--workers=2", "--quiet"),
    ),
    peer(
        "dramatiq",
        "dramatiq 2.2, no results",
        "redis",
        "2 processes of 1 thread, its documentation's middleware without AdminMiddleware and Prometheus",
        1000,
        ("-m", "dramatiq", "django_dramatiq.setup", "peers.tasks", "--processes=2", "--threads=1", "--skip-logging"),
    ),
    peer("rq", "RQ 3.0, results in Redis", "redis", "worker-pool of 2, which fork for each task", 100, RQ),
    peer(
        "rq-simple",
        "RQ 3.0, SimpleWorker",
        "redis",
        "worker-pool of 2 with SimpleWorker, results in Redis",
        600,
        (*RQ, "--worker-class=rq.worker.SimpleWorker"),
    ),
    newer("threadmill", "threadmill 0.3", "redis", NEWER, 1000, "threadmill", "worker", "--workers=2"),
    ours("orm", 12_000),
    upstream("orm", 700),
    upstream("orm", 100, "documented"),
    peer(
        "procrastinate",
        "procrastinate 3.10",
        "orm",
        "2 processes",
        1000,
        *[("-m", "django", "procrastinate", "worker", "--concurrency=1")] * 2,
        saved="SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'",
    ),
    peer(
        "tasks-db",
        "django-tasks-db 0.13",
        "orm",
        "2 processes, connections kept",
        800,
        *[("-m", "django", "db_worker", "--no-startup-delay", "--interval=0.1", "--no-reload")] * 2,
        saved="SELECT count(*) FROM django_tasks_database_dbtaskresult WHERE status = 'SUCCESSFUL'",
    ),
    newer(
        "django-ox",
        "django-ox 1.9",
        "orm",
        NEWER,
        1000,
        "ox_worker",
        "--processes=2",
        saved="SELECT count(*) FROM django_ox_oxtask WHERE status = 'SUCCESSFUL'",
    ),
    ours("orm", 8000, "sqlite"),
    upstream("orm", 1500, database="sqlite"),
    ours("sqs", 300),
    upstream("sqs", 100),
    ours("mongodb", 1000),
    upstream("mongodb", 150),
]
#: Those that go through tasks of no kind of Django's, which the others do not know.
DRAINED = [system.key for system in TWO if system.packages != "newer-peers"]


def at_once(key: str, settings: str, tasks: int, *arguments: str) -> System:
    """Return a system of that list with a hundred tasks at once: by further arguments, or by Q_WORKERS."""
    system = next(system for system in TWO if system.key == key)
    workers = ((*system.workers[0], *arguments),)  # of two arguments of one name, the last counts
    return replace(system, key=f"{key}@100", settings=settings, tasks=tasks, workers=workers, workers_at_once=100)


TWICE_50 = "2 processes of 50 threads"
#: Those that run a hundred tasks at once.
AT_ONCE = [
    at_once("ours-redis", "100 processes", 2000),
    at_once("celery", "100 threads", 1500, "--pool=threads", "--concurrency=100"),
    at_once("huey", "100 threads", 2000, "--worker-type=thread", "--workers=100"),
    at_once("dramatiq", TWICE_50, 2000, "--threads=50"),
    at_once("threadmill", TWICE_50, 1000, "--threads=50"),
    at_once("ours-postgresql", "100 processes", 2000),
    at_once("procrastinate", "1 process with 100 at once", 800, "--concurrency=100"),
    at_once("django-ox", TWICE_50, 1000, "--concurrency=50"),
]
SYSTEMS = [*TWO, *AT_ONCE]
#: Those that are given Django's own tasks.
DJANGO_TASKS = ["ours-redis", "threadmill", "ours-postgresql", "django-ox", "tasks-db"]
#: Those that delay a task, ours over each broker.
DELAYED = [*DJANGO_TASKS, "ours-sqlite", "ours-sqs", "ours-mongodb"]
#: Those whose start is looked at: of each server what Django projects have most.
STARTED = ["ours-redis", "django-q2-best-redis", "celery"]
STARTED += ["ours-postgresql", "django-q2-best-postgresql", "tasks-db", "django-ox"]
#: Those of a quick run: of each server the two workers that are compared everywhere, and the fastest other queue.
QUICK = ["ours-redis", "django-q2-best-redis", "huey", "ours-postgresql", "django-q2-best-postgresql", "procrastinate"]
#: Those that go through the realistic task: what waits in it is the same for all.
REALISTIC = ["ours-redis", "django-q2-best-redis", "celery", "celery-db", "huey", "dramatiq", "rq-simple"]
REALISTIC += ["ours-postgresql", "procrastinate", "tasks-db"]
