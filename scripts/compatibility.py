"""Which versions are tested together: on each push those of cookiecutter.json, each week what is new among packages.

`cells` and `newest` print the jobs of ci.yml and newest.yml as JSON. `take PACKAGES releases` lets this checkout
require the newest releases of some, `take PACKAGES development` what their repositories have; `git checkout .` takes
that back.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Files that name packages: what projects require, and what the tests add to them.
FILES = ["cookiecutter.json", "pyproject.toml", "{{cookiecutter.project_slug}}/pyproject.toml"]
NEWEST = "3.14"  #: of the Pythons
#: What worker/ reaches into, and where the next version is made.
REQUIRED = {
    "django": "https://github.com/django/django@main",
    "django-prodserver": "https://github.com/nanorepublica/django-prodserver@main",
    "django-q2": "https://github.com/django-q2/django-q2@master",
    "gunicorn": "https://github.com/benoitc/gunicorn@master",
}
OPTIONAL = ["django-storages", "opentelemetry-sdk", "sentry-sdk"]  #: what a project may add
KINDS = ["releases", "development"]
#: The tests of each: those that meet the packages.
ENGINE = "tests/test_engine.py -k 'keeps_its_promises and (orm or redis)'"
BESIDE = "tests/test_reports.py tests/test_mail_and_files.py"


def version(text: str) -> tuple[int, ...]:
    """Return a version to compare: 3.9 comes before 3.11."""
    return tuple(map(int, text.split(".")))


def cells(answers: dict[str, Any]) -> list[dict[str, str]]:
    """Return each Python, Django and broker that go together."""
    oldest = {django: version(answers["_djangos"][django]["python"]) for django in answers["django_version"]}
    pythons = [f"3.{minor}" for minor in range(min(oldest.values())[1], version(NEWEST)[1] + 1)]
    return [
        {"python": python, "django": django, "broker": broker}
        for python in pythons
        for django in answers["django_version"]
        for broker in answers["broker"]
        if version(python) >= oldest[django]
    ]


def newest() -> list[dict[str, str]]:
    """Return what is tested each week: each package alone, so that it is known which one has changed."""
    required = [{"packages": package, "kind": kind, "tests": ENGINE} for package in REQUIRED for kind in KINDS]
    return [*required, {"packages": " ".join(OPTIONAL), "kind": "releases", "tests": BESIDE}]


def taken(text: str, package: str, kind: str) -> str:
    """Return the text of a file that requires the newest of a package, without an upper limit."""
    limits = r"==([\d.]+)|>=([\d.]+)(?:,<[\d.]+)?"

    def limit(found: re.Match[str]) -> str:
        oldest = next(filter(None, found.groups()[1:]))
        return f"{found[1]}>={oldest}" if kind == "releases" else f"{found[1]} @ git+{REQUIRED[package]}"

    if package == "django":  # of which the last row has the newest series
        before, heading, row = text.rpartition('"requirement": "')
        return before + heading + (re.sub(rf'^()(?:{limits})(?=")', limit, row) if heading else row)
    return re.sub(rf'(?<=")({package}(?:\[\w+\])?)(?:{limits})(?=")', limit, text)


def take(package: str, kind: str) -> None:
    """Let this checkout require it, or end with a sentence."""
    known = {*REQUIRED, *OPTIONAL} if kind == "releases" else {*REQUIRED}
    if kind not in KINDS or package not in known:
        sys.exit(f"{package} {kind} is not known: write one of {', '.join(sorted(known))}, and {' or '.join(KINDS)}.")
    texts = {path: path.read_text() for path in (ROOT / name for name in FILES)}
    changed = {path: new for path, text in texts.items() if (new := taken(text, package, kind)) != text}
    if not changed:
        sys.exit(f"No file requires {package}: it is to stand in one of {', '.join(FILES)}.")
    for path, text in changed.items():
        path.write_text(text)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["cells"]:
            print(json.dumps(cells(json.loads((ROOT / "cookiecutter.json").read_text()))))
        case ["newest"]:
            print(json.dumps(newest()))
        case ["take", packages, kind]:
            for package in packages.split():
                take(package, kind)
        case _:
            sys.exit(f"Write cells, newest, or take PACKAGES {' or '.join(KINDS)}.")
