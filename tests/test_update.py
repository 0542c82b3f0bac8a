"""A project of the version before takes this one, by both ways of worker/README.md, and keeps what its owner did.

The releases are a git repository with two tags: this checkout, and the newest tag of another version, or a copy of this
checkout that differs a little.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import servers
from tests.combinations import COMBINATIONS, CONTEXT, TEMPLATE, Combination, each
from tests.processes import Environment, run, started
from tests.projects import Environments, Workplace, tree
from tests.test_examples import load

VERSION = CONTEXT["_version"]
ANSWERS = {"project_name": 'She said "no" {{ 7*7 }}', "project_slug": "hers"}
#: By file, what the owner has added at its end.
EDITS = {
    "config/settings.py": '\nINSTALLED_APPS += ["blog"]\n',
    "core/tasks.py": "\n\n@task\ndef double(number: int) -> int:\n    return 2 * number\n",
    "core/templates/core/base.html": "<!-- hers -->\n",
    "Dockerfile": "# hers\n",
    "README.md": "\n## Hers\n",
}
ASK = """
from core.tasks import double
from django_q.tasks import result
print(result(double.enqueue(21).id.partition(".")[0], 30_000))
"""
DEVELOPMENT = {"DEBUG": "true", "PYTHONDONTWRITEBYTECODE": "1"}
IDENTITY = {f"GIT_{who}_{what}": "me@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
#: A change of the template, where there is no former release: the file, what stands there, what stood there before.
BEFORE = (
    ("cookiecutter.json", f'"_version": "{VERSION}"', '"_version": "0.0.1"'),
    ("worker/health.py", '"""', '"""Before: '),
    ("worker/conf.py", '    "METRICS_TOKEN": ', '    # "METRICS_TOKEN": '),
    ("config/settings.py", '"""The settings, all of them: ', '"""All settings: '),
    ("Procfile", "web: ", "# Before.\nweb: "),
)


class Releases(NamedTuple):
    """A git repository of the template, and the tag of the version before."""

    folder: Path
    before: str


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody."""
    variables = {**os.environ, **IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull}
    return run(["git", "-c", "init.defaultBranch=main", *arguments], folder, variables)


def former_tag() -> str:
    """Return the newest tag of another version than this one's, if there is one."""
    tags = git(TEMPLATE, "tag", "--list", "--merged=HEAD", "--sort=-v:refname", "[0-9]*").split()
    return next((tag for tag in tags if tag != VERSION), "")


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Make the repository."""
    folder = tmp_path_factory.mktemp("releases") / "template"
    now = git(TEMPLATE, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    folder.mkdir()
    git(folder, "init", "--quiet")
    if before := former_tag():
        archive = subprocess.check_output(["git", "archive", before], cwd=TEMPLATE)  # noqa: S607 (git() reads text)
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    else:
        copy(now, folder)
        before = "0.0.1"
        project = folder / "{{cookiecutter.project_slug}}"
        for name, new, old in BEFORE:
            path = (folder if name == "cookiecutter.json" else project) / name
            assert new in path.read_text(), name
            path.write_text(path.read_text().replace(new, old, 1))
        (project / "left_out.txt").write_text("It goes with the next version.\n")
    for tag in (before, VERSION):
        if tag == VERSION:
            git(folder, "rm", "--quiet", "-r", ".")
            copy(now, folder)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", tag)
        git(folder, "tag", tag)
    return Releases(folder, before)


def copy(names: list[str], folder: Path) -> None:
    """Copy files of this checkout, if they are there, but for the examples."""
    for name in names:
        if (source := TEMPLATE / name).is_file() and not name.startswith("examples/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)


class Owner:
    """A project of the version before, whose owner has made it hers."""

    def __init__(
        self, releases: Releases, combination: Combination, environments: Environments, interpreter: Path, folder: Path
    ) -> None:
        """Generate it, commit it, add an app, edit five files, and commit that."""
        self.releases, self.environments, self.interpreter = releases, environments, interpreter
        self.combination = combination
        self.script = load(TEMPLATE / "scripts/update.py")
        git(releases.folder, "worktree", "add", "--quiet", str(folder / "before"), releases.before)
        (folder / "bake").mkdir()
        baked = self.script.bake(folder / "before", combination.answers | ANSWERS, folder / "bake")
        git(releases.folder, "worktree", "remove", str(folder / "before"))
        self.workplace = Workplace.of(baked, interpreter, environments, folder)
        self.path = self.workplace.path
        git(self.path, "init", "--quiet")
        self.commit("Begin")
        self.workplace.manage("startapp", "blog", environment=DEVELOPMENT)
        for name, text in EDITS.items():
            with (self.path / name).open("a") as file:
                file.write(text)
        self.commit("Make it mine")
        self.mine = tree(self.path / "blog")

    def commit(self, message: str) -> None:
        """Commit all."""
        git(self.path, "add", "--all")
        git(self.path, "commit", "--quiet", "--message", message)

    def make(self, *arguments: str, expect: int = 0, where: Path | None = None) -> str:
        """Run make, with these programs alone: `uv` has what the script needs here, as nothing else would be found."""
        programs = self.workplace.temporary / "programs"
        programs.mkdir(exist_ok=True)
        (programs / "uv").write_text(f'#!/bin/sh\nshift 3\nexec "{sys.executable}" "$@"\n')
        (programs / "uv").chmod(0o755)
        path = os.pathsep.join([str(programs), os.defpath])
        command = ["make", *arguments, f"SOURCE={self.releases.folder}"]
        return run(command, where or self.path, self.variables(path), expect)

    def variables(self, path: str) -> Environment:
        """Return the environment of a shell."""
        return self.workplace.environment({**IDENTITY, "PATH": path, "GIT_CONFIG_GLOBAL": os.devnull})

    def check_edits(self) -> None:
        """Check that what is the owner's is there."""
        assert tree(self.path / "blog") == self.mine
        for name, text in EDITS.items():
            assert (self.path / name).read_text().endswith(text), name

    def check_works(self, folder: Path) -> None:
        """Check that nothing is lost, that worker/ is this version's, and that the project runs a task."""
        self.check_edits()
        fresh = self.script.bake(self.releases.folder, self.script.answers_of(self.path), folder)
        assert tree(self.path / "worker") == tree(fresh / "worker")
        python = self.environments.python(self.path, self.interpreter)
        workplace = Workplace(self.path, python, self.workplace.temporary)
        with servers.sqlite(workplace.temporary) as database, servers.broker(self.combination, workplace) as queue:
            environment = {**DEVELOPMENT, **database, **queue}
            printed = workplace.manage("check", environment=environment)
            assert "no issues" in printed, printed
            for command in ("migrate", "createcachetable"):
                workplace.manage(command, "--verbosity=0", environment=environment)
            variables = workplace.environment(environment)
            with started("worker", [python, "manage.py", "prodserver", "worker"], self.path, variables, folder) as it:
                assert workplace.manage("shell", "-c", ASK, environment=environment).split()[-1] == "42", it.log()
                assert it.stop() == 0


