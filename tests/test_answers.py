"""Whatever is answered ends up as data in the project, or is refused with a sentence before anything is written."""

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.combinations import CHOICES, CONTEXT, TEMPLATE
from tests.processes import bare
from tests.projects import tree
from tests.test_generate import parse

HOSTILE = [
    'She said "no"',
    "It's 'here'",
    "back\\slash \\n \\u0041 \\",
    "ends with two \\\\",
    'quote and backslash \\" \\',
    "{braces} {0} {{ 7*7 }}",
    "{% raw %} {# comment #} {% endraw %}",
    "{{ cookiecutter.project_slug }}",
    "%(x)s %s %d 100%",
    "${HOME} $HOME $$ `id` $(id)",
    "</script><script>alert(1)</script>",
    "<b>&amp; & &lt;</b>",
    "Käse für Zoë, naïve ÆØÅ",
    "emoji 🦄 🚀",
    "- leading dash",
    "# leading hash",
    "key: value",
    "[a, b] {c: d} *e &f !g |h >i",
    "\"\"\" three ''' quotes",
    "true",
    "null",
    "1.0",
]


def cookiecutter(folder: Path, *arguments: str, answers: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command that users type, with what they type when asked."""
    out, settings = folder / "out", folder / "settings.yaml"
    out.mkdir(exist_ok=True)
    settings.write_text(json.dumps({key: str(folder / key) for key in ("cookiecutters_dir", "replay_dir")}))
    command = [sys.executable, "-m", "cookiecutter", "--config-file", str(settings), "-o", str(out), str(TEMPLATE)]
    return subprocess.run(
        [*command, *arguments],
        env=bare(PYTHONUTF8="1", HOME=str(folder)),
        input=answers,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )


def typed(answers: Mapping[str, str]) -> str:
    """Return what one types to give these answers, and to agree to what is offered for all others."""
    lines = []
    for question in CONTEXT:
        if question.startswith("_"):
            continue
        answer = answers.get(question, "")
        lines.append(str(CHOICES[question].index(answer) + 1) if answer and question in CHOICES else answer)
    return "".join(f"{line}\n" for line in lines)


def bake_typed(folder: Path, answers: Mapping[str, str]) -> Path:
    """Type the answers, and return the project."""
    done = cookiecutter(folder, answers=typed(answers))
    assert done.returncode == 0, done.stdout + done.stderr
    (project,) = (folder / "out").iterdir()
    return project


def constants(module: Path) -> dict[str, Any]:
    """Return what a module assigns to names as plain values."""
    found = {}
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # it is computed
    return found


def check_is_data(project: Path, name: str, description: str) -> None:
    """Check that the texts stand in the project as they were typed."""
    parse(project)
    assert constants(project / "config/settings.py")["SITE_NAME"] == name
    assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["description"] == description
    app = json.loads((project / "app.json").read_text())
    assert (app["name"], app["description"]) == (name, description)
    assert "<script" not in (project / "README.md").read_text()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_but_a_text(text: str, tmp_path: Path) -> None:
    answers = {"project_name": text, "project_slug": "hostile", "description": text, "hosting": "heroku"}
    check_is_data(bake_typed(tmp_path, answers), text, text)


def test_texts_may_be_as_long_as_it_is_said(tmp_path: Path) -> None:
    name, description = "n" * 60, "d" * 200
    answers = {"project_name": name, "description": description, "hosting": "heroku"}
    check_is_data(bake_typed(tmp_path, answers), name, description)


@pytest.mark.parametrize("name", ["🦄", "class of 2030", "9 lives", "Ünïcode Sité", "A-B_C.D", "x" * 60, "$(id)"])
def test_a_slug_that_is_derived_from_a_usual_name_will_do(name: str, tmp_path: Path) -> None:
    done = cookiecutter(tmp_path, answers=typed({"project_name": name}))
    if done.returncode:
        check_is_refused(done, tmp_path, "project_slug: ")
    else:
        (project,) = (tmp_path / "out").iterdir()
        assert project.name.isidentifier()


def check_is_refused(done: subprocess.CompletedProcess[str], folder: Path, sentence: str) -> None:
    """Check that an answer was refused in one sentence, and that nothing was written."""
    assert done.returncode != 0
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(sentence)]
    assert len(said) == 1, done.stdout + done.stderr
    assert said[0].endswith("."), said
    assert "Traceback" not in done.stderr
    assert list((folder / "out").iterdir()) == []


SLUGS = {
    "a keyword": "class",
    "a module of the standard library": "json",
    "a package for tests": "test",
    "a package that the project imports": "django",
    "the settings": "config",
    "the app": "core",
    "the queue": "worker",
    "a digit first": "9lives",
    "capitals and a dash": "My-App",
    "two underscores": "a__b",
    "an underscore at the end": "a_",
    "an underscore first": "_a",
    "too long": "a" * 31,
    "a letter with dots": "käse",
    "a letter of another script": "аpp",  # noqa: RUF001
    "a path": "../elsewhere",
    "a dot": "a.b",
    "a space": "a b",
    "markup": "{{ 7*7 }}",
}


@pytest.mark.parametrize("slug", SLUGS.values(), ids=SLUGS.keys())
def test_a_slug_that_will_not_do_is_refused(slug: str, tmp_path: Path) -> None:
    check_is_refused(cookiecutter(tmp_path, answers=typed({"project_slug": slug})), tmp_path, "project_slug: ")


TEXTS = {
    "empty": "",
    "blank": "   ",
    "a line break": "two\nlines",
    "a control character": "bell \a",
    "an escape": "\x1b[31mred",
    "another direction": "abc \u202e def",
    "too long": "x" * 201,
}


@pytest.mark.parametrize("question", ["project_name", "description"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_text_that_will_not_do_is_refused(question: str, text: str, tmp_path: Path) -> None:
    done = cookiecutter(tmp_path, "--no-input", "project_slug=refused", f"{question}={text}")
    check_is_refused(done, tmp_path, f"{question}: ")


@pytest.mark.parametrize("question", CHOICES)
def test_an_unknown_choice_is_refused_with_those_that_there_are(question: str, tmp_path: Path) -> None:
    done = cookiecutter(tmp_path, "--no-input", f"{question}=unheard_of")
    assert done.returncode != 0
    assert all(choice in done.stderr for choice in CHOICES[question]), done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_second_project_does_not_touch_the_first(tmp_path: Path) -> None:
    assert cookiecutter(tmp_path, "--no-input").returncode == 0
    first = tree(tmp_path / "out")
    second = cookiecutter(tmp_path, "--no-input", "description=Another one.")
    assert second.returncode != 0
    assert "already exists" in second.stdout + second.stderr
    assert tree(tmp_path / "out") == first
