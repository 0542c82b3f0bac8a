"""The settings: what each variable does, and what a wrong value is told."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from project import PROJECT

PRODUCTION = {"SECRET_KEY": "x" * 60, "DATABASE_URL": "postgres://me:pw@db:5432/site?sslmode=require"}
SHOW = """
import json
from config import settings
print(json.dumps({name: getattr(settings, name) for name in dir(settings) if name.isupper()}, default=str))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Provide a folder with nothing but the settings: no .env and no database."""
    shutil.copytree(PROJECT / "config", tmp_path / "config", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def load(project: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Load the settings in an environment that holds only these variables."""
    return subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=project,
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=False,
    )


def values(project: Path, **env: str) -> dict[str, Any]:
    """Return the settings that an environment leads to."""
    done = load(project, **env)
    assert done.returncode == 0, done.stderr
    settings: dict[str, Any] = json.loads(done.stdout)
    return settings


def test_production_is_safe_by_default(project: Path) -> None:
    settings = values(project, **PRODUCTION)
    assert settings["DEBUG"] is False
    assert settings["ALLOWED_HOSTS"] == []
    for name in ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT"):
        assert settings[name] is True
    assert settings["SECURE_HSTS_SECONDS"] > 0
    assert settings["SECURE_PROXY_SSL_HEADER"] == ["HTTP_X_FORWARDED_PROTO", "https"]
    assert "Manifest" in settings["STORAGES"]["staticfiles"]["BACKEND"]
    assert settings["LOGGING"]["handlers"]["stdout"]["formatter"] == "json"


def test_development_needs_nothing_but_debug(project: Path) -> None:
    settings = values(project, DEBUG="true")
    assert settings["SECRET_KEY"].startswith("django-insecure-")
    assert settings["SECURE_SSL_REDIRECT"] is False
    assert settings["DATABASES"]["default"]["NAME"] == str(project / "db.sqlite3")
    assert "WAL" in settings["DATABASES"]["default"]["OPTIONS"]["init_command"]


def test_an_empty_variable_counts_as_unset_in_development(project: Path) -> None:
    given = dict.fromkeys(["SECRET_KEY", "DATABASE_URL", "EMAIL_URL"], "")
    assert values(project, DEBUG="true", **given) == values(project, DEBUG="true")
    assert values(project, **PRODUCTION, EMAIL_URL="") == values(project, **PRODUCTION)


def test_the_env_file_is_read_and_the_environment_wins(project: Path) -> None:
    (project / ".env").write_text("DEBUG=true\nPORT=1234\nLOG_LEVEL=DEBUG\n")
    settings = values(project, PORT="4321")
    assert (settings["DEBUG"], settings["PORT"], settings["LOG_LEVEL"]) == (True, 4321, "DEBUG")


def test_each_variable_arrives(project: Path) -> None:
    settings = values(
        project,
        **PRODUCTION,
        SECRET_KEY_FALLBACKS="old,older",  # noqa: S106
        ALLOWED_HOSTS="a.example,b.example",
        CSRF_TRUSTED_ORIGINS="https://a.example",
        PORT="1234",
        WEB_CONCURRENCY="3",
        Q_WORKERS="5",
        Q_TIMEOUT="100",
        Q_GRACE="90",
        LOG_LEVEL="WARNING",
    )
    assert settings["SECRET_KEY_FALLBACKS"] == ["old", "older"]
    assert settings["ALLOWED_HOSTS"] == ["a.example", "b.example"]
    assert settings["CSRF_TRUSTED_ORIGINS"] == ["https://a.example"]
    database = settings["DATABASES"]["default"]
    assert (database["ENGINE"], database["OPTIONS"]["sslmode"]) == ("django.db.backends.postgresql", "require")
    assert database["OPTIONS"]["connect_timeout"] <= 5
    assert (database["CONN_MAX_AGE"], database["CONN_HEALTH_CHECKS"]) == (600, True)
    web = settings["PRODUCTION_PROCESSES"]["web"]["ARGS"]
    assert (web["bind"].rpartition(":")[2], web["workers"]) == ("1234", "3")
    cluster = settings["Q_CLUSTER"]
    assert (cluster["workers"], cluster["timeout"], settings["Q_GRACE"]) == (5, 100, 90)
    assert settings["LOGGING"]["root"]["level"] == "WARNING"


