"""The settings with django-q2's own cluster and broker, as the first examples of its documentation have them."""

from bench_settings import *  # noqa: F403
from bench_settings import DATABASES, INSTALLED_APPS, Q_CLUSTER

INSTALLED_APPS.remove("worker")
ROOT_URLCONF = "bench.no_urls"  # the project's lead to its tasks, which need worker/
DATABASES["default"]["CONN_MAX_AGE"] = 0  # Django's own default
broker = {key: Q_CLUSTER[key] for key in ("orm", "redis", "sqs", "mongo", "mongo_db") if key in Q_CLUSTER}
Q_CLUSTER = {"name": Q_CLUSTER["name"], "workers": Q_CLUSTER["workers"], **broker}
if "redis" in broker:
    Q_CLUSTER |= {"recycle": 500, "timeout": 60, "compress": True, "save_limit": 250, "queue_limit": 500, "retry": 120}
else:
    Q_CLUSTER |= {"timeout": 90, "retry": 120, "queue_limit": 50, "bulk": 10}
