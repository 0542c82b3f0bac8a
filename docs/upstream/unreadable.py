# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""A task whose arguments are of a class that is gone, as after a deploy, ends the process that fetches, for ever."""

import multiprocessing
import queue
import sys
import types
from unittest.mock import Mock

import django
from django.conf import settings

settings.configure(INSTALLED_APPS=["django_q"], Q_CLUSTER={"timeout": 5, "retry": 10}, SECRET_KEY="x")
django.setup()

from django_q.pusher import pusher
from django_q.signing import SignedPackage

sys.modules["former"] = module = types.ModuleType("former")
exec("class Order: pass", module.__dict__)
payload = SignedPackage.dumps({"func": "math.sqrt", "args": (module.Order(),)})
del sys.modules["former"]
event = multiprocessing.Event()
event.set()  # to end after the first look
try:
    pusher(queue.Queue(), event, Mock(dequeue=lambda: [("receipt", payload)]))
except ModuleNotFoundError as error:
    sys.exit(print(f"The fault is there: {error}"))
sys.exit("The fault is gone.")
