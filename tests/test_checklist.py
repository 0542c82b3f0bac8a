"""Django's checklist for a deployment: each of its headings is answered by a setting, a command or a sentence.

The headings are those of https://docs.djangoproject.com/en/5.2/howto/deployment/checklist/, which 6.1 shares.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.combinations import TEMPLATE, Combination, each
from tests.processes import run
from tests.projects import PRODUCTION, Workplace
from tests.test_mail_and_files import of_each_django

SHOW = """
import json
from django.conf import settings
names = [name for name in dir(settings) if name.isupper() and not name.startswith("EMAIL_")]
print(json.dumps({name: getattr(settings, name) for name in names}, default=str))
"""
Settings = dict[str, Any]


def default(settings: Settings) -> dict[str, Any]:
    """Return the database."""
    database: dict[str, Any] = settings["DATABASES"]["default"]
    return database


#: What answers a heading: something that holds of the settings in production, or a page and a sentence of it.
ANSWERS: dict[str, Callable[[Settings], object] | tuple[str, str]] = {
    "Run manage.py check --deploy": ("README.md", "before a new version: deploy checks"),
    "SECRET_KEY": lambda it: it["SECRET_KEY"] == PRODUCTION["SECRET_KEY"],
    "DEBUG": lambda it: it["DEBUG"] is False,
    "ALLOWED_HOSTS": lambda it: it["ALLOWED_HOSTS"] == [PRODUCTION["ALLOWED_HOSTS"]],
    "CACHES": lambda it: it["CACHES"]["default"]["BACKEND"].endswith("DatabaseCache"),
    "DATABASES": lambda it: default(it)["PASSWORD"] == "pw",  # noqa: S105
    "DATABASES: backups": ("README.md", "Let the database be copied each day"),
    "EMAIL_BACKEND and related settings": lambda it: it["DEFAULT_FROM_EMAIL"] == it["SERVER_EMAIL"] == "me@example.com",
    "STATIC_ROOT and STATIC_URL": lambda it: it["STATIC_ROOT"].endswith("/staticfiles"),
    "MEDIA_ROOT and MEDIA_URL": lambda it: it["MEDIA_ROOT"].endswith("/media") and it["MEDIA_URL"] == "/media/",
    "MEDIA_ROOT and MEDIA_URL: untrusted": ("docs/files.md", "What people upload may be anything."),
    "HTTPS": lambda it: it["SECURE_SSL_REDIRECT"] and it["SECURE_HSTS_SECONDS"] and it["SECURE_PROXY_SSL_HEADER"],
    "CSRF_COOKIE_SECURE": lambda it: it["CSRF_COOKIE_SECURE"] is True,
    "SESSION_COOKIE_SECURE": lambda it: it["SESSION_COOKIE_SECURE"] is True,
    "Sessions": ("docs/files.md", "Sessions of visitors lie in the database"),
    "CONN_MAX_AGE": lambda it: default(it)["CONN_MAX_AGE"] > 0 and default(it)["CONN_HEALTH_CHECKS"] is True,
    "TEMPLATES": lambda it: "loaders" not in it["TEMPLATES"][0]["OPTIONS"],  # Django then caches them
    "LOGGING": lambda it: it["LOGGING"]["handlers"]["stdout"]["formatter"] == "json",
    "ADMINS and MANAGERS": lambda it: it["LOGGING"]["loggers"]["django.request"]["handlers"] == ["admins"],
    "Customize the default error views": ("core/templates/404.html", "There is no page at this address."),
}


@each("", lambda combination: iter([()]), of_each_django)
def test_each_heading_of_djangos_checklist_is_answered(combination: Combination, workplace: Workplace) -> None:
    own = {"DATABASE_URL": "postgres://me:pw@db:5432/site", "DEFAULT_FROM_EMAIL": "me@example.com"}
    environment = workplace.environment({**PRODUCTION, **own, "DJANGO_SETTINGS_MODULE": "config.settings"})
    settings = json.loads(run([workplace.python, "-c", SHOW], workplace.path, environment))
    for heading, answer in ANSWERS.items():
        if callable(answer):
            assert answer(settings), heading
        else:
            folder: Path = TEMPLATE if answer[0].startswith("docs/") else workplace.path
            assert answer[1] in (folder / answer[0]).read_text(), heading
