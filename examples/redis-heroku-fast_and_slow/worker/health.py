"""What the probes ask, and what a worker waits for before it starts."""

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import connection
from django_q.brokers import get_broker

from worker import heartbeat
from worker.delivery import brief

START_WITHIN = 60.0  #: seconds that a worker waits for its servers before it ends with 1

logger = logging.getLogger(__name__)


def database() -> None:
    """Ask the default database for an answer; raises what the driver raises."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def broker() -> None:
    """Ask the broker for an answer; raises what its client raises."""
    get_broker().ping()


SERVERS: dict[str, Callable[[], None]] = {"database": database, "broker": broker}


def silent_servers() -> dict[str, str]:
    """Return the servers that do not answer, each with the reason: it names the place, and no password."""
    silent = {}
    for name, ask in SERVERS.items():
        try:
            ask()
        except ImproperlyConfigured:
            raise
        except Exception as error:  # each driver and client has exceptions of its own
            connection.close()
            silent[name] = brief(error)
            logger.debug("The %s does not answer", name, exc_info=True)
    return silent


def in_words(silent: dict[str, str]) -> str:
    """Return a sentence for each server that does not answer."""
    return " ".join(f"The {name} does not answer ({reason})." for name, reason in silent.items())


def wait_for_servers() -> None:
    """Wait until all servers answer; a line a try.

    Raises:
        CommandError: If one does not within START_WITHIN seconds.
    """
    end, pause = time.monotonic() + START_WITHIN, 1.0
    while silent := silent_servers():
        left = end - time.monotonic()
        if left <= 0:
            raise CommandError(f"{in_words(silent)} Gave up after {START_WITHIN:.0f} s.")
        logger.warning("%s Next try in %.0f s, for another %.0f s.", in_words(silent), pause, left)
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def cluster(name: str) -> str:
    """Look for a sign of life of the cluster on this host; return what is wrong, or "".

    The cluster's guard gives it, and ends the cluster if the pusher, the monitor or all workers are stuck.
    """
    try:
        age = heartbeat.age_on_this_host(name)
    except OSError as error:
        return (
            f"cluster {name} has nowhere to leave a sign of life ({error}). "
            "If the file system is read-only, mount a tmpfs at /tmp"
        )
    if age is None:
        return f"cluster {name} is not running on this host"
    if age > heartbeat.FRESH:
        return f"cluster {name} gave its last sign of life {age:.0f} s ago"
    return ""


def web() -> str:
    """Ask the web server on this host for /livez; return what is wrong, or ""."""
    url = f"http://127.0.0.1:{settings.PORT}/livez"
    try:
        with urllib.request.urlopen(url, timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}"
    except OSError as error:
        return f"{url} does not answer: {getattr(error, 'reason', error)}"
