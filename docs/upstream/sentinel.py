# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""A cluster whose sentinel is killed, as where memory is short, ends with 0, and leaves its workers behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

CLUSTER = """
import django; from django.conf import settings; from django.core.management import call_command
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:x?mode=memory&cache=shared"}
queue = {"orm": "default", "timeout": 5, "retry": 10, "workers": 1}
settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["django_q"], Q_CLUSTER=queue, SECRET_KEY="x")
django.setup(); call_command("migrate", verbosity=0); call_command("qcluster")
"""
command = [sys.executable, "-c", CLUSTER]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as cluster:
    while not cluster.stderr.readline().rstrip().endswith("running."):
        pass
    (sentinel,) = Path(f"/proc/{cluster.pid}/task/{cluster.pid}/children").read_text().split()
    os.kill(int(sentinel), signal.SIGKILL)
    code = cluster.wait(10)
    os.killpg(cluster.pid, signal.SIGKILL)  # which fails if nothing is left
sys.exit("The fault is gone." if code else print("The fault is there: the platform is told that all is well."))
