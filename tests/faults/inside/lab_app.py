"""What a test changes of the cluster that is no setting."""

import os

from django.apps import AppConfig


class Lab(AppConfig):  # type: ignore[misc]
    """Lets a cluster fetch LAB_AHEAD tasks for each worker ahead, however long these are at one."""

    name = "lab_app"

    def ready(self) -> None:
        """Change it."""
        if ahead := os.environ.get("LAB_AHEAD"):
            from worker import pusher

            pusher.LEAST_AHEAD = int(ahead)
