"""docs/configuration.md, from what projects have: `python -m scripts.configuration` writes it.

Each fact comes from one place: what a variable is from the project's README.md, why it is so from a comment of the
settings or of .env.example, its range from the call that reads it, and what a setting is from the comment behind it.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.examples import ROOT, bake

PAGE = ROOT / "docs/configuration.md"
UNITS = ("seconds", "days", "MB", "processes", "port")
HEAD = """# Configuration

<!-- written by `make configuration` from the files of baked projects; edit those -->

A project has one file of settings, `config/settings.py`, and the environment decides what differs from place to place.
In development `.env` is read as well; the real environment wins over it. A wrong value ends the start with a sentence
that names the variable. Restart web and workers after a change.

## Variables
"""
QUEUE = """
## `Q_CLUSTER`: the queue

In `config/settings.py`. A cluster in `ALT_CLUSTERS` has its own value for any of these, but for `name`;
[a queue for slow tasks](tasks/limits.md#a-queue-for-slow-tasks) shows one. django-q2 describes the rest in
[its own documentation](https://django-q2.readthedocs.io/en/master/configure.html).
"""
OWN = """
## Settings that `worker/` reads

Each has a default, so a project needs none of them in `config/settings.py`.
"""
REST = """
## Processes, tasks and the rest

`PRODUCTION_PROCESSES` names the processes that `prodserver` starts; `ARGS` of `web` are gunicorn's options without
dashes. `TASKS` sends Django's tasks to the clusters. All other settings are Django's own, and each that is not Django's
default has a comment in the file that says why.
"""
ROW = re.compile(r"^\| `(?P<name>\w+)`(?:, `(?P<second>\w+)`)? \| (?P<default>.*?) \| (?P<about>.*) \|$", re.MULTILINE)
COMMENT = re.compile(r"^((?:# .*\n)+)((?:#?[A-Z_0-9]+=.*\n)+)", re.MULTILINE)


def ranges(settings: str) -> dict[str, str]:
    """Return what each variable may be, by the calls that read it."""
    found = {}
    for node in ast.walk(ast.parse(settings)):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        name, how = str(node.args[0].value), ast.unparse(node.func)
        bounds = {it.arg: ast.unparse(it.value).replace("_", "") for it in node.keywords}
        match how:
            case "number":
                least = bounds.get("least", "1")
                found[name] = f"{least} to {bounds['most']}" if "most" in bounds else f"{least} or more"
            case "truth":
                found[name] = "`true` or `false`"
            case "env.list":
                found[name] = "values separated by commas"
    return found


def reasons(example: str) -> dict[str, str]:
    """Return the comment above each variable of .env.example, but what is an example itself."""
    found = {}
    for comment, variables in COMMENT.findall(example):
        lines = [line[2:] for line in comment.splitlines() if not line.startswith("# python ")]
        for name in re.findall(r"^#?([A-Z_0-9]+)=", variables, re.MULTILINE):
            found[name] = " ".join(lines)
    return found


def comments(settings: str) -> dict[str, str]:
    """Return the comment above or behind the line of the settings that reads a variable."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in settings.splitlines():
        if line.startswith("# "):
            above.append(line[2:])
            continue
        if (read := re.search(r'(?:number|truth|env\.\w+)\("(\w+)"', line)) and line[0] != " ":
            behind = line.partition("  # ")[2]
            if text := " ".join([*above, behind]).strip():
                found[read[1]] = text
        above = []
    return found


def unit_of(about: str) -> str:
    """Return the unit of a number, which is the first word of what is said of it."""
    first = about.split()[0]
    return first if first in UNITS else ""


def variables(projects: Mapping[str, Path]) -> Iterator[str]:
    """Yield a row for each variable, with the brokers that have it if not all do."""
    rows: dict[str, dict[str, tuple[str, str, str, str]]] = {}
    for broker, project in projects.items():
        read = ranges((project / "config/settings.py").read_text())
        why = reasons((project / ".env.example").read_text()) | comments((project / "config/settings.py").read_text())
        table = (project / "README.md").read_text().partition("| variable | default | is |")[2].partition("\n\n")[0]
        for row in ROW.finditer(table):
            for name in filter(None, (row["name"], row["second"])):
                facts = (row["default"], read.get(name, ""), row["about"], why.get(name, ""))
                rows.setdefault(name, {})[broker] = facts
    yield "| variable | default | unit | range | is | why, and what to write |\n| --- | --- | --- | --- | --- | --- |"
    for name, by_broker in rows.items():
        default, allowed, about, reason = next(iter(by_broker.values()))
        only = "" if len(by_broker) == len(projects) else f" (with {', '.join(by_broker)})"
        reason = "" if reason.rstrip(".").lower() == about.rstrip(".").lower() else sentence(cell(reason))
        yield f"| `{name}`{only} | {default} | {unit_of(about)} | {allowed} | {sentence(about)} | {reason} |"


def sentence(text: str) -> str:
    """Return a text that begins with a capital, unless it begins with a name."""
    return text[:1].upper() + text[1:]


def cell(text: str) -> str:
    """Return a text as a cell of a table, where `$NAME` and addresses are code."""
    shown = re.sub(r"(?<![`\w])(\w+://[^\s,;]+|%\d\w|\$NAME)", r"`\1`", text)
    return shown.replace("|", "\\|").replace("<", "&lt;")


def q_cluster(projects: Mapping[str, Path]) -> Iterator[str]:
    """Yield a row for each key of Q_CLUSTER, with the comment behind or above it."""
    rows: dict[str, tuple[str, str]] = {}
    having: dict[str, list[str]] = {}
    for broker, project in projects.items():
        block = (project / "config/settings.py").read_text().partition("Q_CLUSTER: dict")[2].partition("\n}\n")[0]
        above: list[str] = []
        for line in block.splitlines()[1:]:
            if comment := re.fullmatch(r"    # (.*)", line):
                above.append(comment[1])
            elif row := re.fullmatch(r'    "(\w+)": (.*?),?(?:  # (.*))?', line):
                value = "{…}" if row[2] == "{" else row[2]
                rows[row[1]] = (value, " ".join([*above, row[3] or ""]).strip())
                having.setdefault(row[1], []).append(broker)
                above = []
    yield "| key | value | is |\n| --- | --- | --- |"
    for key, (value, about) in rows.items():
        only = "" if len(having[key]) == len(projects) else f" (with {', '.join(having[key])})"
        yield f"| `{key}`{only} | `{value}` | {sentence(cell(about))} |"


def own(project: Path) -> Iterator[str]:
    """Yield a row for each setting that worker/ has a default for."""
    yield "| setting | default | is |\n| --- | --- | --- |"
    for name, default, about in re.findall(
        r'^    "(\w+)": (.*?),  #: (.*)$', (project / "worker/conf.py").read_text(), re.MULTILINE
    ):
        yield f"| `{name}` | `{default}` | {sentence(about)} |"


def page(projects: Mapping[str, Path]) -> str:
    """Return the page, from a project of each broker with two queues."""
    any_project = next(iter(projects.values()))
    return "\n".join([HEAD, *variables(projects), QUEUE, *q_cluster(projects), OWN, *own(any_project), REST])


def main() -> None:
    """Write the page."""
    with TemporaryDirectory() as folder:
        answers = {"queues": "fast_and_slow", "hosting": "docker", "django_version": "5.2"}
        brokers = json.loads((ROOT / "cookiecutter.json").read_text())["broker"]
        projects = {it: bake({"broker": it, **answers}, Path(folder, it)) for it in brokers}
        PAGE.write_text(page(projects))


if __name__ == "__main__":
    main()