of_one = each("", lambda combination: iter([()]), COMBINATIONS[:1])
of_redis = each("", lambda combination: iter([()]), [it for it in COMBINATIONS if it.broker == "redis"][:1])


@pytest.fixture
def owner(
    releases: Releases, combination: Combination, environments: Environments, interpreter: Path, tmp_path: Path
) -> Owner:
    """A project that is somebody's."""
    return Owner(releases, combination, environments, interpreter, tmp_path)


@of_redis
def test_worker_is_replaced_whole_and_nothing_else(combination: Combination, owner: Owner, tmp_path: Path) -> None:
    health = owner.path / "worker/health.py"
    health.write_text(f"# mine\n{health.read_text()}")
    assert "(worker.I060)" in owner.workplace.manage("check", environment=DEVELOPMENT)
    refused = owner.make("update-worker", f"VERSION={VERSION}", expect=2)
    assert "this would be lost: health.py." in refused
    assert "Write which: make update-worker VERSION=" in owner.make("update-worker", expect=2)
    (owner.path / "worker/manifest.json").write_text("<<<<<<< HEAD\n")
    assert "this would be lost: manifest.json, without" in owner.make("update-worker", f"VERSION={VERSION}", expect=2)
    printed = owner.make("update-worker", f"VERSION={VERSION}", "FORCE=1")
    assert f"worker/ was {owner.releases.before}, and is {VERSION} now." in printed
    assert "CHANGELOG.md says to projects generated earlier" in printed
    if owner.releases.before == "0.0.1":
        assert 'A new setting, for whoever wants another value: METRICS_TOKEN = ""' in printed
    git(owner.path, "add", "--all")
    changed = git(owner.path, "diff", "--cached", "--name-only").split()
    assert changed
    assert [name for name in changed if not name.startswith("worker/")] == []
    owner.check_works(tmp_path)
    # And later all the rest: the branch, which knows nothing of the new worker/, merges nevertheless.
    owner.commit("Take a newer worker/")
    check_merged(owner, owner.make("update", f"VERSION={VERSION}"))


@of_one
def test_everything_is_merged(combination: Combination, owner: Owner, tmp_path: Path) -> None:
    (owner.path / "later.txt").touch()
    assert "Commit what you have first" in owner.make("update", f"VERSION={VERSION}", expect=2)
    (owner.path / "later.txt").unlink()
    check_merged(owner, owner.make("update", f"VERSION={VERSION}"))
    owner.check_works(tmp_path)
    # Again, and where somebody else has cloned it, whose branch is the remote's.
    git(owner.path, "clone", "--quiet", ".", str(tmp_path / "clone"))
    assert "Already up to date." in owner.make("update", f"VERSION={VERSION}", where=tmp_path / "clone")
    assert "Already up to date." in owner.make("update", f"VERSION={VERSION}")
    # Another answer is a change, too.
    answers = owner.path / ".answers.toml"
    answers.write_text(answers.read_text().replace('hosting = "docker"', 'hosting = "fly"'))
    owner.commit("Move")
    owner.make("update", f"VERSION={VERSION}")
    assert (owner.path / "fly.toml").exists()
    assert not (owner.path / "compose.yaml").exists()
    owner.check_edits()
    # Where both have changed a line, git asks, and whoever runs this in a script is told.
    for name, old, new in [(".answers.toml", '= "fly"', '= "docker"'), ("DEPLOY.md", "# ", "# Hers: ")]:
        (owner.path / name).write_text((owner.path / name).read_text().replace(old, new, 1))
    owner.commit("Move back")
    printed = owner.make("update", f"VERSION={VERSION}", expect=2)
    assert "CONFLICT" in printed
    assert "But first put right what git names above" in printed


