"""The project's settings, with what a test changes: LAB_CLUSTER holds keys of Q_CLUSTER, as JSON."""

import json
import os

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS, Q_CLUSTER

INSTALLED_APPS.append("lab_app.Lab")
Q_CLUSTER |= {"name": os.environ["LAB_NAME"], **json.loads(os.environ["LAB_CLUSTER"])}
