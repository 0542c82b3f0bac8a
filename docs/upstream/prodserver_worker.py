# /// script
# dependencies = ["django==5.2.*", "django-prodserver==3.0.0", "django-q2==1.11.1"]
# ///
"""`prodserver worker` refuses to start a worker, and the command is to go in version 4."""

import sys
from io import StringIO

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django_prodserver", "django_q"],
    PRODUCTION_PROCESSES={"worker": {"BACKEND": "django_prodserver.backends.workers.django_q2.DjangoQ2Worker"}},
    SECRET_KEY="x",
)
django.setup()

from django_prodserver.management.commands.prodserver import Command

command = Command(stderr=(said := StringIO()), no_color=True)
try:
    command.run_from_argv(["manage.py", "prodserver", "worker"])
except SystemExit:
    print(f"The fault is there: {said.getvalue()}")
else:
    sys.exit("The fault is gone.")
