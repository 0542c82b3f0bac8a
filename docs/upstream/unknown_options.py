# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""An option that does not exist, such as a misspelt timeout, and a cluster that does not exist are taken in silence."""

import sys

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django_q"],
    Q_CLUSTER={"name": "site", "orm": "default", "timeout": 5, "retry": 10, "ALT_CLUSTERS": {"slow": {}}},
    SECRET_KEY="x",
)
django.setup()

from django.core.management import call_command
from django_q.models import OrmQ
from django_q.tasks import async_task

call_command("migrate", verbosity=0)
async_task("math.sqrt", 4, q_options={"time_out": 60, "cluster": "slwo"})
(queued,) = OrmQ.objects.all()
if queued.key != "slwo" or "time_out" in queued.task:
    sys.exit("The fault is gone.")
print("The fault is there: nobody will run the task, and its limit is forgotten.")
