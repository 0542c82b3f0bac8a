# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""The Redis broker forgets a task when a cluster takes it: if that dies, the task is lost. It needs REDIS_URL."""

import os
import sys

from django.conf import settings

settings.configure(
    Q_CLUSTER={"name": "fault-receipt", "redis": os.environ["REDIS_URL"], "timeout": 5, "retry": 10}, SECRET_KEY="x"
)

from django_q.brokers import get_broker

broker = get_broker()
broker.purge_queue()
broker.enqueue("a task")
((receipt, _),) = broker.dequeue()
kept = broker.connection.exists(broker.list_key)
broker.delete_queue()
if receipt or kept:
    sys.exit("The fault is gone.")
print("The fault is there: there is no receipt, and nothing of the task is left in Redis.")
