"""`release` is what a platform runs before a new version takes over."""

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import DEFAULT_DB_ALIAS

from worker import schedules
from worker.checks import require_database


class Command(BaseCommand):
    """Checks the settings for production, migrates the databases, creates the cache's table, and tends schedules."""

    help = "Prepare a release: deploy checks, migrations, cache table, schedules. Ends with 1 at the first that fails."
    requires_system_checks = []  # the deploy checks below hold all others

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the steps in order; each raises if it fails, and nothing after it is run."""
        require_database("worker.E020", "worker.E022")
        declared = schedules.find()  # before the checks, whose import of the same modules would end in a traceback
        call_command("check", deploy=True, fail_level="WARNING")
        for alias in dict.fromkeys([DEFAULT_DB_ALIAS, settings.Q_CLUSTER.get("orm") or DEFAULT_DB_ALIAS]):
            # Its own checks ask whether the database answers.
            call_command("migrate", database=alias, interactive=False, skip_checks=False)
        call_command("createcachetable")
        for line in schedules.bring_in_line(declared):
            self.stdout.write(line)
