"""Tells people of tasks that have failed for good: by Sentry where SENTRY_DSN is set, else by mail to ADMINS.

A worker does it, after the result is on its way, so that neither a slow receiver nor a broken one delays that.
"""

import hashlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.cache import BaseCache, caches
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import mail_admins

from worker.conf import setting
from worker.delivery import brief
from worker.policy import Cancelled, WorkerDied

HOUR, DAY = 3600, 86_400
MAILS = 20  #: in an hour, of all functions together
AGAIN = 60  #: seconds until a mail is tried again that could not be sent
FLUSH = 0.8  #: seconds that a worker which leaves has for what is not sent yet: a stop kills it after one
#: What these log of tasks comes here as well, once and with more.
OWN = ("django-q", "django.tasks", "django_tasks")

logger = logging.getLogger("django-q")


def begin() -> None:
    """Begin with Sentry, if there is a SENTRY_DSN."""
    if not (dsn := setting("SENTRY_DSN").strip()):
        return
    try:
        import sentry_sdk
        from sentry_sdk.integrations.logging import ignore_logger
    except ImportError:
        raise ImproperlyConfigured("SENTRY_DSN needs a package: run `uv add sentry-sdk`.") from None
    try:
        sentry_sdk.init(dsn=dsn)
    except Exception:  # whose text has the key in it
        problem = "SENTRY_DSN is no address of a project at Sentry"
        raise ImproperlyConfigured(f"{problem}: write https://KEY@HOST/NUMBER, as its settings show it.") from None
    for name in OWN:
        ignore_logger(name)


def sentry() -> Any:
    """Return Sentry's package if something is sent there, else None. It is not imported for this."""
    package: Any = sys.modules.get("sentry_sdk")
    return package if package and package.get_client().is_active() else None


def leave() -> None:
    """Have nothing to do with it in this process."""
    if package := sentry():
        package.get_global_scope().set_client(None)


@contextmanager
def around(keys: Mapping[str, Any]) -> Iterator[None]:
    """Keep what Sentry notes of a task apart from that of others, with these tags; for where there is Sentry."""
    with sentry().isolation_scope() as scope:
        scope.set_tags(keys)
        yield


def report(
    keys: Mapping[str, Any], exception: str, reason: str, error: BaseException | None, kept: Sequence[dict[str, Any]]
) -> None:
    """Tell that a task has failed for good: of the exception's path, and what is kept of all attempts."""
    if isinstance(error, Cancelled):  # whoever did it knows
        return
    try:
        if package := sentry():
            send_event(package, keys, exception, reason, error, kept)
        elif settings.ADMINS:
            send_mail(keys, exception, reason, kept)
    except BaseException as problem:  # of a mail server, the cache, or a class of a user's
        logger.error("Nobody could be told that %s has failed: %s", keys["task"], brief(problem))


def send_event(
    package: Any,
    keys: Mapping[str, Any],
    exception: str,
    reason: str,
    error: BaseException | None,
    kept: Sequence[dict[str, Any]],
) -> None:
    """Hand Sentry an event, which a thread sends; earlier attempts are its breadcrumbs."""
    with package.new_scope() as scope:
        scope.fingerprint = [keys["task"], exception]
        scope.set_transaction_name(keys["task"])
        scope.set_tags(keys)
        for number, attempt in enumerate(kept[:-1], keys.get("attempt", 1) - len(kept) + 1):
            last = attempt["traceback"].strip().rpartition("\n")[2] or attempt["exception_class_path"]
            crumb = {"category": "task", "level": "warning", "message": f"attempt {number}: {last}"}
            scope.add_breadcrumb(crumb | {"timestamp": datetime.fromisoformat(attempt["stopped"]).astimezone(UTC)})
        if error is None or isinstance(error, WorkerDied):
            package.capture_message(f"{keys['task']}: {reason}", "error")
        else:
            package.capture_exception(error)


def send_mail(keys: Mapping[str, Any], exception: str, reason: str, kept: Sequence[dict[str, Any]]) -> None:
    """Send a mail, one an hour for each function and exception; the next one tells how many failed meanwhile.

    After MAILS of an hour there is only one more, which says so.
    """
    cache = caches[settings.Q_CLUSTER.get("cache", "default")]
    key = "worker.errors:" + hashlib.blake2b(f"{keys['task']}\0{exception}".encode(), digest_size=16).hexdigest()
    count = f"{key}:count"
    more = cache.get(count, 0)
    if not cache.add(key, True, HOUR) or (place := free_place(cache)) is None:
        cache.set(count, more + 1, 7 * DAY)
        return
    cache.delete(count)
    lines = [f"{keys['task']} has failed for good: {reason}"]
    if more:
        often = "once more" if more == 1 else f"{more} more times"
        lines.append(f"It has failed in this way {often} since the last mail.")
    lines += ["", f"Run it again with: python manage.py queue retry {keys['task_id']}", ""]
    lines += [*(f"{name}: {value}" for name, value in keys.items()), "", kept[-1]["traceback"] if kept else ""]
    subject = " ".join(f"{keys['task']} failed: {reason}".split())[:200]
    if place.endswith(f":{MAILS}"):
        subject = "More tasks have failed"
        lines[:0] = [
            f"{MAILS} mails have told of tasks that have failed in this hour, and this is its last one.",
            "All of them are in /admin/queue/, and in what `python manage.py queue` prints. The newest:",
            "",
        ]
    try:
        mail_admins(subject, "\n".join(lines))
    except Exception:
        cache.delete(place)
        cache.set(key, True, AGAIN)
        cache.set(count, more + 1, 7 * DAY)
        raise


def free_place(cache: BaseCache) -> str | None:
    """Take one of the places that an hour has for mails, and return its key; no two processes get the same."""
    hour = int(time.time() // HOUR)
    places = [f"worker.errors:{hour}:{number}" for number in range(MAILS + 1)]
    if places[-1] in cache:
        return None
    return next((place for place in places if cache.add(place, True, HOUR)), None)


def flush() -> None:
    """Wait a moment for what is not sent yet, since this process is about to end."""
    if package := sentry():
        package.flush(FLUSH)
