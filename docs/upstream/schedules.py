# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""A schedule whose arguments cannot be read keeps all others from being queued, each time again."""

import sys

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django_q"],
    Q_CLUSTER={"name": "site", "orm": "default", "timeout": 5, "retry": 10},
    SECRET_KEY="x",
)
django.setup()

from django.core.management import call_command
from django_q.models import OrmQ, Schedule
from django_q.scheduler import scheduler

call_command("migrate", verbosity=0)
Schedule.objects.create(func="math.sqrt", args="4")
Schedule.objects.create(func="math.sqrt", args="(four")
scheduler()
if OrmQ.objects.exists():
    sys.exit("The fault is gone.")
print("The fault is there: neither is queued.")
