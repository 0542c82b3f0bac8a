"""The settings, all of them: what differs from machine to machine comes from the environment.

Each variable read here stands in .env.example. A wrong value ends the program with a sentence that names it.
Django's settings are described at https://docs.djangoproject.com/en/6.1/ref/settings/,
those of Q_CLUSTER at https://django-q2.readthedocs.io/en/master/configure.html.
"""

import logging
import os
import re
import socket
import sys
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from dotenv import load_dotenv
from environs import Env, EnvValidationError, validate

BASE_DIR = Path(__file__).resolve().parent.parent
SITE_NAME = "My Project"
SITE_SLUG = "my_project"

load_dotenv(BASE_DIR / ".env")  # for development; the real environment wins over it
env = Env()
for variable, text in os.environ.items():
    if text.endswith("\n"):  # as secrets do that were made from a file
        os.environ[variable] = text.rstrip("\r\n")
    if "_URL" in variable:
        os.environ[variable] = text.strip()
if not os.environ.get("EMAIL_URL"):
    os.environ.pop("EMAIL_URL", None)  # empty counts as unset


def stripped(values: list[str]) -> list[str]:
    """Return a list without the spaces around its values, and without empty ones."""
    return [value.strip() for value in values if value.strip()]


def number(name: str, default: int, least: int = 1, most: int = sys.maxsize) -> int:
    """Return a whole number from the environment."""
    text = env.str(name, str(default))
    if not re.fullmatch(r"\s*\d+\s*", text) or not least <= int(text) <= most:
        wanted = f"{least} or more" if most == sys.maxsize else f"from {least} to {most}"
        raise ImproperlyConfigured(f"{name} is {text!r}: write a whole number, {wanted}.")
    return int(text)


def truth(name: str, default: bool) -> bool:
    """Return a yes or no from the environment."""
    try:
        return env.bool(name, default)
    except EnvValidationError as error:
        raise ImproperlyConfigured(f"{name} is {os.environ[name]!r}: write true or false.") from error


# Security

DEBUG = truth("DEBUG", False)  # dangerous in production: it shows settings and source to visitors
if DEBUG:
    SECRET_KEY = env.str("SECRET_KEY", "") or "django-insecure-for-development-only"
else:
    SECRET_KEY = env.str("SECRET_KEY", validate=validate.Length(min=1))
# Old keys: sessions signed with them stay valid after SECRET_KEY has changed.
SECRET_KEY_FALLBACKS = stripped(env.list("SECRET_KEY_FALLBACKS", []))

# A $NAME in these stands for that variable's value: platforms announce the names of a site in variables of theirs.
ALLOWED_HOSTS = stripped(env.list("ALLOWED_HOSTS", [], subcast=os.path.expandvars))
CSRF_TRUSTED_ORIGINS = stripped(env.list("CSRF_TRUSTED_ORIGINS", [], subcast=os.path.expandvars))

# Where DEBUG is off, a proxy ends TLS and says so in this header. It must overwrite what clients send, and the
# port that gunicorn listens on must not be reachable past it: else anybody can claim to have come by HTTPS.
SECURE_PROXY_SSL_HEADER = None if DEBUG else ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = truth("SECURE_SSL_REDIRECT", not DEBUG)
SESSION_COOKIE_SECURE = not DEBUG  # a cookie sent over HTTP could be read on its way
CSRF_COOKIE_SECURE = not DEBUG
# Browsers remember for this long to come by HTTPS only. An hour can be waited out if HTTPS fails at first;
# set a year (31536000) when it has held for a while.
SECURE_HSTS_SECONDS = number("SECURE_HSTS_SECONDS", 0 if DEBUG else 3600, least=0)
SILENCED_SYSTEM_CHECKS = [
    "security.W004",  # SECURE_HSTS_SECONDS and, W008, SECURE_SSL_REDIRECT: who turns them off has said so
    "security.W008",
    "security.W005",  # SECURE_HSTS_INCLUDE_SUBDOMAINS: it would bind every subdomain, also those of others
    "security.W021",  # SECURE_HSTS_PRELOAD: browsers ship with the list, so there is no quick way back
]
# What browsers let a page do: no inline script or style runs, and nothing of another site.
POLICY = {
    "default-src": ["'self'"],
    "img-src": ["'self'", "data:"],
    "base-uri": ["'none'"],
    "form-action": ["'self'"],
    "frame-ancestors": ["'none'"],
    "object-src": ["'none'"],
}
SECURE_CSP = POLICY

