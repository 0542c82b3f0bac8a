# /// script
# dependencies = ["django==5.2.*", "django-prodserver==3.0.0", "django-q2==1.11.1"]
# ///
"""Its commands run no system checks, so a wrong setting reaches the process."""

import sys
from unittest.mock import patch

import django
from django.conf import settings
from django.core.checks import Error, register

settings.configure(
    INSTALLED_APPS=["django_prodserver", "django_q"],
    PRODUCTION_PROCESSES={"worker": {"BACKEND": "django_prodserver.backends.workers.django_q2.DjangoQ2Worker"}},
    SECRET_KEY="x",
)
django.setup()
register(lambda **_: [Error("This setting is wrong.")])

from django_prodserver.backends.workers.django_q2 import DjangoQ2Worker
from django_prodserver.management.commands.worker import Command

with patch.object(DjangoQ2Worker, "start_server") as start:
    try:
        Command().run_from_argv(["manage.py", "worker", "worker"])
    except SystemExit:
        sys.exit("The fault is gone.")
print("The fault is there: the worker starts.")
