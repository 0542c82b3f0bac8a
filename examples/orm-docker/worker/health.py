"""What the probes ask, and what a worker waits for before it starts."""

import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import InterfaceError, InternalError, OperationalError, ProgrammingError, connection
from django_q.brokers import get_broker

from worker import heartbeat
from worker.delivery import brief

START_WITHIN = 60.0  #: seconds that a worker waits for its servers before it ends with 1

logger = logging.getLogger(__name__)


def database() -> None:
    """Ask the default database for an answer, and whether it takes rows; raises what the driver raises.

    After a failover a connection that is kept may lead to the former primary: one that is read-only is closed, and a
    new one is asked.

    Raises:
        OperationalError: If a new connection is read-only, too.
    """
    for _ in range(2):
        if not _is_read_only():
            return
        connection.close()
    raise OperationalError("it is read-only")


def _is_read_only() -> bool:
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql":
            cursor.execute("SELECT 1")
            return False
        cursor.execute("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean")
        return bool(cursor.fetchone()[0])


def broker() -> None:
    """Ask the broker for an answer; raises what its client raises."""
    get_broker().ping()


SERVERS: dict[str, Callable[[], None]] = {"database": database, "broker": broker}


def silent_servers() -> dict[str, str]:
    """Return the servers that do not answer, each with the reason: it names the place, and no password."""
    return {name: _without_passwords(brief(error)) for name, error in _failures().items()}


def _failures() -> dict[str, Exception]:
    failures = {}
    for name, ask in SERVERS.items():
        try:
            ask()
        except Exception as error:  # each driver and client has exceptions of its own
            with suppress(Exception):
                connection.close()
            failures[name] = error
            logger.debug("The %s does not answer", name, exc_info=True)
    return failures


def may_pass(error: BaseException) -> bool:
    """Say whether an error may be a server's that is away, or locked, so that another try can succeed."""
    if isinstance(error, OperationalError | InterfaceError | InternalError):
        return True
    return isinstance(error, Exception) and (isinstance(error, get_broker().passing) or bool(silent_servers()))


def in_words(silent: dict[str, str]) -> str:
    """Return a sentence for each server that does not answer."""
    return " ".join(f"The {name} does not answer ({reason})." for name, reason in silent.items())


def wait_for_servers() -> None:
    """Wait until all servers answer; a line a try.

    Raises:
        CommandError: If one does not within START_WITHIN seconds, or can never be asked as it is configured.
    """
    end, pause = time.monotonic() + START_WITHIN, 1.0
    while failures := _failures():
        for name, error in failures.items():
            if isinstance(error, ImproperlyConfigured):
                raise CommandError(_without_passwords(str(error))) from error
            if _is_for_ever(error):
                reason = _without_passwords(brief(error))
                raise CommandError(f"The {name} cannot be used as it is configured ({reason}).") from error
        silent = in_words({name: _without_passwords(brief(error)) for name, error in failures.items()})
        left = end - time.monotonic()
        if left <= 0:
            raise CommandError(f"{silent} Gave up after {START_WITHIN:.0f} s.")
        logger.warning("%s Next try in %.0f s, for another %.0f s.", silent, pause, left)
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def _is_for_ever(error: Exception) -> bool:
    """Say whether an error comes from the configuration: a driver or client that refuses an option, or reads no URL."""
    if isinstance(error, ProgrammingError):  # PostgreSQL's own, such as of a missing table, have a code
        return getattr(error.__cause__, "sqlstate", None) is None
    if isinstance(error, OperationalError):  # libpq's, such as: invalid sslmode value: "of"
        return bool(re.search(r"invalid \w+ value", str(error)))
    return isinstance(error, TypeError | ValueError)


def _without_passwords(text: str) -> str:
    """Hide words of passwords in what a client says: of a URL that it misreads, it may show some as the port."""
    for url in _urls([os.environ.get("DATABASE_URL", ""), settings.Q_CLUSTER]):
        scheme, _, address = url.partition("://")
        login, _, place = address.rpartition("@")
        user, _, password = login.partition(":")
        for word in set(re.findall(r"\w+", password)) - set(re.findall(r"\w+", f"{scheme} {user} {place}")):
            text = re.sub(rf"\b{word}\b", "…", text)
    return text


def _urls(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        if "://" in values:
            yield values
    elif isinstance(values, Mapping | list | tuple):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _urls(value)


def cluster(name: str) -> str:
    """Look for signs of life of the cluster on this host; return what is wrong, or "".

    Its main process gives them, and tells in them which of the threads that others wait for are late.
    """
    try:
        signs = heartbeat.signs(name)
    except OSError as error:
        return f"cluster {name} has nowhere to leave a sign of life ({error})"
    if not signs:
        return f"cluster {name} is not running on this host"
    problems = []
    for sign in signs:
        if sign.age > heartbeat.FRESH:
            problems.append(f"process {sign.main} of cluster {name} gave its last sign of life {sign.age:.0f} s ago")
        elif sign.late:
            late = " and ".join(f"{what} (for {seconds:.0f} s)" for what, seconds in sign.late.items())
            problems.append(f"process {sign.agent} of cluster {name} is late with {late}")
    return ", ".join(problems)


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
