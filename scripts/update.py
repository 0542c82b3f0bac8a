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
    done = subprocess.run(command, cwd=where, env=variables, check=False, capture_output=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"git {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def differences(worker: Path, new: Path) -> list[str]:
    """Return which files of a worker/ are not as they were released."""
    if not (worker / "manifest.json").exists():
        return ["manifest.json, without which nobody can tell what else"]
    found: list[str] = runpy.run_path(str(new / "worker/manifest.py"))["changed"](worker)
    return found


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


def record(baked: Path, message: str) -> None:
    """Commit what was generated to the branch, without a look at the files of the branch that is checked out."""
    folder = git("rev-parse", "--absolute-git-dir")
    with TemporaryDirectory() as temporary:
        own = {"GIT_DIR": folder, "GIT_WORK_TREE": str(baked), "GIT_INDEX_FILE": f"{temporary}/index"}
        git("add", "--all", "--force", where=baked, **own)  # whatever the user's own git ignores
        tree = git("write-tree", where=baked, **own)
    former, same = git("for-each-ref", "--format=%(objectname) %(tree)", f"refs/heads/{BRANCH}").split() or ("", "")
    if tree == same:
        return
    commit = git("commit-tree", tree, *(["-p", former] if former else []), "-m", message)
    git("update-ref", f"refs/heads/{BRANCH}", commit)


def begin(folder: Path) -> None:
    """Make the branch, with what the project was generated from, and let it be where the project comes from."""
    if remote := git("for-each-ref", "--format=%(refname:short)", f"refs/remotes/*/{BRANCH}"):
        git("branch", "--track", BRANCH, remote.split()[0])
        return
    first = git("log", "--diff-filter=A", "--reverse", "--format=%H", "--", ANSWERS).split()[0]
    answers = tomllib.loads(git("show", f"{first}:{ANSWERS}"))  # what is answered otherwise since is a change, too
    version = answers["version"]
    if not git("-C", str(TEMPLATE), "tag", "--list", version):
        problem = f"The releases have no tag {version}, by which this project was generated"
        sys.exit(f"{problem}: write SOURCE= and a clone that has it.")
    git("-C", str(TEMPLATE), "worktree", "add", "--quiet", "--detach", str(folder / "template"), version)
    record(bake(folder / "template", answers, folder), f"What {version} generates")
    message = f"Let the branch {BRANCH} be where this project comes from"
    git("merge", "--quiet", "--strategy=ours", "--allow-unrelated-histories", "-m", message, BRANCH)


def merge(new: Path, version: str, *, worker_was_replaced: bool) -> bool:
    """Merge what this version generates, and return whether nothing is left to do for it."""
    if git("rev-parse", "--show-prefix") or git("status", "--porcelain"):
        sys.exit("Commit what you have first, and type this at the top of the repository.")
    if not git("for-each-ref", f"refs/heads/{BRANCH}"):
        with TemporaryDirectory() as temporary:
            begin(Path(temporary))
    record(new, f"What {version} generates")
    if worker_was_replaced and not differences(Path("worker"), new):  # of which the branch knows nothing
        replace_worker(new)
        git("add", "--all", "worker")
        if git("status", "--porcelain"):
            git("commit", "--quiet", "-m", f"Take worker/ of {version}")
    return not subprocess.run(["git", "merge", "--no-edit", BRANCH], check=False).returncode


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
            merged = merge(new, version, worker_was_replaced=worker_was != former)
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
