"""GitHub's files, the projects' and the template's own, as actionlint, zizmor and Dependabot's schema judge them."""

import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import check_jsonschema
import pytest
import yaml

from tests.combinations import CHOICES, COMBINATIONS, CONTEXT, TEMPLATE, TREE, Combination, version
from tests.hostings import validator
from tests.processes import Command, bare, run
from tests.test_examples import load

PROGRAMS = Path(sys.executable).parent
WORKFLOW = ".github/workflows/ci.yml"
DEPENDABOT = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor/dependabot.json"
#: Of the answers, Dependabot's file knows only the hosting.
OF_EACH_HOSTING = {it.hosting: it for it in COMBINATIONS if it.broker == "redis"}.values()
ACTION = re.compile(r"uses: (\S+)@(\S+)(?: # (\S+))?")


def judge(workflows: Iterable[Path], folder: Path, expect: int = 0) -> str:
    """Have actionlint judge workflows, and shellcheck the scripts in them."""
    command: Command = [PROGRAMS / "actionlint", "-shellcheck", PROGRAMS / "shellcheck", *workflows]
    return run(command, folder, bare(), expect)


def test_actionlint_has_no_objection_to_the_workflow_of_a_project(
    bake: Callable[[Combination], Path], tmp_path: Path
) -> None:
    # Of the answers, a workflow knows only the broker.
    of_each_broker = {combination.broker: combination for combination in COMBINATIONS}
    judge([bake(combination) / WORKFLOW for combination in of_each_broker.values()], tmp_path)


def test_actionlint_has_no_objection_to_the_templates_own_workflows() -> None:
    judge((TEMPLATE / ".github/workflows").glob("*.yml"), TEMPLATE)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-2404", "label"),
        ("timeout-minutes:", "timeout:", "unexpected key"),
        ("contents: read", "contents: reed", "permission"),
        ("services:", "services: ${{ servces.all }}\n    _services:", "servces"),
        ("- run: make lint", "- run: make lint\n        uses: actions/checkout@v6", "uses"),
        ("- run: make lint", "- run: cd $HOME; make $TARGET", "SC2086"),
        ("ports:", "port:", "port"),
    ],
)
def test_actionlint_sees_a_slip(
    old: str, new: str, said: str, bake: Callable[[Combination], Path], tmp_path: Path
) -> None:
    text = (bake(COMBINATIONS[0]) / WORKFLOW).read_text()
    assert old in text
    broken = tmp_path / "ci.yml"
    broken.write_text(text.replace(old, new))
    assert said in judge([broken], tmp_path, expect=1)


compatibility = load(TEMPLATE / "scripts/compatibility.py")
WEEKLY = {cell["packages"]: cell for cell in compatibility.newest()}


def jobs(name: str) -> dict[str, Any]:
    """Return the jobs of one of the template's own workflows."""
    found: dict[str, Any] = yaml.safe_load((TEMPLATE / ".github/workflows" / name).read_text())["jobs"]
    return found


def test_each_python_django_and_broker_that_there_is_has_a_job() -> None:
    cells = compatibility.cells(CONTEXT)
    assert len(cells) == len({*map(str, cells)}) > 20
    assert {it["broker"] for it in cells} == {*CHOICES["broker"]}
    pythons = jobs("ci.yml")["all"]["steps"][1]["with"]["python-version"].split()
    assert {it["python"] for it in cells} == {*pythons}
    for django, row in CONTEXT["_djangos"].items():
        runs_on = {it["python"] for it in cells if it["django"] == django}
        assert runs_on == {it for it in pythons if version(it) >= version(row["python"])}
    for workflow, job in {"ci.yml": "each", "newest.yml": "newest"}.items():
        (command,) = (step["run"] for step in jobs(workflow)["choices"]["steps"] if "run" in step)
        assert f"python3 scripts/compatibility.py {'cells' if job == 'each' else job})" in command
        assert jobs(workflow)[job]["strategy"]["matrix"]["include"] == "${{ fromJSON(needs.choices.outputs.cells) }}"
        assert {*re.findall(r"matrix\.(\w+)", str(jobs(workflow)[job]))} == (
            {*cells[0]} if job == "each" else {*compatibility.newest()[0]}
        )


