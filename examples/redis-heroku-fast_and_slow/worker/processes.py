"""The processes that PRODUCTION_PROCESSES names, and the clusters of Q_CLUSTER, as the rest of this app sees them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string
from django_prodserver.backends.base import BaseWorkerBackend

from worker import __version__

DEFAULT = "default"  #: the queue of the first cluster, as Django's tasks call it
stand_in = ""  #: the cluster that takes the place of the first, beside a test


def about() -> str:
    """Return what people are told of this app: its version, by which they find its changes."""
    return f"worker/ {__version__}"


@dataclass(frozen=True)
class Process:
    """One entry of PRODUCTION_PROCESSES."""

    name: str
    is_worker: bool
    cluster: str  #: the cluster that a worker serves, "" for any other process

    @property
    def command(self) -> str:
        return f"python manage.py prodserver {self.name}"


def processes() -> Iterator[Process]:
    """Yield the processes in the order of the setting, which the system checks have found sound."""
    for name, entry in settings.PRODUCTION_PROCESSES.items():
        is_worker = issubclass(import_string(entry["BACKEND"]), BaseWorkerBackend)
        cluster = entry.get("ARGS", {}).get("name", settings.Q_CLUSTER["name"])
        yield Process(name, is_worker, cluster if is_worker else "")


def workers() -> list[Process]:
    return [process for process in processes() if process.is_worker]


def clusters() -> list[str]:
    """Return the names of the clusters, each of which serves a queue."""
    return [settings.Q_CLUSTER["name"], *(settings.Q_CLUSTER.get("ALT_CLUSTERS") or ())]


def unserved() -> list[str]:
    """Return the clusters that no process serves; the one beside a test is served by the test."""
    return sorted({*clusters()} - {process.cluster for process in workers()} - {stand_in})


def queues() -> list[str]:
    """Return what Django's tasks call these queues."""
    return [DEFAULT, *(name for name in clusters()[1:] if name != stand_in)]


def cluster_of(queue: str) -> str:
    """Return the cluster that serves a queue of Django's tasks."""
    return (stand_in or clusters()[0]) if queue == DEFAULT else queue


def cluster_named(name: Any) -> Any:
    """Return the cluster that somebody names, perhaps as Django's tasks call its queue."""
    return name if name is None or name in clusters() else cluster_of(name)


def queue_of(cluster: str | None) -> str:
    """Return what Django's tasks call the queue of a cluster."""
    return DEFAULT if cluster in {None, clusters()[0], stand_in or None} else str(cluster)


def unknown_cluster(name: str | None) -> str:
    """Return a sentence if there is no such cluster; none at all is the first."""
    known = clusters()
    return (
        f"Q_CLUSTER knows no cluster {name!r}. {did_you_mean(str(name), known)}" if name and name not in known else ""
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a sentence that helps who has mistyped a word."""
    return nearest(word, known) or f"Known are: {', '.join(sorted(known))}."


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a sentence that names what is much like a word, "" if nothing is."""
    by_lower_case = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower_case, n=1)
    return f"Did you mean {by_lower_case[close[0]]!r}?" if close else ""