# Bytes that a request may have, files included: what is larger is refused before it is read. TMPDIR takes up to 12 of
# them for each process: 8 that are read or wait (FILES in worker/web/http.py), and what Django makes of the 4 that
# are answered (threads, below). 12 * 10 MB * WEB_CONCURRENCY 2 = 240 MB fit the 256 MB of /tmp where it has a limit.
MAX_UPLOAD_SIZE = number("MAX_UPLOAD_MB", 10) * 1_000_000
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_UPLOAD_SIZE  # of forms and JSON: Django refuses 2.5 MB by a mere 400

# Application

INSTALLED_APPS = [
    "worker",  # first: its prodserver command takes the place of django_prodserver's
    "core",
    "django_prodserver",
    "django_q",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "worker.web.middleware.ProbeMiddleware",  # first: probes send any Host, and plain HTTP
    "worker.web.middleware.RequestIdMiddleware",
    "worker.web.middleware.ProxyMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "worker.web.middleware.UploadLimitMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "worker.web.middleware.SessionMiddleware",  # Django's own answers 500 while the database is away
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "worker.web.middleware.OutageMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
ASGI_APPLICATION = "config.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_USER_MODEL = "core.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-us"
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = "UTC"

# Database and cache

DATABASES: dict[str, dict[str, Any]] = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}
}
# A / # ? or @ in the password would cut the URL in the wrong place, and show a part of it as the host's name or port.
READABLE = validate.Regexp(
    r"(\w+://[^/?#]*([/?][^@#]*)?)?$",
    error="write postgres://user:password@host:5432/name, "
    "and in the password %2F for /, %23 for #, %3F for ?, %40 for @, %3A for : and %25 for %.",
)
THREE_SLASHES = validate.Regexp(
    r"(?!sqlite://[^/])|sqlite://:memory:$",  # with two, the name would be a host's, and the database in memory
    error="write sqlite:///db.sqlite3, with three slashes, or four before an absolute path.",
)
if env.str("DATABASE_URL", "", validate=[READABLE, THREE_SLASHES]):
    DATABASES["default"] = dict(env.dj_db_url("DATABASE_URL"))
DATABASES["default"] |= {
    # A connection for each request, or for each look at the queue, costs more than the query that it carries.
    "CONN_MAX_AGE": 600,
    "CONN_HEALTH_CHECKS": True,
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Web and workers write to one file: WAL lets them read meanwhile, IMMEDIATE makes a writer wait for its
    # turn, up to `timeout` seconds, where it would otherwise fail with "database is locked".
    DATABASES["default"]["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
    }
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # Whoever asks an absent database gets an error in seconds, not when TCP gives up after many minutes.
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 5,  # seconds
        "tcp_user_timeout": 15_000,  # milliseconds
        **DATABASES["default"].get("OPTIONS", {}),
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Shared by all processes: through it web sees that a worker is alive, which memory of its own could not show.
# Of more entries than MAX_ENTRIES, which is 300 by default, it deletes a third.
CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "cache",
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    }
}

# Static files

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [path for path in [BASE_DIR / "static"] if path.is_dir()]  # Django warns of one that is not there
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        # Names that carry a hash of the content, so that browsers may keep them for ever.
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}

# Files that people upload: in development in a folder, in production in a bucket, since folders go with a deploy

MEDIA_URL = "media/"
MEDIA_ROOT = BASE_DIR / "media"
if bucket := env.str("AWS_STORAGE_BUCKET_NAME", ""):
    if find_spec("storages") is None:
        raise ImproperlyConfigured("AWS_STORAGE_BUCKET_NAME needs a package: run `uv add 'django-storages[s3]'`.")
    STORAGES["default"] = {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {"bucket_name": bucket, "file_overwrite": False},  # True would let a namesake replace a file
    }

# E-mail