def test_one_number_says_what_a_stop_leaves_to_tasks_and_requests(project: Path) -> None:
    settings = values(project, **PRODUCTION, Q_GRACE="90")
    web = settings["PRODUCTION_PROCESSES"]["web"]["ARGS"]
    assert (settings["Q_GRACE"], settings["Q_CLUSTER"]["timeout"], web["graceful-timeout"]) == (90, 90, "90")


def test_a_name_of_the_site_may_come_from_a_variable_of_the_platform(project: Path) -> None:
    names = {"ALLOWED_HOSTS": "$NAME.example,www.example.com", "CSRF_TRUSTED_ORIGINS": "https://${NAME}.example"}
    settings = values(project, **PRODUCTION, **names, NAME="my-site")
    assert settings["ALLOWED_HOSTS"] == ["my-site.example", "www.example.com"]
    assert settings["CSRF_TRUSTED_ORIGINS"] == ["https://my-site.example"]


def test_lists_are_stripped_and_lose_what_is_empty(project: Path) -> None:
    settings = values(
        project,
        **PRODUCTION,
        ALLOWED_HOSTS=" a.example, b.example,,$NOTHING,",
        CSRF_TRUSTED_ORIGINS="https://a.example, https://b.example ",
        SECRET_KEY_FALLBACKS="older, old,",  # noqa: S106
        NOTHING="",
    )
    assert settings["ALLOWED_HOSTS"] == ["a.example", "b.example"]
    assert settings["CSRF_TRUSTED_ORIGINS"] == ["https://a.example", "https://b.example"]
    assert settings["SECRET_KEY_FALLBACKS"] == ["older", "old"]


def test_a_secret_may_end_with_the_newline_of_its_file(project: Path) -> None:
    settings = values(project, **{name: f"{value}\n" for name, value in PRODUCTION.items()}, PORT="1234\r\n")
    assert settings["SECRET_KEY"] == PRODUCTION["SECRET_KEY"]
    assert settings["DATABASES"]["default"]["OPTIONS"]["sslmode"] == "require"
    assert settings["PORT"] == 1234


def test_a_url_may_have_spaces_around_it(project: Path) -> None:
    url = PRODUCTION["DATABASE_URL"]
    settings = values(project, **{**PRODUCTION, "DATABASE_URL": f" {url} ", "EMAIL_URL": " smtp://example.com \n"})
    assert settings["DATABASES"]["default"]["OPTIONS"]["sslmode"] == "require"
    host = settings["MAILERS"]["default"]["OPTIONS"]["host"] if "MAILERS" in settings else settings["EMAIL_HOST"]
    assert host == "example.com"  # Django 6.1 has the one, 5.2 the other
    variable = next((name for name in settings if name.endswith("_URL") and "://" in settings[name]), None)
    if variable:  # the broker's
        assert values(project, **PRODUCTION, **{variable: f"{settings[variable]} "}) == values(project, **PRODUCTION)


def test_admins_are_addresses(project: Path) -> None:
    assert values(project, **PRODUCTION)["ADMINS"] == values(project, **PRODUCTION, ADMINS="")["ADMINS"] == []
    admins = values(project, **PRODUCTION, ADMINS="ada@example.com, bob@example.com,")["ADMINS"]
    addresses = ["ada@example.com", "bob@example.com"]
    assert admins in (addresses, [[address, address] for address in addresses])  # Django 5.2 wants names as well


