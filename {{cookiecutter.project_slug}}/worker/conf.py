"""Settings of the project that this app reads beside Django's and django-q2's own, each with a default."""

from typing import Any

from django.conf import settings

DEFAULTS = {
    "MAX_UPLOAD_SIZE": 10_000_000,  #: bytes of the body of a request
    "PORT": 8000,  #: of the web server
    "Q_GRACE": 25,  #: seconds that a stop leaves to running tasks
    "Q_KEEP_FAILURES": 30,  #: days for which results of tasks are kept that have failed for good
    "Q_KEEP_RESULTS": 7,  #: days for which results of others are kept
    "Q_MOST_RESULTS": 1_000_000,  #: results that are kept at all, about; those of groups no fewer days
    "Q_QUIET": 30,  #: seconds for which an idle worker leaves the database alone
    "Q_SCHEDULE_MODULES": None,  #: modules of what schedules may run; None for the project's own apps
    "SENTRY_DSN": "",  #: where tasks that have failed for good are told of; "" for mail to ADMINS
}


def setting(name: str) -> Any:
    """Return a setting, or its default."""
    return getattr(settings, name, DEFAULTS[name])
