# /// script
# dependencies = ["django==5.2.*", "django-q2[croniter]==1.11.1"]
# ///
"""`qcluster --name` comes too late: what ALT_CLUSTERS says of that name does not count, and its queue is not served."""

import sys
from unittest.mock import patch

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django_q"],
    Q_CLUSTER={"name": "site", "orm": "default", "timeout": 5, "retry": 10, "ALT_CLUSTERS": {"slow": {"timeout": 9}}},
    SECRET_KEY="x",
)
django.setup()

from django.core.management import call_command
from django_q.conf import Conf

with patch("django_q.management.commands.qcluster.Cluster"):
    call_command("qcluster", cluster_name="slow")
if Conf.TIMEOUT == 9:
    sys.exit("The fault is gone.")
print(f"The fault is there: the cluster's timeout is {Conf.TIMEOUT}, and its queue {Conf.CLUSTER_NAME!r}.")
