"""The django-prodserver backend of the worker processes."""

import os
import signal
import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django_prodserver.backends.workers import django_q2


def begin_as(cluster: str) -> None:
    """Let this process be one of this cluster: begin again, under the same pid, if it is not yet.

    qcluster reads --name too late: django_q.conf has by then merged the settings of the cluster that Q_CLUSTER_NAME
    names (django-q2 1.11.1).
    """
    from django_q.conf import Conf

    if cluster and cluster != Conf.CLUSTER_NAME:
        os.environ["Q_CLUSTER_NAME"] = cluster
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (no shell wanted)


class DjangoQ2Worker(django_q2.DjangoQ2Worker):
    """Starts a cluster. Its one argument, `{"name": "slow"}`, names one of ALT_CLUSTERS."""

    def __init__(self, **config: Any) -> None:
        """Make sure that all is there that the cluster needs.

        Raises:
            ImproperlyConfigured: If django-q2, its app or the broker's client package is missing.
        """
        super().__init__(**config)
        from django_q.conf import Conf

        try:
            import_string(Conf.BROKER_CLASS)
            import_string("croniter.croniter")
        except (ModuleNotFoundError, ImportError) as error:
            raise ImproperlyConfigured(
                f"The worker needs the package {error.name}, which is not installed here: run `uv sync`, "
                f"or `uv add {error.name}` if it was removed."
            ) from error

    def start_server(self, *args: str) -> None:
        """Run a cluster until it is stopped, once database and broker answer; then end this process.

        Raises:
            ImproperlyConfigured: On a system without fork().
        """
        if not hasattr(os, "fork"):
            raise ImproperlyConfigured(
                "The worker runs on Linux and macOS: on Windows, start it in WSL or a container."
            )
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until the cluster takes it; PID 1 would ignore it
        begin_as(self.cluster_name())
        from worker.cluster.supervisor import Supervisor

        if sys.stdout:
            sys.stdout.flush()  # or each process would write what is in it
        Supervisor().run()

    def cluster_name(self) -> str:
        """Return the cluster that the arguments name, "" if none."""
        return next((arg.partition("=")[2] for arg in self.args if arg.startswith("--name=")), "")
