"""The tasks, as each queue knows them."""

from typing import Any

import django_rq
import dramatiq
from bench.apps import note
from bench.tasks import nothing, wait, work
from django_tasks import task as database_task
from huey.contrib import djhuey
from procrastinate.contrib.django import app as procrastinate

from peers.celery_app import app as celery


def run(name: str) -> None:
    """Run a task, and note when."""
    note("ran")
    {"nothing": nothing, "wait": wait, "work": work}[name]()
    note("ended")


@database_task()  # type: ignore[untyped-decorator]
def on_database(name: str) -> None:
    """Run a task; this queue looks for it under its function's name."""
    run(name)


def on_rq(name: str) -> Any:
    """Queue a task; this queue takes any function."""
    return django_rq.get_queue("default").enqueue(run, name)


on_celery = celery.task(name="run")(run)
on_dramatiq = dramatiq.actor(run)
on_huey = djhuey.db_task()(run)
on_procrastinate = procrastinate.task(name="run")(run)

QUEUE = {
    "celery": on_celery.delay,
    "celery-db": on_celery.delay,
    "dramatiq": on_dramatiq.send,
    "huey": on_huey,
    "procrastinate": on_procrastinate.defer,
    "rq": on_rq,
    "rq-simple": on_rq,
    "tasks-db": on_database.enqueue,
}
