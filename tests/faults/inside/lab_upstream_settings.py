"""The settings with django-q2's own cluster and broker, and its own defaults where ours count on leases."""

import json
import os

from lab_settings import *  # noqa: F403
from lab_settings import INSTALLED_APPS, Q_CLUSTER

for app in ("worker", "lab_app.Lab"):
    INSTALLED_APPS.remove(app)
for key in {"broker_class", "bulk", "queue_limit"} - json.loads(os.environ["LAB_CLUSTER"]).keys():
    del Q_CLUSTER[key]  # without the class it takes its own for "orm", "redis", "sqs" or "mongo"
