# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""`qinfo` ends with 0 although no cluster runs, so it is no health check."""

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

call_command("migrate", verbosity=0)
try:
    call_command("qinfo")
except (Exception, SystemExit):
    sys.exit("The fault is gone.")
print("The fault is there: it says nothing is wrong.")
