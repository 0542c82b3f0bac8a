"""The project's settings, without the apps that BENCH_WITHOUT names."""

import os

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS

for app in filter(None, os.environ["BENCH_WITHOUT"].split(",")):
    INSTALLED_APPS.remove(app)