mail_url = env.str(
    "EMAIL_URL",
    "console:" if DEBUG else "smtp://localhost",
    validate=validate.Regexp(
        r"console:$|(smtp|submission)://[^/?#]+/?(\?[^#]*)?$",
        error="write submission://user:password@host, smtp://host:25 or console:, "
        "and in the password %2F for /, %23 for #, %3F for ? and %25 for %.",
    ),
)
mail = env.dj_email_url("EMAIL_URL", mail_url)
mail["EMAIL_TIMEOUT"] = mail["EMAIL_TIMEOUT"] or 10  # seconds; a page would else wait for minutes for an absent server
MAILERS: dict[str, dict[str, Any]] = {"default": {"BACKEND": mail["EMAIL_BACKEND"]}}
if mail["EMAIL_HOST"]:
    MAILERS["default"]["OPTIONS"] = {
        "host": mail["EMAIL_HOST"],
        "port": mail["EMAIL_PORT"],
        "username": mail["EMAIL_HOST_USER"],
        "password": mail["EMAIL_HOST_PASSWORD"],
        "use_ssl": mail["EMAIL_USE_SSL"],
        "use_tls": mail["EMAIL_USE_TLS"],
        "timeout": mail["EMAIL_TIMEOUT"],
    }
# A server of mail that is away must break no error page.
MAILERS["admins"] = MAILERS["default"] | {"OPTIONS": {**MAILERS["default"].get("OPTIONS", {}), "fail_silently": True}}
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("DEFAULT_FROM_EMAIL", "webmaster@localhost")
address = r"\s*[^\s@,<>]+@[^\s@,<>]+\s*"
admins = env.str(
    "ADMINS",
    "",
    validate=validate.Regexp(
        f"({address}(,{address})*,?)?\\s*$",
        error="write addresses separated by commas, as in ada@example.com,bob@example.com.",
    ),
)
ADMINS = stripped(admins.split(","))  # are sent what fails in a page, with its traceback
# Where errors are sent in the place of mail: the address that a project at Sentry, or what speaks like it, shows.
SENTRY_DSN = env.str("SENTRY_DSN", "")

# Logging: to stdout, one line an event; JSON where machines read it

LOG_LEVEL = env.str("LOG_LEVEL", "INFO", validate=validate.OneOf(list(logging.getLevelNamesMapping())))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"()": "worker.logs.Text"},
        "json": {"()": "worker.logs.Json"},
    },
    "handlers": {
        "stdout": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "filters": ["keys"],
            "formatter": "text" if DEBUG else "json",
        },
        "admins": {
            "class": "django.utils.log.AdminEmailHandler",
            "filters": ["traceback"],
            "using": "admins",
        },
    },
    "filters": {
        "keys": {"()": "worker.logs.Keys"},  # task_id, request_id and the like, on each line
        # What a line says, such as that the database is away, would fill a letter box.
        "traceback": {"()": "django.utils.log.CallbackFilter", "callback": attrgetter("exc_info")},
    },
    "root": {"handlers": ["stdout"], "level": LOG_LEVEL},
    "loggers": {
        # Without handlers of their own, or each event would come twice.
        "django": {"handlers": []},
        "django.request": {"handlers": ["admins"]},
        "django.tasks": {"level": "CRITICAL"},  # the worker says the same, with more
        "django-q": {"handlers": []},
        "gunicorn.http.wsgi": {"level": "ERROR"},  # it warns of each HEAD, which Django answers with a body
    },
}

# Metrics, at /metrics, for who sends "Authorization: Bearer " and this

METRICS_TOKEN = env.str(
    "METRICS_TOKEN",
    "",
    validate=validate.Regexp(
        r"([!-~]{16,})?$",
        error="write 16 characters or more, of ASCII and without spaces, such as those that "
        "`python -c 'import secrets; print(secrets.token_urlsafe())'` prints.",
    ),
)

# Queue

