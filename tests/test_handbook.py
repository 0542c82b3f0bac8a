"""The site of docs/: it builds, each of its links leads somewhere, and each page can be found."""

import ast
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from scripts import configuration
from tests.combinations import CHOICES, COMBINATIONS, CONTEXT, TEMPLATE, Combination
from tests.processes import Command, bare, run

DOCS = TEMPLATE / "docs"


def build(source: Path, target: Path, expect: int = 0) -> str:
    """Build a site as `make docs` does, and return what Sphinx says."""
    command: Command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", source, target]
    return run(command, TEMPLATE, bare(), expect)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    assert build(DOCS, tmp_path) == ""
    assert (
        "github.com/OWNER/cookiecutter-django-q2/tree/main/tests/faults" in (tmp_path / "reliability.html").read_text()
    )


def test_a_link_that_leads_nowhere_breaks_the_site(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(DOCS / "conf.py", source)
    slips = ["[a](index.md#no-such-heading)", "[b](no-such-page.md)", "[c](../no-such-file.py)", "![d](no-such.svg)"]
    (source / "index.md").write_text("# Slips\n\n" + "\n\n".join(slips))
    said = build(source, tmp_path / "html", expect=1)
    assert len(re.findall("WARNING: ", said)) == len(slips), said


# Questions

#: What a reader asks, with the page and the heading that answer it.
QUESTIONS = {
    "How do I run a task every night?": ("tasks/schedules", "Run a task every night"),
    "How do I retry a task, with a delay?": ("tasks/retries", "Retry with a delay of your own"),
    "How do I see which tasks have failed?": ("tasks/retries", "See failures"),
    "How do I limit how long one task may run?": ("tasks/limits", "Limit how long a task may run"),
    "How do I test a task?": ("tasks/testing", "Test a task"),
    "How do I add this to an existing project?": ("migration/existing", "Add `worker/` to an existing project"),
    "Where are the metrics?": ("monitoring", "Prometheus"),
    "How do I send errors to Sentry?": ("operations/logs", "Errors to Sentry"),
    "How do I send e-mail?": ("files", "Mail"),
    "How do I keep uploads in S3?": ("files", "Files in a bucket"),
    "How do I add an app?": ("start", "Add an app"),
    "How do I upgrade?": ("upgrading", "Take the next version of the template"),
    "How do I change the broker?": ("brokers/changing", "Change the broker later"),
    "Where are the logs?": ("operations/logs", "Logs"),
    "How do I run one command?": ("tasks/debugging", "Run one command"),
    "How do I debug a task?": ("tasks/debugging", "Debug a task"),
    "How do I use `@task`?": ("tasks/queue", "Write a task with `@task`"),
    "How do I scale out?": ("operations/scale", "Scale out: more workers"),
    "How do I rotate keys?": ("operations/keys", "Rotate keys"),
    "How do I restore a backup?": ("operations/restore", "Restore a backup"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_two_clicks_from_the_index(question: str) -> None:
    page, heading = QUESTIONS[question]
    assert f"\n{page}\n" in (DOCS / "index.md").read_text(), "one click leads to the page"
    assert re.search(f"^#+ {re.escape(heading)}$", (DOCS / f"{page}.md").read_text(), re.MULTILINE), "another to this"


def test_the_table_of_the_hostings_has_what_their_files_grant() -> None:
    page = (DOCS / "hosting/index.md").read_text()
    for name, row in CONTEXT["_hostings"].items():
        less = 15 if name == "kubernetes" else 5  # where web goes on for some seconds before it is told to stop
        windows = [row["stop_window"], row.get("slow_stop_window", row["stop_window"])]
        cells = " | ".join(f"{window - less} s" for window in windows)
        assert re.search(rf"^\| \[{name}\]\({name}\.md\).* \| {cells} \| ", page, re.MULTILINE), (name, cells)


def test_figures_are_those_of_the_page_of_performance() -> None:
    figures = re.findall(r"\d+,\d{3}", (DOCS / "operations/scale.md").read_text())
    assert len(figures) >= 2
    assert [it for it in figures if it not in (DOCS / "performance.md").read_text()] == []


def test_the_memory_of_one_more_process_is_the_same_everywhere(bake: Callable[[Combination], Path]) -> None:
    settings = (bake(COMBINATIONS[0]) / "config/settings.py").read_text()
    (each, rest) = re.findall(r"about (\d+) MB each, and (\d+) MB for the rest", settings)[0]
    assert f"takes about {rest} MB and {each} MB more for each process" in plain(
        (DOCS / "operations/scale.md").read_text()
    )
    assert f"each process costs about {each} MB idle" in plain((DOCS / "performance.md").read_text())


def test_the_readme_is_short() -> None:
    assert len((TEMPLATE / "README.md").read_text().splitlines()) < 200


# Configuration


def of_each_broker(bake: Callable[[Combination], Path]) -> Mapping[str, Path]:
    """Return a project of each broker, with two queues."""
    two = [it for it in COMBINATIONS if it.queues == "fast_and_slow" and it.hosting == "docker"]
    return {broker: bake(next(it for it in two if it.broker == broker)) for broker in CHOICES["broker"]}


def test_the_page_of_the_configuration_is_what_projects_have(bake: Callable[[Combination], Path]) -> None:
    assert (DOCS / "configuration.md").read_text() == configuration.page(of_each_broker(bake)), "make configuration"


def test_each_variable_and_setting_is_in_the_page(bake: Callable[[Combination], Path]) -> None:
    page = (DOCS / "configuration.md").read_text()
    for project in of_each_broker(bake).values():
        example, settings = ((project / it).read_text() for it in (".env.example", "config/settings.py"))
        named = re.findall(r"^#?([A-Z_0-9]+)=", example, re.MULTILINE)
        keys = re.findall(
            r'^    "(\w+)": ', settings.partition("Q_CLUSTER: dict")[2].partition("\n}\n")[0], re.MULTILINE
        )
        assert len(named) > 15
        assert len(keys) > 10
        assert [name for name in [*named, *keys] if f"`{name}`" not in page] == []


# Messages


TOLD = {"CommandError", "ImproperlyConfigured", "Error", "Warning", "Info"}  #: whose first argument a user reads
LOGGED = {"warning", "error", "critical", "exception"}
HOLE = re.compile(r"\x00|%(?:\.\d+)?[sfdr]|\{![rs]\}|\{\}")


def text_of(node: ast.expr) -> str:
    """Return a text of the code, with a mark for each value in it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(text_of, values))
        case ast.Call(func=ast.Attribute(value=text, attr="format")):
            return text_of(text)
        case _:
            return "\x00"


def sentences(code: str) -> Iterator[str]:
    """Yield what the functions of a module tell people: what they log, and with what they end a command."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=name), args=[first, *_]):
                if name in LOGGED:
                    yield text_of(first)
            case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in TOLD:
                yield text_of(first)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="sys"), attr="exit"), args=[first]):
                yield text_of(first)
            case ast.Assign(targets=[ast.Name(id="problem")], value=value):
                yield text_of(value)


