# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""SIGTERM to all processes of a cluster, as Heroku and systemd send it, leaves its main process waiting for ever."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

CLUSTER = """
import django; from django.conf import settings; from django.core.management import call_command
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:x?mode=memory&cache=shared"}
queue = {"orm": "default", "timeout": 5, "retry": 10, "workers": 1}
settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["django_q"], Q_CLUSTER=queue, SECRET_KEY="x")
django.setup(); call_command("migrate", verbosity=0); call_command("qcluster")
"""
for seconds in (1, 2, 4):  # until all wait for work; and one in sixteen ends nevertheless
    command = [sys.executable, "-c", CLUSTER]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as cluster:
        while not cluster.stderr.readline().rstrip().endswith("running."):
            pass
        time.sleep(seconds)
        os.killpg(cluster.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            cluster.wait(8)
            continue
        os.killpg(cluster.pid, signal.SIGKILL)
        sys.exit(print("The fault is there: it has not ended within 8 seconds, and will not."))
sys.exit("The fault is gone.")
