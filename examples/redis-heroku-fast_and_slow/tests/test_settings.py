"""The settings: what each environment leads to, and what a wrong value is told."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

PRODUCTION = {
    "ALLOWED_HOSTS": "example.com",
    "DATABASE_URL": "postgres://me:pw@db:5432/site",
    "SECRET_KEY": "0123456789" * 5,
}
SHOW = """
import json
from config import settings
print(json.dumps({name: getattr(settings, name) for name in dir(settings) if name.isupper()}, default=str))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Provide a folder with nothing but the settings: no .env and no database."""
    shutil.copytree(settings.BASE_DIR / "config", tmp_path / "config", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(folder: Path, *args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run Python in a folder, in an environment that holds only these variables."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=False,
    )


def values(folder: Path, **env: str) -> dict[str, Any]:
    """Return the settings that an environment leads to."""
    done = run(folder, "-c", SHOW, **env)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_production_is_safe_by_default(project: Path) -> None:
    found = values(project, **PRODUCTION)
    assert found["DEBUG"] is False
    for name in ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT"):
        assert found[name] is True
    assert found["SECURE_HSTS_SECONDS"] > 0
    assert found["LOGGING"]["handlers"]["stdout"]["formatter"] == "json"


def test_development_needs_nothing_but_debug(project: Path) -> None:
    found = values(project, DEBUG="true")
    assert found["SECURE_SSL_REDIRECT"] is False
    assert found["DATABASES"]["default"]["NAME"] == str(project / "db.sqlite3")


def test_the_env_file_is_read_and_the_environment_wins(project: Path) -> None:
    (project / ".env").write_text("DEBUG=true\nPORT=1234\nLOG_LEVEL=DEBUG\n")
    found = values(project, PORT="4321")
    assert (found["DEBUG"], found["PORT"], found["LOG_LEVEL"]) == (True, 4321, "DEBUG")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SECRET_KEY", "", 'Environment variable "SECRET_KEY" invalid'),
        ("DEBUG", "flase", "DEBUG is 'flase': write true or false."),
        ("Q_WORKERS", "0", "Q_WORKERS is '0': write a whole number, 1 or more."),
    ],
)
def test_a_wrong_value_is_named(project: Path, variable: str, value: str, sentence: str) -> None:
    done = run(project, "-c", SHOW, **{**PRODUCTION, variable: value})
    assert done.returncode != 0
    assert sentence in done.stderr.splitlines()[-1]


def test_django_has_no_objection_to_production() -> None:
    command = ["manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    done = run(settings.BASE_DIR, *command, **PRODUCTION, DEBUG="false")
    assert done.returncode == 0, done.stderr
