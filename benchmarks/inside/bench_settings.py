"""The project's settings as they are, and an app that takes the time."""

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS

INSTALLED_APPS.append("bench")
BENCH_TASK = "worker.tasks.task"