def gist(sentence: str) -> str:
    """Return the longest part of a sentence that is always the same, "" if that says nothing."""
    part = max((it.strip(" .,:;('\")]") for it in HOLE.split(sentence)), key=len)
    return plain(part) if len(part.split()) >= 2 else ""


def plain(text: str) -> str:
    """Return a text without what marks code, and on one line."""
    return " ".join(text.replace("`", "").replace("\\", "").split())


@pytest.fixture(scope="module")
def messages(bake: Callable[[Combination], Path]) -> Mapping[str, str]:
    """What projects say, and in which file."""
    update = TEMPLATE / "scripts/update.py"
    found = {gist(it): update.name for it in sentences(update.read_text())}
    for broker in CHOICES["broker"]:
        project = bake(next(it for it in COMBINATIONS if it.broker == broker))
        for path in [*project.rglob("worker/**/*.py"), *project.glob("config/settings.py")]:
            found |= {gist(it): path.name for it in sentences(path.read_text())}
    return {sentence: name for sentence, name in found.items() if sentence}


def test_each_message_can_be_found(messages: Mapping[str, str]) -> None:
    page = plain((DOCS / "messages.md").read_text())
    assert len(messages) > 50
    assert {sentence: name for sentence, name in messages.items() if sentence not in page} == {}


def test_each_check_can_be_found(bake: Callable[[Combination], Path]) -> None:
    page = (DOCS / "messages.md").read_text()
    code = "".join(path.read_text() for path in bake(COMBINATIONS[0]).rglob("worker/**/*.py"))
    there = set(re.findall(r"\bworker\.[EWI]\d{3}\b", code))
    assert len(there) > 20
    assert there == set(re.findall(r"\bworker\.[EWI]\d{3}\b", page))
