"""The project's settings, with what a test changes: LAB_CLUSTER holds keys of Q_CLUSTER, as JSON.

LAB_CACHE names another cache, LAB_TIME_ZONE another time zone, and LAB_NAIVE lets times be without one.
"""

import json
import os

from config.settings import *  # noqa: F403
from config.settings import CACHES, INSTALLED_APPS, Q_CLUSTER

INSTALLED_APPS.append("lab_app.Lab")
Q_SCHEDULE_MODULES = ["lab_tasks"]
Q_CLUSTER |= {"name": os.environ["LAB_NAME"], **json.loads(os.environ["LAB_CLUSTER"])}
if cache := os.environ.get("LAB_CACHE"):
    CACHES["default"] = {"BACKEND": cache}
if zone := os.environ.get("LAB_TIME_ZONE"):
    TIME_ZONE = Q_CLUSTER["time_zone"] = zone
if "LAB_NAIVE" in os.environ:
    USE_TZ = False