@pytest.mark.parametrize("password", ["pa/sswd", "pa#sswd", "12#sswd", "12/sswd", "12?sswd", "p@12?sswd@34"])
def test_a_password_that_breaks_the_url_is_told_how_to_be_written(project: Path, password: str) -> None:
    done = load(project, **{**PRODUCTION, "DATABASE_URL": f"postgres://me:{password}@db:5432/site"})
    *_, sentence = done.stderr.splitlines()
    assert 'Environment variable "DATABASE_URL" invalid: ' in sentence
    assert "in the password %2F for /, %23 for #" in sentence
    assert not re.search("pa[^s]|12|sswd", sentence)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite:////data/db.sqlite3",
        "sqlite://:memory:",
        "postgres://me:p@s:s@[::1]/s?options=-c%20a",
        "postgres:///a",
    ],
)
def test_a_url_that_can_be_read_is(project: Path, url: str) -> None:
    assert load(project, **{**PRODUCTION, "DATABASE_URL": url}).returncode == 0


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SECRET_KEY", None, 'Environment variable "SECRET_KEY" not set'),
        ("SECRET_KEY", "", 'Environment variable "SECRET_KEY" invalid'),
        ("DEBUG", "flase", "DEBUG is 'flase': write true or false."),
        ("SECURE_SSL_REDIRECT", "of", "SECURE_SSL_REDIRECT is 'of': write true or false."),
        (
            "DATABASE_URL",
            "nonsense",
            "invalid: ['write postgres://user:password@host:5432/name, and in the password %2F",
        ),
        ("DATABASE_URL", "nonsense://db/site", 'Environment variable "DATABASE_URL" invalid: Not a valid database URL'),
        ("DATABASE_URL", "sqlite://db.sqlite3", "invalid: ['write sqlite:///db.sqlite3, with three slashes"),
        ("DATABASE_URL", "sqlite://data/db.sqlite3", "write sqlite:///db.sqlite3"),
        ("PORT", "http", "PORT is 'http': write a whole number, from 1 to 65535."),
        ("PORT", "", "PORT is '': write a whole number, from 1 to 65535."),
        ("PORT", "70000", "PORT is '70000': write a whole number, from 1 to 65535."),
        ("WEB_CONCURRENCY", "0", "WEB_CONCURRENCY is '0': write a whole number, 1 or more."),
        ("Q_WORKERS", "two", "Q_WORKERS is 'two': write a whole number, 1 or more."),
        ("Q_KEEP_RESULTS", "0", "Q_KEEP_RESULTS is '0': write a whole number, from 1 to 36500."),
        ("Q_KEEP_FAILURES", "99999", "Q_KEEP_FAILURES is '99999': write a whole number, from 1 to 36500."),
        ("Q_WORKERS", "-1", "Q_WORKERS is '-1': write a whole number, 1 or more."),
        ("Q_TIMEOUT", "1.5", "Q_TIMEOUT is '1.5': write a whole number, 1 or more."),
        ("Q_MAX_MEMORY", "1GB", "Q_MAX_MEMORY is '1GB': write a whole number, 0 or more."),
        ("LOG_LEVEL", "LOUD", "Must be one of: CRITICAL"),
        ("EMAIL_URL", "smtp.example.com", "write submission://user:password@host"),
        ("EMAIL_URL", "smtps://me:pw@example.com", "write submission://user:password@host"),
        ("EMAIL_URL", "submission://", "write submission://user:password@host"),
        ("EMAIL_URL", "submission://me:p/w@example.com", "in the password %2F for /"),
        ("EMAIL_URL", "smtp://example.com:http", 'Environment variable "EMAIL_URL" invalid: Not a valid email URL'),
        ("METRICS_TOKEN", "0123456789abcde", "write 16 characters or more, of ASCII and without spaces, such as"),
        ("METRICS_TOKEN", "ü" * 16, "write 16 characters or more, of ASCII"),
        ("ADMINS", "Ada <ada@example.com>", "write addresses separated by commas, as in ada@example.com,bob@"),
        ("ADMINS", "ada@example.com bob@example.com", "write addresses separated by commas"),
        ("AWS_STORAGE_BUCKET_NAME", "files", "AWS_STORAGE_BUCKET_NAME needs a package: run `uv add"),
    ],
)
def test_a_wrong_value_is_named(project: Path, variable: str, value: str | None, sentence: str) -> None:
    env = {name: text for name, text in {**PRODUCTION, variable: value}.items() if text is not None}
    done = load(project, **env)
    assert done.returncode != 0
    assert sentence in done.stderr.splitlines()[-1]


def test_a_command_ends_with_the_sentence_alone(project: Path) -> None:
    shutil.copy(PROJECT / "manage.py", project)
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=project,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, 'EnvNotSetError: Environment variable "SECRET_KEY" not set\n')
