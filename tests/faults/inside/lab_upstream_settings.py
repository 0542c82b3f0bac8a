"""The settings with django-q2's own cluster and broker, as its documentation recommends them."""

from lab_settings import *  # noqa: F403
from lab_settings import INSTALLED_APPS, Q_CLUSTER

INSTALLED_APPS.remove("worker")
del Q_CLUSTER["broker_class"]  # it then takes its own for "orm", "redis", "sqs" or "mongo"
