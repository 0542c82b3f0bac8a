# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""The ORM broker takes tasks in no order, so that one may wait for ever behind newer ones."""

import sys

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEBUG=True,
    INSTALLED_APPS=["django_q"],
    Q_CLUSTER={"name": "site", "orm": "default", "timeout": 5, "retry": 10, "poll": 0},
    SECRET_KEY="x",
)
django.setup()

from django.core.management import call_command
from django.db import connection
from django_q.brokers import get_broker

call_command("migrate", verbosity=0)
get_broker().dequeue()
if "ORDER BY" in (query := connection.queries[-1]["sql"]):
    sys.exit("The fault is gone.")
print(f"The fault is there: {query}")
