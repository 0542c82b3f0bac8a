"""`qcluster` is what `prodserver worker` starts, in the place of django-q2's (1.11.1), which hangs at SIGTERM."""

import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django_q.conf import Conf

from worker.checks import require_database


def begin_as(cluster: str) -> None:
    """Let this process be one of this cluster: begin again, under the same pid, if it is not yet.

    django_q.conf has merged the settings of the cluster that Q_CLUSTER_NAME names before any command reads --name.
    """
    if cluster and cluster != Conf.CLUSTER_NAME:
        os.environ["Q_CLUSTER_NAME"] = cluster
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (no shell wanted)


class Command(BaseCommand):
    """Runs a cluster until it is stopped, once database and broker answer; then ends this process."""

    help = "Run a cluster, as `prodserver worker` does."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("-n", "--name", default="", help="the cluster, if another than Q_CLUSTER_NAME says")

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        if not hasattr(os, "fork"):
            raise CommandError("The worker runs on Linux and macOS: on Windows, start it in WSL or a container.")
        require_database("worker.E020")
        begin_as(name)
        from worker.cluster.forks import room_for_files
        from worker.cluster.supervisor import Supervisor

        room_for_files(Conf.WORKERS)
        if sys.stdout:
            sys.stdout.flush()  # or each process would write what is in it
        Supervisor().run()
