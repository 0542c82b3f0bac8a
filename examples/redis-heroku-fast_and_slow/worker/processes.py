"""The processes that PRODUCTION_PROCESSES names, as the rest of this app sees them."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings
from django.utils.module_loading import import_string
from django_prodserver.backends.base import BaseWorkerBackend


@dataclass(frozen=True)
class Process:
    """One entry of PRODUCTION_PROCESSES."""

    name: str
    is_worker: bool
    cluster: str  #: the cluster that a worker serves, "" for any other process

    @property
    def command(self) -> str:
        """The command that starts it."""
        return f"python manage.py prodserver {self.name}"


def processes() -> Iterator[Process]:
    """Yield the processes in the order of the setting, which the system checks have found sound."""
    for name, entry in settings.PRODUCTION_PROCESSES.items():
        is_worker = issubclass(import_string(entry["BACKEND"]), BaseWorkerBackend)
        cluster = entry.get("ARGS", {}).get("name", settings.Q_CLUSTER["name"])
        yield Process(name, is_worker, cluster if is_worker else "")


def workers() -> list[Process]:
    """Return the worker processes."""
    return [process for process in processes() if process.is_worker]
