"""`health_check NAME` is the probe of one process, for containers and anybody who wants to know."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from worker import health
from worker.processes import processes


class Command(BaseCommand):
    """Asks the process of this name on this host whether it is well."""

    help = "Exit with 0 if the process on this host is well, with 1 if not, with 2 if there is no such process."
    requires_system_checks = []  # a probe that runs twice a minute should not

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the name of the process."""
        parser.add_argument("process_name", help="a process of PRODUCTION_PROCESSES, such as web or worker")

    def handle(self, *args: Any, process_name: str, **options: Any) -> None:
        """Ask the web server over HTTP, or look for the cluster's sign of life.

        Raises:
            CommandError: With code 1 if the process is not well, with code 2 if there is none of this name.
        """
        found = {process.name: process for process in processes()}
        if process_name not in found:
            raise CommandError(f"There is no process {process_name!r}: there are {', '.join(found)}.", returncode=2)
        process = found[process_name]
        problem = health.cluster(process.cluster) if process.is_worker else health.web()
        if problem:
            raise CommandError(f"{process_name}: {problem}", returncode=1)
        self.stdout.write(f"{process_name}: ok")
