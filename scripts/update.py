# /// script
# requires-python = ">=3.11"
# dependencies = ["cookiecutter==2.7.1"]
# ///
"""Bring a project that was generated earlier to this version: `make update` and `make update-worker` run it there.

update-worker puts this version's worker/ in the place of the project's, and changes nothing else. update commits what
this version generates for the same answers to the branch `template`, and merges that. Both say what to look at.
"""

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

TEMPLATE = Path(__file__).resolve().parent.parent
BRANCH = "template"
TIP = f"refs/heads/{BRANCH}"  # in full, since a tag may have the same name
#: whatever the user's own git is set to: with a fast-forward the branch would take the place of all that is the user's
MERGE = ("merge", "--no-ff", "--no-squash", "--commit", "--no-verify-signatures")
MARK = "Generated-tree"  #: by which a commit of record() is told from one that somebody has amended
ANSWERS = ".answers.toml"
#: of these none can be guessed: another broker has another worker/
NEEDED = ("version", "project_slug", "broker", "hosting", "queues", "django_version")


def bake(template: Path, answers: dict[str, str], folder: Path) -> Path:
    """Generate a project into a folder, whatever the user's own configuration says, and return where it is."""
    config = folder / "config.json"
    config.write_text(json.dumps({"replay_dir": str(folder), "cookiecutters_dir": str(folder)}))
    given = []
    for key, text in answers.items():  # which cookiecutter takes for templates, as it does defaults
        quoted = f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if "{" in text else text
        given += [f"{key}={quoted}"] * (key != "version")
    command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input", "--config-file", str(config)]
    done = subprocess.run(
        [*command, "-o", str(folder / "baked"), *given], check=False, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        sys.exit(f"{ANSWERS} does not suit this version: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    return next((folder / "baked").iterdir())


def answers_of(project: Path) -> dict[str, str]:
    """Return what was answered when a project was generated, and by which version; end if it does not say."""
    try:
        answers = tomllib.loads((project / ANSWERS).read_text(encoding="utf-8"))
    except ValueError as error:
        sys.exit(f"{ANSWERS} cannot be read: {error}. Take it from an earlier commit.")
    if wrong := [name for name in (*NEEDED, *answers) if not isinstance(answers.get(name), str)]:
        sys.exit(f'{ANSWERS} has no text for {wrong[0]}: write it as in broker = "orm".')
    return answers


def git(*arguments: str, where: Path | None = None, **variables: str) -> str:
    """Run git, and return what it printed; end with what it says if it fails."""
    variables = {**os.environ, **variables}
    command = ["git", *arguments]
    done = subprocess.run(
        command, cwd=where, env=variables, check=False, capture_output=True, encoding="utf-8", errors="replace"
    )
    if done.returncode:
        sys.exit(f"git {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def differences(worker: Path, new: Path) -> list[str]:
    """Return which files of a worker/ are not as they were released."""
    changed = runpy.run_path(str(new / "worker/manifest.py"))["changed"]
    try:
        return list(changed(worker))
    except (OSError, ValueError):
        return ["manifest.json, without which nobody can tell what else"]


def version_of(worker: Path) -> str:
    """Return the version that a worker/ says it is."""
    try:
        (version,) = re.findall('__version__ = "(.*)"', (worker / "__init__.py").read_text(encoding="utf-8"))
        return str(version)
    except (OSError, ValueError):
        sys.exit("worker/__init__.py does not say which version it is: `git checkout worker` brings back what it was.")


def replace_worker(new: Path) -> None:
    """Put another version's worker/ in the place of this one."""
    shutil.rmtree("worker.new", ignore_errors=True)  # of a former try that was cut off
    shutil.copytree(new / "worker", "worker.new", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree("worker")
    Path("worker.new").rename("worker")


def tree_of(baked: Path) -> str:
    """Give what was generated to git, without a look at the files of the branch that is checked out."""
    folder = git("rev-parse", "--absolute-git-dir")
    with TemporaryDirectory() as temporary:
        own = {"GIT_DIR": folder, "GIT_WORK_TREE": str(baked), "GIT_INDEX_FILE": f"{temporary}/index"}
        git("add", "--all", "--force", where=baked, **own)  # whatever the user's own git ignores
        return git("write-tree", where=baked, **own)


def record(tree: str, version: str) -> None:
    """Commit what a version generates to the branch."""
    former, same = git("for-each-ref", "--format=%(objectname) %(tree)", TIP).split() or ("", "")
    if tree == same:
        return
    parent = ["-p", former] if former else []
    commit = git("commit-tree", tree, *parent, "-m", f"What {version} generates", "-m", f"{MARK}: {tree}")
    git("update-ref", TIP, commit)


def history(branch: str) -> tuple[dict[str, str], str]:
    """Return the commits of record() in a branch and their versions, the oldest first; and the last other, or ""."""
    ours: dict[str, str] = {}
    other = ""
    form = f"--format=%H%x00%P%x00%T%x00%(trailers:key={MARK},valueonly,separator=%x20)%x00%s"
    for line in git("log", "--reverse", "--topo-order", "--no-show-signature", form, branch, "--").split("\n"):
        commit, parents, tree, mark, title = line.split("\0")
        version = re.fullmatch(r"What (\S+) generates", title)
        if version and mark in {"", tree} and (not parents or parents in ours):  # the first releases wrote no mark
            ours[commit] = version[1]
        else:
            other = f'{commit[:9]} "{title}"'
    return ours, other


def recorded(branch: str) -> dict[str, str]:
    """Return the commits of the branch, with their versions, the oldest first; end if others than record() made some.

    What is committed there becomes the parent of what a version generates, in which all that is the user's is gone: the
    merge would take that for deleted.
    """
    ours, other = history(branch)
    if other:
        name = branch.split("/", 2)[2]
        if branch == TIP:
            move = f"git branch -m {BRANCH} other-{BRANCH}"
            move += f" && git branch {BRANCH} {list(ours)[-1][:9]}" if ours else ""
        else:
            remote = name.removesuffix(f"/{BRANCH}")
            move = f"git push {remote} {branch}:refs/heads/other-{BRANCH} :{TIP}"
        problem = f"The branch {name} holds other commits than those of `make update` ({other})"
        sys.exit(f"{problem}: give it another name by `{move}`, and type this again.")
    return ours


def begin(folder: Path) -> None:
    """Make the branch: as somebody else has it, or with what the project was generated from."""
    if remote := git("for-each-ref", "--format=%(refname)", f"refs/remotes/*/{BRANCH}"):
        recorded(remote.split()[0])
        git("branch", "--track", BRANCH, remote.split()[0])
        return
    if merged := list(history("HEAD")[0]):
        git("branch", BRANCH, merged[-1])
        return
    first = git("log", "--no-show-signature", "--diff-filter=A", "--reverse", "--format=%H", "--", ANSWERS).split()[0]
    answers = tomllib.loads(git("show", f"{first}:{ANSWERS}"))  # what is answered otherwise since is a change, too
    version = answers["version"]
    if not git("-C", str(TEMPLATE), "tag", "--list", version):
        problem = f"The releases have no tag {version}, by which this project was generated"
        sys.exit(f"{problem}: write SOURCE= and a clone that has it.")
    git("-C", str(TEMPLATE), "worktree", "add", "--quiet", "--detach", str(folder / "template"), version)
    record(tree_of(bake(folder / "template", answers, folder)), version)


def catch_up() -> None:
    """Let the branch have what somebody else has recorded since, and perhaps merged without a push of the branch."""
    remotes = git("for-each-ref", "--format=%(refname)", f"refs/remotes/*/{BRANCH}").split()
    merged = list(history("HEAD")[0])[-1:]
    for tip in [*(it for it in remotes if not history(it)[1]), *merged]:
        if not git("rev-list", "--max-count=1", TIP, f"^{tip}"):  # nothing of the branch is missing there
            git("update-ref", TIP, git("rev-parse", tip))


def join(ours: dict[str, str], former: str) -> None:
    """Let git know which commit of the branch is in the project: none is yet, or a squash or a revert changed that."""
    here = as_numbers(former)
    there = [version for version in ours.values() if as_numbers(version) <= here]
    if not there:
        problem = f"The branch {BRANCH} has nothing that {former} or an older version generates, which is here"
        sys.exit(f"{problem}: give it another name by `git branch -m {BRANCH} other-{BRANCH}`, and type this again.")
    # The first of that version: with a base that is too old git asks more than it must, one too new would lose changes.
    commits, version = list(ours), max(there, key=as_numbers)
    commit = next(it for it in commits if ours[it] == version)
    unknown = git("rev-list", TIP, "^HEAD").split()
    known = max((place for place, it in enumerate(commits) if it not in unknown), default=-1)
    if known >= commits.index(commit):
        if as_numbers(ours[commits[known]]) <= here:
            return
        record(git("rev-parse", f"{commit}^{{tree}}"), version)  # again, as git would leave out what was reverted
        commit = TIP
    message = f"Let the branch {BRANCH} be where this project comes from"
    # No file changes, so no hook has anything to look at.
    options = ("--quiet", "--no-verify", "--strategy=ours", "--allow-unrelated-histories")
    git(*MERGE, *options, "-m", message, commit)


def require_repository() -> None:
    """Go on only where git can merge, and knows from where the project comes."""
    if folder := git("rev-parse", "--show-prefix"):
        problem = f"make update needs a repository of the project's own, and this is the folder {folder} of another"
        sys.exit(f"{problem}: make update-worker works here, too.")
    if git("status", "--porcelain"):
        sys.exit("Commit what you have first, and type this again.")
    if not git("ls-tree", "HEAD", ANSWERS):
        sys.exit(f"{ANSWERS} is in no commit: `git add --force {ANSWERS}`, commit it, and type this again.")
    if git("rev-parse", "--is-shallow-repository") == "true":
        sys.exit("This clone lacks older commits: `git fetch --unshallow`, and type this again.")


def merge(new: Path, version: str, former: str, *, worker_was_replaced: bool) -> bool:
    """Merge what this version generates, and return whether nothing is left to do for it."""
    require_repository()
    if not git("for-each-ref", TIP):
        with TemporaryDirectory() as temporary:
            begin(Path(temporary))
    recorded(TIP)
    catch_up()
    ours = recorded(TIP)
    if git("rev-parse", "HEAD") in ours:
        sys.exit(f"You are on the branch {BRANCH}: check out the one that your work is on, and type this again.")
    join(ours, former)
    record(tree_of(new), version)
    added = git("diff", "--name-only", "--no-renames", "--diff-filter=A", "-z", f"HEAD...{TIP}").split("\0")
    unknown = git("ls-files", "--others", "-z").split("\0")  # of which git overwrites those that it ignores
    if lost := ", ".join(sorted({*added} & {*unknown} - {""})):
        sys.exit(f"{version} brings files that are here, and git does not know them: {lost}. Move them away first.")
    if worker_was_replaced and not differences(Path("worker"), new):  # of which the branch knows nothing
        replace_worker(new)
        git("add", "--all", "worker")
        if git("status", "--porcelain"):
            git("commit", "--quiet", "-m", f"Take worker/ of {version}")
    if not subprocess.run(["git", *MERGE, "-m", f"Merge what {version} generates", TIP], check=False).returncode:
        return True
    if not Path(git("rev-parse", "--git-path", "MERGE_HEAD")).exists():
        sys.exit("git has not begun to merge, as it says above: put that right, and type this again.")
    return False


def as_numbers(version: str) -> tuple[int, ...]:
    """Return a version to compare."""
    return tuple(map(int, re.findall(r"\d+", version)))


def news(former: str) -> str:
    """Return what CHANGELOG.md says to projects that were generated by a former version."""
    found = []
    for section in re.split(r"^## ", (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        told = re.search(r"^### For projects generated earlier\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
        if told and as_numbers(heading.split()[0]) > as_numbers(former):
            found.append(f"{heading.split()[0]}:\n\n{told[1].strip()}\n")
    return "\n".join(found)


def settings_of(conf: Path) -> dict[str, str]:
    """Return the settings that a version of worker/ reads, each with its default and what it is."""
    return dict(re.findall(r'^    "([A-Z_]+)": (.*)', conf.read_text(), re.MULTILINE)) if conf.exists() else {}


def pinned(project: Path) -> dict[str, str]:
    """Return the packages of which a project must have one version exactly, since worker/ reaches into them."""
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    return dict(re.findall(r'^    "([\w-]+(?:\[\w+\])?)==([^"]+)"', text, re.MULTILINE))


def main() -> None:
    """Do what is asked for, and say what to look at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["update", "update-worker"])
    parser.add_argument("--force", action="store_true", help="replace worker/ even if changes of it are lost")
    options = parser.parse_args()
    if not Path(ANSWERS).exists():
        sys.exit(f"There is no {ANSWERS} here: CHANGELOG.md says what to do with a project of before 1.0.0.")
    answers = answers_of(Path())
    worker_was = version_of(Path("worker"))
    former = worker_was if options.action == "update-worker" else answers["version"]
    with TemporaryDirectory() as temporary:
        new = bake(TEMPLATE, answers, Path(temporary))
        version = answers_of(new)["version"]
        if as_numbers(version) < as_numbers(former):
            sys.exit(f"{version} is older than {former}, which is here: write VERSION= and a newer one.")
        had, reads = settings_of(Path("worker/conf.py")), settings_of(new / "worker/conf.py")
        wanted, merged = pinned(new).items() - pinned(Path()).items(), True
        if options.action == "update":
            merged = merge(new, version, former, worker_was_replaced=worker_was != former)
        else:
            if (lost := differences(Path("worker"), new)) and not options.force:
                sys.exit(
                    f"worker/ is not as it was released, so this would be lost: {', '.join(lost)}. FORCE=1 drops it."
                )
            replace_worker(new)
            print(f"worker/ was {former}, and is {version} now. Nothing else has changed.")
            for name, number in sorted(wanted):
                print(f"It needs another version of a package: uv add '{name}=={number}'")
    for name in sorted(reads.keys() - had.keys()):
        print(f"A new setting, for whoever wants another value: {name} = {reads[name]}")
    if text := news(former):
        print(f"\nWhat CHANGELOG.md says to projects generated earlier:\n\n{text}")
    print("Look at what git shows. Then run `uv lock`, `make check` and `uv run python manage.py migrate`.")
    if not merged:
        sys.exit("But first put right what git names above, `git add` it, and end with `git merge --continue`.")


if __name__ == "__main__":
    main()
