"""The branch `template`, by which `make update` merges: whatever was done to it, nothing of the owner's is lost.

What a version generates is some lines here, so that each test takes a second; git is real. test_update.py has the rest.
"""

import contextlib
import os
import re
import shutil
import tempfile
import tomllib
from pathlib import Path

import pytest

from tests.combinations import TEMPLATE
from tests.processes import run
from tests.projects import tree
from tests.test_examples import load
from tests.test_update import IDENTITY, git

LINES = "".join(f"line {number}\n" for number in range(9))  # between what a version writes and what the owner does


class Small:
    """A project of some files, and its releases, with all that `make update` asks of git."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Generate it from 1.0.0, and make it somebody's."""
        self.path, self.releases = folder / "hers", folder / "releases"
        self.script = load(TEMPLATE / "scripts/update.py")
        for name, text in (IDENTITY | {"GIT_CONFIG_GLOBAL": os.devnull}).items():
            monkeypatch.setenv(name, text)
        monkeypatch.setattr(self.script, "TEMPLATE", self.releases)
        monkeypatch.setattr(self.script, "bake", lambda _, answers, folder: self.bake(answers["version"], folder))
        for repository in (self.path, self.releases):
            repository.mkdir()
            git(repository, "init", "--quiet")
        git(self.releases, "commit", "--quiet", "--allow-empty", "--message", "Release")
        git(self.releases, "tag", "1.0.0")
        shutil.copytree(self.bake("1.0.0", folder), self.path, dirs_exist_ok=True)
        self.commit("Begin")
        (self.path / "blog").mkdir()
        (self.path / "blog/mine.py").touch()
        (self.path / "settings.py").write_text((self.path / "settings.py").read_text() + "mine\n")
        self.commit("Make it mine")
        monkeypatch.chdir(self.path)

    def bake(self, version: str, folder: Path) -> Path:
        """Write what a version generates."""
        (baked := folder / f"baked-{version}").mkdir()
        (baked / ".answers.toml").write_text(f'version = "{version}"\n')
        (baked / "settings.py").write_text(f"of {version}\n{LINES}")
        for number in range(int(version[2]) + 1):
            (baked / f"since-1.{number}.0.txt").touch()
        return baked

    def commit(self, message: str) -> None:
        """Commit all."""
        git(self.path, "add", "--all", "--force")
        git(self.path, "commit", "--quiet", "--message", message)

    def answer(self) -> str:
        """Return the version that the project says to be of."""
        return str(tomllib.loads((self.path / ".answers.toml").read_text())["version"])

    def update(self, version: str) -> None:
        """Take a version, and see that what is the owner's is there, and that git has all of it in the history."""
        before = git(self.path, "rev-parse", "HEAD").strip()
        with tempfile.TemporaryDirectory() as folder:
            new = self.bake(version, Path(folder))
            assert self.script.merge(new, version, self.answer(), worker_was_replaced=False)
        assert self.answer() == version
        assert git(self.path, "log", "--max-count=1", "--format=%s").strip() == f"Merge what {version} generates"
        assert (self.path / "settings.py").read_text() == f"of {version}\n{LINES}mine\n"
        assert (self.path / "blog/mine.py").exists()
        assert git(self.path, "rev-list", "--first-parent", "HEAD").split().index(before) <= 2

    def refused(self, version: str = "1.9.0") -> str:
        """Return with what sentence a version is refused, which changes nothing of the owner's."""
        before = git(self.path, "for-each-ref", "refs/heads/main"), tree(self.path / "blog")
        with tempfile.TemporaryDirectory() as folder, pytest.raises(SystemExit) as ended:
            self.script.merge(self.bake(version, Path(folder)), version, self.answer(), worker_was_replaced=False)
        assert (git(self.path, "for-each-ref", "refs/heads/main"), tree(self.path / "blog")) == before
        return str(ended.value)

    def do(self, sentence: str) -> None:
        """Type what a sentence says to type first."""
        (command, *_) = [it for it in re.findall("`([^`]*)`", sentence) if it.startswith("git ")]
        run(["bash", "-e", "-c", command], self.path, dict(os.environ))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """A project that is somebody's, without all that takes time."""
    return Small(tmp_path, monkeypatch)


def test_a_branch_that_was_brought_up_to_date_by_its_owner_deletes_nothing(small: Small) -> None:
    small.update("1.1.0")
    for command in ("checkout template", "merge --quiet main", "checkout main"):
        git(small.path, *command.split())
    sentence = small.refused("1.2.0")
    assert re.match(
        r'The branch template holds other commits than those of `make update` \(\w{9} "Merge what 1.1.0 generates"\): ',
        sentence,
    )
    small.do(sentence)
    small.update("1.2.0")


def test_a_branch_template_of_the_owners_own_is_left_alone(small: Small, tmp_path: Path) -> None:
    git(small.path, "branch", "template")
    sentence = small.refused()
    assert '"Make it mine"): give it another name by `git branch -m template other-template`' in sentence
    git(tmp_path, "clone", "--quiet", "--bare", str(small.path), "origin")
    small.do(sentence)
    git(small.path, "remote", "add", "origin", str(tmp_path / "origin"))
    git(small.path, "fetch", "--quiet", "origin")
    sentence = small.refused()
    assert sentence.startswith("The branch origin/template holds other commits")
    small.do(sentence)
    assert "refs/heads/other-template" in git(tmp_path / "origin", "for-each-ref")
    small.update("1.1.0")


@pytest.mark.parametrize("commit", ["--amend --no-edit", "--message=Mine"])
def test_what_somebody_has_committed_to_the_branch_is_seen(small: Small, commit: str) -> None:
    small.update("1.1.0")
    git(small.path, "checkout", "--quiet", "template")
    (small.path / "blog").mkdir()
    (small.path / "blog/mine.py").touch()
    git(small.path, "add", "--all")
    git(small.path, "commit", "--quiet", *commit.split())
    git(small.path, "checkout", "--quiet", "main")
    assert "The branch template holds other commits" in small.refused("1.2.0")