@pytest.mark.parametrize(
    ("packages", "kind", "required"),
    [
        ("django", "releases", r'"requirement": ">=6\.[\d.]+"'),
        ("django", "development", r'"requirement": " @ git\+https://github.com/django/django@main"'),
        ("django-prodserver", "releases", r'"django-prodserver>=[\d.]+"'),
        ("django-q2", "releases", r'"django-q2\[croniter\]>=[\d.]+"'),
        ("django-q2", "development", r'"django-q2\[croniter\] @ git\+https://\S+/django-q2@master"'),
        ("gunicorn", "development", r'"gunicorn @ git\+https://\S+/gunicorn@master"'),
        ("sentry-sdk", "releases", r'"sentry-sdk>=[\d.]+"'),
    ],
)
def test_the_newest_of_a_package_is_required_and_nothing_else_changes(
    packages: str, kind: str, required: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (TEMPLATE / name).read_text().splitlines() for name in compatibility.FILES}
    for name, lines in before.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(lines))
    monkeypatch.setattr(compatibility, "ROOT", tmp_path)
    compatibility.take(packages, kind)
    after = {name: (tmp_path / name).read_text().splitlines() for name in compatibility.FILES}
    changed = [new for name in before for old, new in zip(before[name], after[name], strict=True) if old != new]
    assert len(changed) == 1
    assert re.search(required, changed[0])


def test_what_is_pinned_or_may_be_added_is_tested_each_week() -> None:
    pinned = re.findall(r'"([\w-]+)(?:\[\w+\])?==', (TREE / "pyproject.toml").read_text())
    assert {*pinned, "django"} == {*compatibility.REQUIRED} == WEEKLY.keys() - {" ".join(compatibility.OPTIONAL)}
    page = (TEMPLATE / "docs/compatibility.md").read_text()
    assert [it for it in [*compatibility.REQUIRED, *compatibility.OPTIONAL] if f"| {it} |" not in page] == []
    assert all((TEMPLATE / it).exists() for cell in WEEKLY.values() for it in re.findall(r"tests/\S+", cell["tests"]))
    with pytest.raises(SystemExit, match=r"^djagno releases is not known: write one of django, "):
        compatibility.take("djagno", "releases")


def hardened(folder: Path, expect: int = 0) -> str:
    """Have zizmor judge all that GitHub reads in a folder."""
    return run([PROGRAMS / "zizmor", "--offline", "--no-progress", "."], folder, bare(), expect)


def test_zizmor_has_no_objection_to_what_github_reads(bake: Callable[[Combination], Path], tmp_path: Path) -> None:
    hardened(TEMPLATE / ".github")
    for number, combination in enumerate(OF_EACH_HOSTING):
        shutil.copytree(bake(combination) / ".github", tmp_path / str(number) / ".github")
    hardened(tmp_path)
    text = (tmp_path / "0" / WORKFLOW).read_text()
    (tmp_path / "0" / WORKFLOW).write_text(ACTION.sub(r"uses: \1@v6", text))
    assert "unpinned-uses" in hardened(tmp_path, expect=14)


def test_a_project_uses_the_actions_that_the_templates_own_bot_keeps(bake: Callable[[Combination], Path]) -> None:
    texts = [(bake(COMBINATIONS[0]) / WORKFLOW).read_text()]
    texts += [path.read_text() for path in (TEMPLATE / ".github/workflows").glob("*.yml")]
    found = {action for text in texts for action in ACTION.findall(text)}
    assert all(re.fullmatch("[0-9a-f]{40}", commit) and release for _, commit, release in found), found
    assert len(found) == len({name for name, *_ in found}), f"one of these in two versions: {found}"


def test_dependabot_sees_every_image_and_mends_what_is_pinned(bake: Callable[[Combination], Path]) -> None:
    for combination in OF_EACH_HOSTING:
        project = bake(combination)
        config = yaml.safe_load((project / ".github/dependabot.yml").read_text())
        assert list(validator(DEPENDABOT).iter_errors(config)) == []
        looks = {(entry["package-ecosystem"], entry["directory"]) for entry in config["updates"]}
        folders = {path.parent.relative_to(project).as_posix() for path in project.rglob("*.yaml") if images(path)}
        kinds = {"." if kind == "docker-compose" else folder.strip("/") for kind, folder in looks if "docker" in kind}
        assert kinds - {""} == folders, combination
        pinned = set(re.findall(r'"([\w-]+)(?:\[\w+\])?==', (project / "pyproject.toml").read_text()))
        (packages,) = (entry for entry in config["updates"] if entry["package-ecosystem"] == "uv")
        assert pinned == {rule["dependency-name"] for rule in packages["ignore"]}, combination
        for rule in (rule for entry in config["updates"] for rule in entry.get("ignore", [])):
            # Without them a rule would hold for updates that mend a vulnerability as well.
            assert all(it.startswith("version-update:") for it in rule["update-types"]), combination


def images(path: Path) -> set[str]:
    """Return the images that a file names, apart from the project's own."""
    found = set(re.findall(r"^ +image: (\S+)$", path.read_text(), re.MULTILINE))
    return {image for image in found if ":" in image}