Q_WORKERS = number("Q_WORKERS", 2)  # about 3 MB each, and 70 MB for the rest
# Seconds that a process which is told to stop leaves to running tasks, or to requests; what then still runs is cut off,
# and a task is given back to the queue and run again. Keep it 5 below what the platform grants before it kills: the
# least that any platform grants is 30, and the platform's own file sets it where there is more.
Q_GRACE = number("Q_GRACE", 25)
# Seconds that a task may run; no longer than Q_GRACE, or a deploy may cut it off.
Q_TIMEOUT = number("Q_TIMEOUT", Q_GRACE)
# MB of memory with which a worker is replaced once its task is done, in case tasks leak some; 0 for no limit.
Q_MAX_MEMORY = number("Q_MAX_MEMORY", 0, least=0)
# Seconds for which an idle worker leaves the database alone. A schedule that was changed there, and of which no worker
# was told, may begin so late; the start page may take three times as long to show that a worker has died.
Q_QUIET = number("Q_QUIET", 30)
# Days for which results are kept: of tasks that have succeeded, and of those that have failed for good.
Q_KEEP_RESULTS = number("Q_KEEP_RESULTS", 7, most=36_500)
Q_KEEP_FAILURES = number("Q_KEEP_FAILURES", 30, most=36_500)
# Of a million results and more the oldest go before their days are over; Q_MOST_RESULTS would be another number.
# Schedules may run functions of the project's own apps; a list of modules, Q_SCHEDULE_MODULES, would take their place.

Q_CLUSTER: dict[str, Any] = {
    "name": SITE_SLUG,  # it also salts the signature of tasks: web and all workers must agree on it
    "broker_class": "worker.broker.Broker",
    "workers": Q_WORKERS,
    "timeout": Q_TIMEOUT,
    # Seconds of a lease. The cluster renews those of all tasks that it has fetched, however long they wait or run, so
    # this is how long tasks wait if the whole cluster dies.
    "retry": 60,
    "queue_limit": 500,  # tasks fetched ahead, at most: what the workers take in a second, and five for each of them
    "bulk": 100,  # tasks fetched at a time, at most
    "max_attempts": 3,  # 10 and 40 seconds apart, unless a task says otherwise; 0 would try it without end
    "ack_failures": False,  # True would take a failed task from the queue at once, without another attempt
    "catch_up": False,  # after a pause a schedule runs once, not once for each time that it missed
    "save_limit": 0,  # keeps results by their age, not by their number
    "recycle": 10_000,  # tasks after which a worker is replaced, in case they leak
    "max_rss": Q_MAX_MEMORY * (1_000_000 if sys.platform == "darwin" else 1000),  # as the system counts it
    "time_zone": TIME_ZONE,
    "orm": "default",  # the DATABASES entry that holds the queue
    "poll": 0.5,  # seconds between two looks at an empty queue: a task waits half of it
    "ALT_CLUSTERS": {},  # further clusters by name, each with what it does otherwise
}

# Django's tasks go to these clusters: a queue is a cluster's name, and "default" the first one.
TASKS = {"default": {"BACKEND": "worker.tasks.Backend"}}
TEST_RUNNER = "worker.testing.Runner"  # of `manage.py test`: what tests queue stays in memory, as with pytest

# Processes, started by `python manage.py prodserver NAME`

PORT = number("PORT", 8000, most=65535)
WEB_CONCURRENCY = number("WEB_CONCURRENCY", 2)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (gunicorn's workers touch a file; a slow disk would block them)
PRODUCTION_PROCESSES: dict[str, dict[str, Any]] = {
    "web": {
        "BACKEND": "django_prodserver.backends.servers.gunicorn.GunicornServer",
        "ARGS": {
            "bind": f"{'[::]' if socket.has_dualstack_ipv6() else '0.0.0.0'}:{PORT}",  # noqa: S104 (a proxy asks)
            "workers": str(WEB_CONCURRENCY),
            "worker-class": "worker.web.gunicorn.Worker",  # limits slow clients
            "threads": "4",  # a thread that waits for the database leaves the others to serve
            "forwarder-headers": "",  # by default SCRIPT_NAME, which a proxy hands on from a client
            "graceful-timeout": str(Q_GRACE),
            "keep-alive": "95",  # seconds; above the 90 for which routers keep idle connections
            "logger-class": "worker.web.gunicorn.Logger",
            "no-control-socket": None,  # it would want to write to a home folder, which containers lack
            "worker-tmp-dir": str(SHARED_MEMORY if SHARED_MEMORY.is_dir() else gettempdir()),
        },
    },
    "worker": {"BACKEND": "django_prodserver.backends.workers.django_q2.DjangoQ2Worker"},
}
