# /// script
# dependencies = ["django==5.2.*", "django-prodserver==3.0.0", "django-q2==1.11.1"]
# ///
"""A misspelt BACKEND ends in a traceback, and a misspelt key in silence."""

import sys

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django_prodserver"],
    PRODUCTION_PROCESSES={"worker": {"BACKEND": "django_prodserver.backends.workers.django_q.Worker", "args": {}}},
    SECRET_KEY="x",
)
django.setup()

from django_prodserver.management.commands.worker import Command

try:
    Command().run_from_argv(["manage.py", "worker", "worker"])
except ImportError as error:
    print(f"The fault is there: {error}")
except SystemExit:
    sys.exit("The fault is gone.")
