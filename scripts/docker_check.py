"""Deploy projects with Docker, as their users would: build, start, run tasks, deploy a second version, stop, look back.

    python -m scripts.docker_check [BROKER ...] [--with KEY=VALUE ...]

Without a broker's name it takes each in turn; KEY=VALUE are further answers, such as queues=fast_and_slow. It needs a
Docker engine, and leaves nothing behind in it but the build cache.
"""

import argparse
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.browser import HOST, Browser, Page

ROOT = Path(__file__).resolve().parent.parent
SLUG = "docker_check"
NAP = 30  #: seconds of the task that is under way when all is replaced or stopped
WAITING = 40  #: tasks behind it
GAP = 2.0  #: seconds for which a deploy may leave web without an answer, on a machine that has other work
LARGEST = 200  #: MB, uncompressed, that the project may add to the image that it is built from
SECRET = "k" * 25 + "0123456789" * 3
STRANGER = 54321  #: a user of whom the image knows nothing, as OpenShift has it
PATIENCE = 60  #: seconds
#: What somebody at a keyboard answers who makes the first user of the admin.
FIRST_USER = {"Username": "ada", "Email address": "ada@example.com", "Password": SECRET, "Password (again)": SECRET}
INSIDE = """
import os, re, shutil, tomllib
from importlib.metadata import distributions
from django.conf import settings
from django.contrib.staticfiles.storage import staticfiles_storage
from django.template.loader import get_template
files = {".venv", "__pycache__", "config", "core", "manage.py", "pyproject.toml", "staticfiles", "uv.lock", "worker"}
files |= {"blog", "locale", "static", "templates"}
assert set(os.listdir()) == files, f"files in the image: {os.listdir()}"
get_template("site.html")
assert staticfiles_storage.exists(staticfiles_storage.stored_name("site.css")), "the static files are not collected"
with open("pyproject.toml", "rb") as file:
    wanted = {re.split("[^a-z0-9-]", package)[0] for package in tomllib.load(file)["dependency-groups"]["dev"]}
unwanted = wanted & {distribution.name.lower() for distribution in distributions()}
assert not unwanted, f"packages for development in the image: {unwanted}"
assert not os.path.exists("blog/.env"), "what is hidden reached the image"
assert not settings.DEBUG, "DEBUG=true of a developer's .env reached the container"
assert os.getuid() != 0, "root"
builders = [name for name in ("cc", "gcc", "git", "make", "uv") if shutil.which(name)]
assert not builders, f"programs in the image that only a build needs: {builders}"
try:
    open("/tmp/written", "w").close()
    open("written", "w").close()
except OSError as error:
    assert error.filename == "written", error
else:
    raise AssertionError("the project's folder can be written")
"""
#: A module of the project: a task that says when it has begun, in the cache, which all processes share.
NAPS = """
import time
from django.core.cache import cache

def nap(mark: str, seconds: float) -> None:
    cache.set(mark, True)
    time.sleep(seconds)
"""
#: Files of an app and of the whole site that a user adds, and some that must not get into the image.
ADDED = ["blog/__init__.py", "locale/de/LC_MESSAGES/django.po", "static/site.css", "templates/site.html"]
LEFT_OUT = ["blog/.env", "db.sqlite3", "key.pem", "media/photo.jpeg"]
OCCUPY = """
import time
from django.core.cache import cache
from django_q.tasks import async_task
marks = {{f"{group}-{{cluster}}": cluster for cluster in {clusters}}}
for mark, cluster in marks.items():
    async_task("core.naps.nap", mark, {nap}, cluster=cluster, group={group!r})
begun = time.monotonic()
while len(cache.get_many(marks)) < len(marks) and time.monotonic() < begun + {patience}:
    time.sleep(0.1)
assert len(cache.get_many(marks)) == len(marks), "not every worker has taken its task"
for cluster in [*marks.values()] * {waiting}:
    async_task("time.sleep", 0, cluster=cluster, group={group!r})
"""
DONE = """
import time
from django_q.models import Task
tasks, end = Task.objects.filter(group={group!r}), time.monotonic() + {patience}
while tasks.count() < {count} and time.monotonic() < end:
    time.sleep(0.2)
print([tasks.filter(success=True, attempt_count=1).count(), tasks.count()])
"""


