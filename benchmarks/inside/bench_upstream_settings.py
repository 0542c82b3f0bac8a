"""The settings with django-q2's own cluster and broker, and the best that its settings allow.

They are those which were found fastest one by one, and together: no look at the kept results for each result, and
connections that are kept, which the project's settings have.
"""

from bench_settings import *  # noqa: F403
from bench_settings import INSTALLED_APPS, LOGGING, Q_CLUSTER

INSTALLED_APPS.remove("worker")
ROOT_URLCONF = "bench.no_urls"  # the project's lead to its tasks, which need worker/
LOGGING["root"]["level"] = "WARNING"
del Q_CLUSTER["broker_class"]  # it takes its own for "orm", "redis", "sqs" or "mongo"
Q_CLUSTER |= {
    "bulk": 10,
    "poll": 0.2,
    "queue_limit": 20,
    "recycle": 5000,
    "retry": 600,
    "save_limit": 0,
    "timeout": 60,
}