def check_merged(owner: Owner, printed: str) -> None:
    """Check that what the new version generates is there, beside what is the owner's."""
    assert "CONFLICT" not in printed, printed
    assert git(owner.path, "status", "--porcelain") == ""
    assert f'version = "{VERSION}"' in (owner.path / ".answers.toml").read_text()
    if owner.releases.before == "0.0.1":
        assert not (owner.path / "left_out.txt").exists()
        assert "Before." not in (owner.path / "Procfile").read_text()
        assert "All settings: " not in (owner.path / "config/settings.py").read_text()
    owner.check_edits()


def test_the_version_is_the_same_everywhere() -> None:
    newest = re.findall(r"^## (\S+) - ", (TEMPLATE / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == VERSION
    script = (TEMPLATE / "scripts/update.py").read_text()
    (needed,) = json.loads(re.findall(r"^# dependencies = (.*)", script, re.MULTILINE)[0])
    assert f'    "{needed}",\n' in (TEMPLATE / "pyproject.toml").read_text()


def test_what_cannot_be_updated_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load(TEMPLATE / "scripts/update.py")
    with pytest.raises(SystemExit, match=r"^\.answers\.toml does not suit this version: .*postgresql"):
        script.bake(TEMPLATE, {"broker": "postgresql"}, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["update.py", "update-worker"])
    with pytest.raises(SystemExit, match=r"CHANGELOG\.md says what to do with a project of before 1\.0\.0"):
        script.main()
    # A broker that is not told would be the default one, and its worker/ come without a word.
    answers = dict.fromkeys(script.NEEDED, "x")
    for written, said in (
        ({name: text for name, text in answers.items() if name != "broker"}, r"has no text for broker"),
        ({**answers, "description": 3}, r"has no text for description"),
        ({"<<<<<<< HEAD": ""}, r"cannot be read: .*earlier commit"),
    ):
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in written.items())
        (tmp_path / ".answers.toml").write_text("".join(lines))
        with pytest.raises(SystemExit, match=rf"^\.answers\.toml {said}"):
            script.main()
    (tmp_path / ".answers.toml").write_text("".join(f'{name} = "{text}"\n' for name, text in answers.items()))
    with pytest.raises(
        SystemExit, match=r"^worker/__init__\.py does not say which version it is: `git checkout worker`"
    ):
        script.main()
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker/__init__.py").write_text('__version__ = "1.10.0"')
    monkeypatch.setattr(script, "bake", lambda *_: tmp_path)
    monkeypatch.setattr(script, "answers_of", lambda _: {"version": "1.9.0"})
    with pytest.raises(SystemExit, match=r"^1\.9\.0 is older than 1\.10\.0, which is here: write VERSION="):
        script.main()


@of_one
def test_a_file_of_worker_that_is_not_as_released_is_named(combination: Combination, workplace: Workplace) -> None:
    manifest = json.loads((workplace.path / "worker/manifest.json").read_text())
    assert manifest.keys() == tree(workplace.path / "worker").keys() - {"manifest.json"}
    health = workplace.path / "worker/health.py"
    health.write_bytes(health.read_bytes().replace(b"\n", b"\r\n"))  # as git does it on Windows
    for folder, name in (("__pycache__", "health.cpython-311.pyc.140369328584768"), (".ruff_cache/0.1", "abc")):
        (workplace.path / "worker" / folder).mkdir(parents=True, exist_ok=True)
        (workplace.path / "worker" / folder / name).touch()  # a cache, which another process may be writing
    assert "no issues" in workplace.manage("check", environment=DEVELOPMENT)
    (workplace.path / "worker/mine.py").touch()
    (workplace.path / "worker/results.py").write_text("\n# mine\n" + (workplace.path / "worker/results.py").read_text())
    (workplace.path / "worker/README.md").rename(workplace.path / "worker/READ.md")
    printed = workplace.manage("check", environment=DEVELOPMENT)
    assert f"worker/ is not as version {VERSION} was released: READ.md, README.md, mine.py, results.py." in printed
    (workplace.path / "worker/manifest.json").write_text("[]\n")
    printed = workplace.manage("check", environment=DEVELOPMENT)
    assert f"worker/ is not as version {VERSION} was released: manifest.json (it holds no object)." in printed
