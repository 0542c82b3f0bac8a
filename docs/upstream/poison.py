# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""A task that kills its worker is begun again and again, whatever max_attempts says, and no failed task is recorded."""

import os
import signal
import subprocess
import sys
from itertools import islice

CLUSTER = """
import django; from django.conf import settings; from django.core.management import call_command
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:x?mode=memory&cache=shared"}
queue = {"orm": "default", "timeout": 1, "retry": 2, "workers": 1, "max_attempts": 1}
settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["django_q"], Q_CLUSTER=queue, SECRET_KEY="x")
django.setup(); call_command("migrate", verbosity=0)
from django_q.tasks import async_task
async_task("os._exit", 1); call_command("qcluster")
"""
command = [sys.executable, "-c", CLUSTER]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as cluster:
    signal.alarm(30)  # ends this script, if it is not begun again
    begun = list(islice((line for line in cluster.stderr if "processing" in line), 3))
    os.killpg(cluster.pid, signal.SIGKILL)
print(f"The fault is there: it was begun {len(begun)} times.")
