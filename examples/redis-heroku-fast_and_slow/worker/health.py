"""What the probes ask, and what a process needs before it starts."""

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from sqlite3 import SQLITE_ERROR

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import (
    DEFAULT_DB_ALIAS,
    DatabaseError,
    Error,
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
)
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.utils.module_loading import import_string
from django_q.brokers import get_broker
from django_q.conf import Conf

from worker import heartbeat
from worker.conf import setting
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


def silent_servers() -> dict[str, Exception]:
    """Return the servers that do not answer, each with the reason."""
    silent = {}
    for name, ask in SERVERS.items():
        try:
            ask()
        except Exception as error:  # each driver and client has exceptions of its own
            with suppress(Exception):
                connection.close()
            silent[name] = error
            logger.debug("The %s does not answer", name, exc_info=True)
    return silent


def may_pass(error: BaseException) -> bool:
    """Say whether an error may be a server's that is away, or locked, so that another try can succeed."""
    if isinstance(error, OperationalError | InterfaceError | InternalError):
        return True
    broker = get_broker()
    if isinstance(error, broker.away) or broker.will_pass(error):  # though it answers again by now
        return True
    return isinstance(error, Exception) and bool(silent_servers())


def why_away(error: BaseException) -> str:
    """Return the reason if an error is that of a server that is away, or takes nothing more; "" otherwise.

    It asks nobody, so a page that fails need not wait once more for a server that is frozen.
    """
    broker_class = import_string(Conf.BROKER_CLASS)  # which may be a test's own
    will_pass = getattr(broker_class, "will_pass", None)
    if will_pass and will_pass(error):
        return brief(error)
    if not isinstance(error, (OperationalError, InterfaceError, *getattr(broker_class, "away", ()))):
        return ""
    if getattr(error.__cause__, "sqlite_errorcode", None) == SQLITE_ERROR:
        return ""  # it is about the statement, such as a missing table
    state = getattr(error.__cause__, "sqlstate", None)  # of PostgreSQL, if it could be reached
    if state and state[:2] not in {"08", "53"} and state[:3] != "57P":
        return ""  # it is about the statement, such as a deadlock
    return brief(error)


def in_words(silent: dict[str, Exception]) -> str:
    """Return a sentence for each server that does not answer."""
    return " ".join(f"The {name} does not answer ({brief(error)})." for name, error in silent.items())


def sentence_for(error: Exception) -> str:
    """Return a sentence for an error of a server that is away, not set up, or refuses what it is asked; else ""."""
    if isinstance(error, ImproperlyConfigured):
        return str(error)
    if reason := why_away(error):
        return f"A server does not answer ({reason})."
    # What follows is for want of a right, say, or since a limit of time is over.
    if isinstance(error, getattr(import_string(Conf.BROKER_CLASS), "errors", ())):
        return f"The broker refuses what it is asked ({brief(error)})."
    if not isinstance(error, DatabaseError):
        return ""
    return missing_tables() or f"The database refuses what it is asked ({brief(error)})."


def wait_for_servers() -> None:
    """Wait until all servers answer, and the database is migrated; a line a try.

    Raises:
        CommandError: If that is not so within START_WITHIN seconds, or a server can never be asked as it is configured.
    """
    end, pause = time.monotonic() + START_WITHIN, 1.0
    while problem := in_words(silent := silent_servers()) or missing_tables():
        for error in silent.values():
            if isinstance(error, ImproperlyConfigured):
                raise CommandError(str(error)) from error
        left = end - time.monotonic()
        if left <= 0:
            raise CommandError(f"{problem} Gave up after {START_WITHIN:.0f} s.")
        logger.warning("%s Next try in %.0f s, for another %.0f s.", problem, pause, left)
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def missing_tables() -> str:
    """Return a sentence if a migration of the worker's or django-q2's was not run; "" also where that is not known."""
    with suppress(Error, InconsistentMigrationHistory):
        for alias in {DEFAULT_DB_ALIAS, settings.Q_CLUSTER.get("orm") or DEFAULT_DB_ALIAS}:
            try:
                call_command("migrate", "worker", database=alias, check_unapplied=True, verbosity=0)
            except SystemExit:
                command = "migrate" if settings.DEBUG else "release"
                return f"The database is not migrated: run `python manage.py {command}`."
    return ""


def cluster(name: str) -> str:
    """Look for signs of life of the cluster on this host; return what is wrong, or "".

    Its main process gives them, and tells in them which of the threads that others wait for are late.
    """
    try:
        beats = heartbeat.beats(name)
    except OSError as error:
        return f"cluster {name} has nowhere to leave a sign of life ({error})"
    if not beats and (users := " or ".join(heartbeat.other_users())):
        return f"cannot see whether cluster {name} is running on this host: run this as {users}, whose worker it may be"
    if not beats:
        return f"cluster {name} is not running on this host"
    problems = []
    for beat in beats:
        if beat.age > heartbeat.FRESH:
            problems.append(f"process {beat.main} of cluster {name} gave its last sign of life {beat.age:.0f} s ago")
        elif beat.late:
            late = " and ".join(f"{what} (for {seconds:.0f} s)" for what, seconds in beat.late.items())
            problems.append(f"process {beat.agent} of cluster {name} is late with {late}")
    return ", ".join(problems)


def web() -> str:
    """Ask the web server on this host for /livez; return what is wrong, or ""."""
    url = f"http://127.0.0.1:{setting('PORT')}/livez"
    try:
        with urllib.request.urlopen(url, timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}"
    except OSError as error:
        return f"{url} does not answer: {getattr(error, 'reason', error)}"