def test_the_branch_itself_is_not_what_is_updated(small: Small) -> None:
    small.update("1.1.0")
    git(small.path, "checkout", "--quiet", "-b", "new", "template")
    (small.path / "blog").mkdir()
    assert small.refused().startswith("You are on the branch template: check out the one ")


def test_a_branch_of_the_first_releases_is_taken(small: Small) -> None:
    small.update("1.1.0")
    git(small.path, "checkout", "--quiet", "template")
    git(small.path, "commit", "--quiet", "--amend", "--message", "What 1.1.0 generates")
    git(small.path, "checkout", "--quiet", "main")
    small.update("1.2.0")


@pytest.mark.parametrize("merged_before", [False, True])
def test_the_update_after_a_squash_takes_what_is_new(small: Small, *, merged_before: bool) -> None:
    if merged_before:
        small.update("1.0.1")
    for version in ("1.1.0", "1.2.0"):  # whose line would be a conflict if git took an older base
        git(small.path, "checkout", "--quiet", "-b", version)
        small.update(version)
        git(small.path, "checkout", "--quiet", "main")
        git(small.path, "merge", "--quiet", "--squash", version)
        small.commit("Squash")
    small.update("1.3.0")


def test_the_update_after_a_revert_takes_all_again(small: Small) -> None:
    small.update("1.1.0")
    git(small.path, "revert", "--no-edit", "--mainline=1", "HEAD")
    assert small.answer() == "1.0.0"
    small.update("1.2.0")
    assert (small.path / "since-1.1.0.txt").exists()


@pytest.mark.parametrize("pushed", ["main", "main template"])
@pytest.mark.parametrize("former", ["1.0.1", ""])
def test_what_somebody_else_has_merged_is_where_the_next_update_begins(
    small: Small, tmp_path: Path, pushed: str, former: str
) -> None:
    if former:
        small.update(former)  # so that there is a branch here, which is then behind
    git(tmp_path, "clone", "--quiet", "--bare", str(small.path), "origin")
    git(tmp_path, "clone", "--quiet", "origin", "theirs")
    mine, small.path = small.path, tmp_path / "theirs"
    with contextlib.chdir(small.path):
        small.update("1.1.0")
        git(small.path, "push", "--quiet", "origin", *pushed.split())
    small.path = mine
    git(mine, "remote", "add", "origin", str(tmp_path / "origin"))
    git(mine, "fetch", "--quiet", "origin")
    git(mine, "merge", "--quiet", "--ff-only", "origin/main")
    small.update("1.2.0")
    git(mine, "push", "--quiet", "origin", "main", "template")


def test_a_branch_that_is_newer_than_the_project_is_no_base(small: Small) -> None:
    with tempfile.TemporaryDirectory() as folder:
        small.script.record(small.script.tree_of(small.bake("1.1.0", Path(folder))), "1.1.0")
    sentence = small.refused("1.2.0")
    assert sentence.startswith("The branch template has nothing that 1.0.0 or an older version generates")
    small.do(sentence)
    small.update("1.2.0")


@pytest.mark.parametrize("options", ["merge.ff only", "branch.main.mergeOptions --squash"])
def test_git_merges_whatever_it_is_set_to(small: Small, options: str) -> None:
    git(small.path, "config", *options.split())
    small.update("1.1.0")
    git(small.path, "tag", "template", "main")
    small.update("1.2.0")


def test_a_merge_that_git_does_not_begin_is_not_said_to_be_under_way(small: Small) -> None:
    small.update("1.1.0")
    git(small.path, "commit", "--quiet", "--allow-empty", "--message", "Nothing")
    run(["git", "cherry-pick", "main"], small.path, dict(os.environ), expect=1)  # stops, as it is empty
    assert small.refused().startswith("git has not begun to merge, as it says above: ")
    git(small.path, "cherry-pick", "--skip")
    small.update("1.2.0")


def test_a_file_that_git_ignores_is_not_overwritten(small: Small) -> None:
    small.update("1.0.1")
    (small.path / ".git/info/exclude").write_text("*.txt\n")
    (small.path / "since-1.1.0.txt").write_text("mine\n")
    assert small.refused("1.1.0").startswith(
        "1.1.0 brings files that are here, and git does not know them: since-1.1.0"
    )
    (small.path / "since-1.1.0.txt").unlink()
    small.update("1.1.0")


def test_where_git_lacks_something_a_sentence_says_what_to_do(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{small.path}", "shallow")
    monkeypatch.chdir(tmp_path / "shallow")
    assert small.refused().startswith("This clone lacks older commits: `git fetch --unshallow`")
    monkeypatch.chdir(small.path)
    git(small.path, "rm", "--quiet", "--cached", ".answers.toml")
    (small.path / ".gitignore").write_text(".answers.toml\n")
    git(small.path, "add", ".gitignore")
    git(small.path, "commit", "--quiet", "--message", "Forget")
    sentence = small.refused()
    assert sentence.startswith(".answers.toml is in no commit: ")
    small.do(sentence)
    git(small.path, "commit", "--quiet", "--message", "Remember")
    git(small.releases, "tag", "--delete", "1.0.0")
    assert re.match(r"The releases have no tag 1\.0\.0, by which .*: write SOURCE=", small.refused())
    git(small.releases, "tag", "1.0.0")
    small.update("1.1.0")
    git(tmp_path, "init", "--quiet")
    shutil.rmtree(small.path / ".git")
    assert "this is the folder hers/ of another: make update-worker works here, too." in small.refused()