class ProblemError(Exception):
    """What went wrong, with what the program concerned said."""


class Deployment:
    """One baked project in Docker."""

    def __init__(self, folder: Path, row: dict[str, Any]) -> None:
        """Write what an operator would write, by the commands of DEPLOY.md, and a server that is lacking."""
        self.folder = folder
        self.ports = free_ports()
        os.environ["PORTS"] = "-".join(map(str, self.ports))
        tests = {service["name"]: service for service in row["test_services"]}
        (folder / ".env").write_text((folder / ".env.example").read_text())  # a developer's
        self.write_variables()
        with (folder / "production.env").open("a") as file:
            file.writelines(f"{name}={value}\n" for it in tests.values() for name, value in it["variables"].items())
        (self.secret,) = re.findall("^SECRET_KEY=(.{50,})$", (folder / "production.env").read_text(), re.MULTILINE)
        (folder / "core" / "naps.py").write_text(NAPS)
        for name in [*ADDED, *LEFT_OUT]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        services: dict[str, Any] = {
            name: {
                "image": service["image"],
                "init": True,
                "healthcheck": {"test": service["ping"], "start_period": "60s", "start_interval": "1s"},
            }
            for name, service in tests.items()
        }
        services["migrate"] = {"depends_on": {name: {"condition": "service_healthy"} for name in tests}}
        self.override({"services": services})
        self.services = [name for name in self.compose("config", "--services").split() if name not in tests]
        self.workers = [name for name in self.services if name.startswith("worker")]
        self.processes = ["web", *self.workers]

    def write_variables(self) -> None:
        """Write the files of variables with the commands of DEPLOY.md, for their owner alone, and only once."""
        commands = re.findall(r"^\(umask .*?^END$", (self.folder / "DEPLOY.md").read_text(), re.MULTILINE | re.DOTALL)
        for command in commands:
            run("sh", "-c", command, folder=self.folder)
        for name in ("database.env", "production.env"):
            if (mode := (self.folder / name).stat().st_mode & 0o777) != 0o600:
                raise ProblemError(f"{name} has the mode {mode:o}")
        for command in commands:
            try:
                run("sh", "-c", command, folder=self.folder)
            except ProblemError:
                continue
            raise ProblemError(f"{command} overwrites what is there")

    @property
    def port(self) -> int:
        """The port of this machine that leads to web."""
        (port,) = {it["PublishedPort"] for it in self.states()["web"]["Publishers"]} - {0}
        return int(port)

    def override(self, content: dict[str, Any]) -> None:
        """Write compose.override.yaml."""
        self.overridden = content
        (self.folder / "compose.override.yaml").write_text(json.dumps(content))

    def compose(self, *arguments: str) -> str:
        """Run docker compose, and return what it printed."""
        return run("docker", "compose", *arguments, folder=self.folder)

    def shell(self, code: str, *how: str) -> str:
        """Run Python code in a container of the image, by default in that of web."""
        return self.compose(*(how or ("exec", "-T", "web")), "python", "manage.py", "shell", "-v0", "-c", code).strip()

    def states(self) -> dict[str, dict[str, Any]]:
        """Return what Docker knows of each container of the project's own services."""
        rows = [json.loads(line) for line in self.compose("ps", "--all", "--format", "json").splitlines()]
        return {row["Service"]: row for row in rows if row["Service"] in self.services}

    def check_health(self) -> None:
        """Make sure that all is healthy, and has logged no error."""
        states = {name: row["Health"] or row["ExitCode"] for name, row in self.states().items()}
        if states != {name: 0 if name == "migrate" else "healthy" for name in self.services}:
            raise ProblemError(f"not healthy: {states}")
        logs = self.compose("logs", "web", *self.workers)
        if bad := [
            line for line in logs.splitlines() if re.search(r'"ERROR"|"CRITICAL"|Traceback|Control server', line)
        ]:
            raise ProblemError("\n".join(bad))

    def line(self, begin: str) -> str:
        """Return the only command of DEPLOY.md that begins so."""
        (line,) = re.findall(f"^{begin}.*", (self.folder / "DEPLOY.md").read_text(), re.MULTILINE)
        return str(line)

    def check_user(self) -> None:
        """Make the first user of the admin at a keyboard, with the line of DEPLOY.md."""
        typed(self.line("docker compose exec web python manage.py createsuperuser").split(), FIRST_USER, self.folder)
        user = f"authenticate(username={FIRST_USER['Username']!r}, password={SECRET!r})"
        self.shell(f"from django.contrib.auth import authenticate; assert {user}.is_superuser")

    def check_tasks(self) -> None:
        """Run each task that the start page offers, as the first user."""
        browser = Browser(self.port)
        browser.log_in(FIRST_USER["Username"], SECRET)
        page = Page(browser.get("/").text)
        if not page.buttons:
            raise ProblemError(f"the start page offers no task to the first user:\n{page.text}")
        for button in page.buttons:
            task = browser.post(page.action, {**page.fields, "text": "one two three", **dict([button])}).location or ""
            deadline = time.monotonic() + 60
            while not (state := json.loads(browser.get(task, accept="application/json").text))["done"]:
                if time.monotonic() > deadline:
                    raise ProblemError(f"the task {button[1]!r} is not done after a minute: {state}")
                time.sleep(0.2)
            if not re.match("Result: 3", state["text"]):
                raise ProblemError(f"the task {button[1]!r} ended with {state}")

    def check_image(self) -> float:
        """Make sure that the image is small and its history tells no secret; return the MB of the project in it."""
        self.shell(INSIDE)
        base = re.findall("^FROM (.+)", (self.folder / "Dockerfile").read_text(), re.MULTILINE)[-1]
        image = self.compose("images", "--quiet", "web").strip()
        if self.secret in run("docker", "history", "--no-trunc", image) + run("docker", "inspect", image):
            raise ProblemError("the image tells SECRET_KEY")
        if run("docker", "images", "--quiet", base) == "":
            run("docker", "pull", "--quiet", base)
        own, below = (int(run("docker", "inspect", "--format", "{{.Size}}", name)) for name in (image, base))
        if (added := (own - below) / 1e6) > LARGEST:
            raise ProblemError(f"the project adds {added:.0f} MB to {base}")
        return added

    def occupy(self, group: str) -> int:
        """Give each worker a long task and others behind it; return how many tasks these are."""
        begun = time.monotonic()
        clusters = [name.removeprefix("worker").removeprefix("-") or None for name in self.workers]
        self.shell(OCCUPY.format(group=group, clusters=clusters, nap=NAP, waiting=WAITING, patience=PATIENCE))
        if time.monotonic() - begun > NAP:
            raise ProblemError("this machine is too busy: the long tasks could have ended already")
        return (1 + WAITING) * len(clusters)

    def check_done(self, group: str, count: int, *how: str) -> None:
        """Wait until these tasks are done: each with success, and at its first start."""
        if (seen := self.shell(DONE.format(group=group, count=count, patience=PATIENCE), *how)) != str([count, count]):
            raise ProblemError(f"of {count} tasks, [done at the first start, done] are {seen}")

    def check_local(self) -> None:
        """Look at it on one's own machine, with the line of DEPLOY.md: without TLS, and by no other name."""
        command = self.line("docker compose --env-file local.env up ").split()
        run(*command, folder=self.folder)
        try:
            for host, status in {"localhost": 200, HOST: 400}.items():
                connection = HTTPConnection("127.0.0.1", self.ports[0], timeout=30)
                connection.request("GET", "/", headers={"Host": host})
                if (found := connection.getresponse().status) != status:
                    raise ProblemError(f"as {host}, the site answers {found}")
            run(
                *command[:4],
                "exec",
                "-T",
                "worker",
                "python",
                "manage.py",
                "health_check",
                "worker",
                folder=self.folder,
            )
        finally:
            run(*command[:4], "down", "--volumes", "--timeout", "5", folder=self.folder)
            run("docker", "image", "rm", f"{self.folder.name.replace('_', '-')}-local")

    def deploy(self) -> None:
        """Deploy with the line of DEPLOY.md."""
        run("sh", "-c", self.line("./deploy"), folder=self.folder)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ask web all the time, as a proxy that goes to whichever port answers; make sure that it always does."""
        gaps, leaving = [0.0], threading.Event()

        def ask() -> None:
            answered = time.monotonic()
            while not leaving.wait(0.05):
                if any(map(is_alive, self.ports)):
                    answered = time.monotonic()
                gaps.append(time.monotonic() - answered)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            leaving.set()
            thread.join()
        print(f"{'':8} {'longest time without an answer':40} {max(gaps):6.1f} s", flush=True)
        if max(gaps) > GAP:
            raise ProblemError(f"web did not answer for {max(gaps):.1f} s")

    def check_deploy(self) -> None:
        """Deploy a second version with the line of DEPLOY.md in the middle of tasks, as some other user."""
        count = self.occupy("deploy")
        (self.folder / "core" / "second.py").touch()
        services = self.overridden["services"]
        self.override({"services": services | {name: {"user": f"{STRANGER}:{STRANGER}"} for name in self.processes}})
        with self.watched():
            self.deploy()
        for name in self.processes:
            self.shell(f"import core.second, os; assert os.getuid() == {STRANGER}", "exec", "-T", name)
        self.check_done("deploy", count)
        self.check_health()

    def check_interrupted(self) -> None:
        """Interrupt a deploy while its new web starts, and deploy once more."""
        (self.folder / "core" / "third.py").touch()
        with self.watched():
            with subprocess.Popen(
                ["/bin/sh", "-c", self.line("./deploy")],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            ) as process:
                while len(self.compose("ps", "--quiet", "web").split()) < 2 and process.poll() is None:
                    time.sleep(0.1)
                os.killpg(process.pid, signal.SIGTERM)  # as Ctrl-C, which a job in the background does not hear
            if process.returncode == 0:
                raise ProblemError("the deploy ended before it was interrupted")
            self.deploy()
        if len(webs := self.compose("ps", "--all", "--quiet", "web").split()) != 1:
            raise ProblemError(f"not one web: {webs}")
        for name in self.processes:
            self.shell("import core.third", "exec", "-T", name)
        self.check_health()

    def check_failure(self) -> None:
        """Deploy versions that cannot be, and one whose web runs but is never well: the one before goes on."""
        settings = self.folder / "config/settings.py"
        text, overridden = settings.read_text(), self.overridden
        settings.write_text(f"{text}\nraise SystemExit('This version is broken.')\n")
        self.refuse("This version is broken.")
        settings.write_text(text)
        services = overridden["services"]
        ill = {"test": ["CMD", "false"], "interval": "1s", "start_period": "1s", "retries": 2}
        self.override({"services": services | {"web": {**services.get("web", {}), "healthcheck": ill}}})
        self.refuse("Listening at")
        self.override(overridden)
        self.check_tasks()

    def refuse(self, told: str) -> None:
        """Deploy in vain: it says so and what the new version logged, and the containers stay."""
        before = self.states()
        with self.watched():
            try:
                self.deploy()
            except ProblemError as error:
                if "The new version is not well" not in str(error) or told not in str(error):
                    raise
            else:
                raise ProblemError("a broken version is deployed")
        after = self.states()
        if {name: after[name]["ID"] for name in self.processes} != {
            name: before[name]["ID"] for name in self.processes
        }:
            raise ProblemError(f"not the same containers any more: {after}")

    def check_rollback(self) -> None:
        """Go back to the first version, as the page of this hosting says after the checkout: it is a deploy, too."""
        (self.folder / "core" / "second.py").unlink()
        self.deploy()
        for name in self.processes:
            self.shell("import importlib.util; assert not importlib.util.find_spec('core.second')", "exec", "-T", name)
        self.compose("exec", "-T", "worker", "python", "manage.py", "health_check", "worker")

    def check_stop(self) -> None:
        """Stop all in the middle of tasks: each worker must end its own, give back the others, and need no kill."""
        count = self.occupy("stop")
        self.compose("stop", *self.processes)
        self.check_exit_codes()
        self.compose("up", "--detach", "--wait")
        self.check_done("stop", count)
        self.compose("stop")
        self.check_exit_codes()

    def check_exit_codes(self) -> None:
        """Make sure that all has ended well."""
        codes = {name: row["ExitCode"] for name, row in self.states().items()}
        if any(codes.values()):
            raise ProblemError(f"exit codes: {codes}")


def run(*command: str, folder: Path = ROOT) -> str:
    """Run a program, and return what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        raise ProblemError(f"{' '.join(command)[:100]} … ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def free_ports() -> list[int]:
    """Return two ports on end that are free."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first, suppress(OSError):
            port = first.getsockname()[1]
            with socket.create_server(("127.0.0.1", port + 1)):
                return [port, port + 1]


def is_alive(port: int) -> bool:
    """Say whether web answers at this port."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def typed(
    command: Sequence[str | Path],
    answers: Mapping[str, str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program at a terminal, where each question is answered in its turn; return what the screen has shown."""
    keyboard, screen = pty.openpty()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=screen, stdout=screen, stderr=screen, start_new_session=True
    ) as process:
        os.close(screen)
        shown, questions = "", iter(answers.items())
        question, answer = next(questions)
        try:
            while select.select([keyboard], [], [], PATIENCE)[0] and (read := os.read(keyboard, 4096)):
                shown += read.decode(errors="replace")
                if re.search(rf"^{re.escape(question)}( \(leave blank.*)?: $", shown, re.MULTILINE):
                    os.write(keyboard, f"{answer}\n".encode())
                    question, answer = next(questions, ("no further question", ""))
        except OSError:
            pass  # the program has left its terminal
        finally:
            os.close(keyboard)  # one that still asks gets a hangup
    if process.returncode:
        raise ProblemError(f"{command} ended with {process.returncode}; the screen:\n{shown}")
    return shown


@contextmanager
def step(broker: str, name: str) -> Iterator[None]:
    """Print the time that a step took, once it is through."""
    begun = time.monotonic()
    yield
    print(f"{broker:8} {name:40} {time.monotonic() - begun:6.1f} s", flush=True)


def check(broker: str, row: dict[str, Any], answers: list[str]) -> None:
    """Bake the project with this broker, and take it through its life."""
    with tempfile.TemporaryDirectory() as scratch:
        answers = [f"project_slug={SLUG}", f"broker={broker}", "hosting=docker", *answers]
        with step(broker, "baked and locked"):
            run(sys.executable, "-m", "cookiecutter", str(ROOT), "--no-input", "-o", scratch, *answers)
            run("make", "lock", folder=Path(scratch, SLUG))
        deployment = Deployment(Path(scratch, SLUG), row)
        try:
            with step(broker, "image built, and looked at without TLS"):
                deployment.check_local()
            with step(broker, "up and healthy"):
                deployment.compose("up", "--detach", "--build", "--wait")
                deployment.check_health()
            with step(broker, "image looked into"):
                added = deployment.check_image()
            print(f"{broker:8} {'the project is, of the image':40} {added:6.0f} MB")
            with step(broker, "first user made at a keyboard"):
                deployment.check_user()
            with step(broker, "tasks of the start page done"):
                deployment.check_tasks()
            with step(broker, "second version deployed during tasks"):
                deployment.check_deploy()
            with step(broker, "deploy interrupted and done again"):
                deployment.check_interrupted()
            with step(broker, "broken versions refused"):
                deployment.check_failure()
            with step(broker, "rolled back"):
                deployment.check_rollback()
            with step(broker, "stopped during tasks, started, all done"):
                deployment.check_stop()
        except Exception:
            print(deployment.compose("logs", "--timestamps", "--tail", "50"))
            raise
        finally:
            deployment.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "5")


def main() -> None:
    """Check the brokers that are asked for."""
    brokers = json.loads((ROOT / "cookiecutter.json").read_text())["_brokers"]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("broker", nargs="*", help=f"one or more of {', '.join(brokers)}; all, if none is named")
    parser.add_argument("--with", dest="answers", nargs="+", default=[], metavar="KEY=VALUE", help="further answers")
    arguments = parser.parse_args()
    if unknown := set(arguments.broker) - set(brokers):
        parser.error(f"there is no broker {', '.join(unknown)}")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # uv is beside Python
    try:
        run("docker", "version")
    except (OSError, ProblemError):
        sys.exit("No Docker engine answers: start one, or set DOCKER_HOST.")
    try:
        for broker in arguments.broker or brokers:
            check(broker, brokers[broker], arguments.answers)
    except (OSError, ProblemError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
