"""Settings of the project that this app reads beside Django's and django-q2's own, each with a default."""

from pathlib import Path
from typing import Any

from django.conf import settings

DEFAULTS = {
    "BASE_DIR": Path(__file__).resolve().parent.parent,  #: the project's folder
    "MAX_UPLOAD_SIZE": 10_000_000,  #: bytes of the body of a request
    "METRICS_TOKEN": "",  #: what somebody must know who asks for /metrics; "" for nobody
    "PORT": 8000,  #: of the web server
    "Q_GRACE": 25,  #: seconds that a stop leaves to running tasks
    "Q_KEEP_FAILURES": 30,  #: days for which results of tasks are kept that have failed for good
    "Q_KEEP_RESULTS": 7,  #: days for which results of others are kept
    "Q_MOST_RESULTS": 1_000_000,  #: results that are kept at all, about; those of groups no fewer days
    "Q_QUIET": 30,  #: seconds for which an idle worker leaves the database alone
    "Q_SCHEDULE_MODULES": None,  #: modules of what schedules may run; None for the project's own apps
    "SENTRY_DSN": "",  #: where tasks that have failed for good are told of; "" for mail to ADMINS
}

#: Of Q_CLUSTER; where tasks wait is for the settings to say.
CLUSTER: dict[str, Any] = {
    "ALT_CLUSTERS": {},
    "ack_failures": False,
    "broker_class": "worker.broker.Broker",
    "bulk": 100,
    "catch_up": False,
    "max_attempts": 3,
    "max_rss": 0,
    "name": "default",
    "poll": 0.5,
    "queue_limit": 500,
    "recycle": 10_000,
    "retry": 60,
    "save_limit": 0,
    "workers": 2,
}


def setting(name: str) -> Any:
    return getattr(settings, name, DEFAULTS[name])


def complete() -> None:
    """Give Q_CLUSTER what a newer version of this app may want of an older project's settings.

    django-q2's own defaults are others, and it reads the setting once, before any check.
    """
    given = getattr(settings, "Q_CLUSTER", {})
    settings.Q_CLUSTER = {**CLUSTER, "timeout": setting("Q_GRACE"), **given}
