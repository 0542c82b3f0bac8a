"""What the probes ask. Each check returns "" if all is well, and otherwise a sentence that says what is wrong."""

import logging
import urllib.error
import urllib.request

from django.conf import settings
from django.db import DatabaseError, connection
from django_q.brokers import get_broker

from worker import heartbeat

logger = logging.getLogger(__name__)


def database() -> str:
    """Ask the default database for an answer."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        logger.warning("The database does not answer: %s", error)
        return "the database does not answer"
    return ""


def broker() -> str:
    """Ask the broker for an answer."""
    try:
        get_broker().ping()
    except Exception as error:  # each broker has exceptions of its own
        logger.warning("The broker does not answer: %s", error)
        return "the broker does not answer"
    return ""


def cluster(name: str) -> str:
    """Look for a sign of life of the cluster on this host."""
    age = heartbeat.age_on_this_host(name)
    if age is None:
        return f"cluster {name} is not running on this host"
    if age > heartbeat.FRESH:
        return f"cluster {name} gave its last sign of life {age:.0f} s ago"
    return ""


def web() -> str:
    """Ask the web server on this host for /livez."""
    url = f"http://127.0.0.1:{settings.PORT}/livez"
    try:
        with urllib.request.urlopen(url, timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}"
    except OSError as error:
        return f"{url} does not answer: {getattr(error, 'reason', error)}"
