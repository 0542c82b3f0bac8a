# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""While the database is away, tasks of another broker are acknowledged although their results could not be saved."""

import queue
import sys
from unittest.mock import Mock

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/nowhere/database"}},
    INSTALLED_APPS=["django_q"],
    Q_CLUSTER={"timeout": 5, "retry": 10, "save_limit": 0},
    SECRET_KEY="x",
)
django.setup()

from django_q.monitor import monitor

results, broker = queue.Queue(), Mock()
results.put({"id": "1", "name": "a", "func": "math.sqrt", "args": (4,), "kwargs": {}, "started": None})
results.queue[0] |= {"stopped": None, "result": 2.0, "success": True, "ack_id": "receipt"}
results.put("STOP")
monitor(results, broker)
if not broker.acknowledge.called:
    sys.exit("The fault is gone.")
print("The fault is there: the task is acknowledged, and its result lost.")
