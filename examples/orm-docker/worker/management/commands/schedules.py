"""`schedules` brings the rows of schedules in line with what is declared in code, as `release` does."""

from typing import Any

from django.core.management.base import BaseCommand

from worker import schedules


class Command(BaseCommand):
    """Adds, changes and removes rows; leaves those alone that a person has made."""

    help = "Bring the schedules in line with those that are declared in code. A part of `release`."
    requires_system_checks = []  # which would import what `find` imports, and fail less clearly

    def handle(self, *args: Any, **options: Any) -> None:
        for line in schedules.bring_in_line(schedules.find()):
            self.stdout.write(line)
