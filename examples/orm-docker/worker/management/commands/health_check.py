"""`health_check NAME` is the probe of one process, `health_check queue` a monitor of all queues."""

import math
import os
import sys
from argparse import ArgumentParser
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from worker import health
from worker.processes import did_you_mean, processes, queues
from worker.single_flight import PATIENCE, SingleFlight


class Command(BaseCommand):
    """Asks the process of this name on this host whether it is well, or looks at the queues."""

    help = (
        "Exit with 0 if the process on this host is well, or the queues of all hosts are; with 1 if not; "
        "with 2 if there is no such process or queue."
    )
    requires_system_checks = []  # a probe that runs twice a minute should not

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("process_name", help="a process of PRODUCTION_PROCESSES, such as web or worker, or queue")
        parser.add_argument("--queue", metavar="NAME", help="of queue: only this one")
        parser.add_argument("--max-age", metavar="SECONDS", help="of queue: for which the oldest task may wait")
        parser.add_argument("--max-waiting", metavar="NUMBER", help="of queue: tasks that may wait")

    def handle(self, *args: Any, process_name: str, **options: Any) -> None:
        found = {process.name: process for process in processes()}
        limits = {name: options[name] for name in ("queue", "max_age", "max_waiting") if options[name] is not None}
        if process_name == "queue" and "queue" not in found:
            problem = self.look(**limits)
        elif process_name not in found:
            raise CommandError(f"There is no process {process_name!r}: there are {', '.join(found)}.", returncode=2)
        elif limits:
            raise CommandError("--queue, --max-age and --max-waiting belong to `health_check queue`.", returncode=2)
        else:
            process = found[process_name]
            problem = health.cluster(process.cluster) if process.is_worker else health.web()
        if problem:
            raise CommandError(f"{process_name}: {problem}", returncode=1)
        try:
            self.stdout.write(f"{process_name}: ok")
            self.stdout.flush()
        except OSError:  # a full disk, say; the code tells enough, but Python would end with another
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def look(self, queue: str | None = None, **limits: str) -> str:
        """Return what is wrong with the queues, or with this one."""
        if queue is not None and queue not in queues():
            raise CommandError(f"There is no queue {queue!r}. {did_you_mean(queue, queues())}", returncode=2)
        most = {name: number(f"--{name.replace('_', '-')}", text) for name, text in limits.items()}
        from worker.queue import overview  # which needs the database, as the probes of processes do not

        try:
            states = SingleFlight(overview.overview).tell(PATIENCE).queues
        except Exception as error:
            if problem := health.sentence_for(error):
                return problem
            raise
        return " ".join(
            problem for state in states if queue in {None, state.name} for problem in overview.excesses(state, **most)
        )


def number(option: str, text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise CommandError(f"{option} is {text!r}: write a number, such as 600.", returncode=2)
