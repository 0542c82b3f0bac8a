"""The project's settings, with two views for measuring, and gunicorn's arguments as BENCH_GUNICORN alters them."""

import json
import os

from bench_settings import *  # noqa: F403
from config.settings import PRODUCTION_PROCESSES

ROOT_URLCONF = "bench.urls"
change = json.loads(os.environ["BENCH_GUNICORN"])
generated = PRODUCTION_PROCESSES["web"]["ARGS"]
kept = generated if change["keeps"] else {"bind": generated["bind"]}
PRODUCTION_PROCESSES["web"]["ARGS"] = kept | change["options"]
