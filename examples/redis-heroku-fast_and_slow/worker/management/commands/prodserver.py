"""`prodserver NAME` starts one process of PRODUCTION_PROCESSES.

django-prodserver 3.0.0 has a command of this name, which refuses workers and is to go in 4.0.0; its successors
`server` and `worker` work beside this one, but run no system checks.
"""

import logging
import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import connections
from django_prodserver.backends.base import BaseProcessBackend
from django_prodserver.management.base import BaseProcessCommand

from worker.checks import require_database
from worker.delivery import brief
from worker.health import missing_tables
from worker.management.commands.qcluster import begin_as
from worker.processes import about, processes


class Command(BaseProcessCommand):
    """Starts a process, web server or worker, once the system checks have passed."""

    help = "Start one process of PRODUCTION_PROCESSES, such as web or worker."
    backend_base_class = BaseProcessBackend

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the name, which start_process() looks up: argparse would answer a wrong one with its usage."""
        parser.add_argument("process_name", nargs="?", help="the process to start")
        parser.add_argument("--list", action="store_true", help="name the processes, and start none")

    def start_process(self, process_name: str, *args: Any, **options: Any) -> None:
        require_database("worker.E020")
        found = {process.name: process for process in processes()}
        if process_name not in found:
            problem = f"There is no process {process_name!r}" if process_name else "The name of a process is missing"
            raise CommandError(f"{problem}: PRODUCTION_PROCESSES has {', '.join(found)}.")
        begin_as(found[process_name].cluster)
        if settings.DEBUG and "MAKE_RUN" in os.environ:
            from worker.development import reloader

            reloader.begin(process_name)
        self.check()
        if not found[process_name].is_worker and (problem := missing_tables()):  # for which a worker waits
            raise CommandError(problem)
        connections.close_all()
        self.style.NOTICE = as_event  # type: ignore[method-assign] # of what is printed there
        try:
            super().start_process(process_name, *args, **options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        except OSError as error:  # of its first line, where the disk is full that the log lies on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # of which Python would complain at its end
            raise CommandError(f"{process_name} cannot go on ({brief(error)}).") from error

    def list_process_names(self) -> None:
        """Print the names, one a line, and where no script reads it the version."""
        self.stdout.write("\n".join(getattr(settings, "PRODUCTION_PROCESSES", ())))
        self.stderr.write(about(), str)


def as_event(text: str) -> str:
    """Return what django-prodserver prints as a line of the log: what machines read is all JSON."""
    for handler in logging.getLogger().handlers:
        return handler.format(logging.LogRecord("worker", logging.INFO, __file__, 0, text, None, None))
    return text
