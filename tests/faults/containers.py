"""Workers in containers, of the image that a project's own Dockerfile makes."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from uv import find_uv_bin

from tests.faults.lab import HERE, Lab, Worker
from tests.processes import run, succeeds
from tests.projects import uv_environment
from tests.servers import missing

WORKER = ("python", "manage.py", "prodserver", "worker")
PROBE = ("python", "manage.py", "health_check", "worker")
KILLED = 137  #: what Docker says of a container whose first process was killed
LAYER = """\
FROM {image}
COPY . /lab
ENV PYTHONPATH=/lab
"""
SIGN = "import glob; [print(open(path).read()) for path in glob.glob('/tmp/*-worker-*/*[0-9]')]"
REACH = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"


def docker(*arguments: str | Path) -> str:
    """Run docker, and return what it printed."""
    return run(["docker", *arguments], HERE, os.environ)


def has_engine() -> bool:
    """Say whether there is a Docker engine that runs Linux containers."""
    return shutil.which("docker") is not None and succeeds(["docker", "version"], HERE, os.environ)


@contextmanager
def image(project: Path, interpreter: Path, folder: Path) -> Iterator[str]:
    """Build a project's image, with the tasks and settings of the fault tests on top; skip the test where none can be.

    The project's files are their owner's alone, as in a checkout with umask 077.
    """
    if not has_engine():
        missing("Docker engine that answers: start one, or set DOCKER_HOST")
    copy, lab = folder / project.name, folder / "lab"
    shutil.copytree(project, copy)
    run([find_uv_bin(), "lock", "--quiet"], copy, uv_environment(interpreter))
    for path in copy.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    shutil.copytree(HERE / "inside", lab, ignore=shutil.ignore_patterns("__pycache__"))
    plain = f"fault-tests:{uuid4().hex}"
    name = f"{plain}-lab"
    (lab / "Dockerfile").write_text(LAYER.format(image=plain))
    try:
        docker("build", "--quiet", "--tag", plain, copy)
        docker("build", "--quiet", "--tag", name, lab)
        if not reaches_this_machine(name):
            missing("Docker engine whose containers share this machine's network")
        yield name
    finally:
        docker("image", "rm", "--force", name, plain)


def reaches_this_machine(name: str) -> bool:
    """Say whether a container can be let into this machine's network, where the tests' servers are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        command = ["docker", "run", "--rm", "--network", "host", name, "python", "-c", REACH, port]
        return succeeds(command, HERE, os.environ)


class Container:
    """A worker in a container, which keeps its name and its files when it is started again."""

    def __init__(
        self, image: str, variables: Mapping[str, str], options: Sequence[str], command: Sequence[str]
    ) -> None:
        """Start it, with further options of `docker create`."""
        self.name = f"fault-tests-{uuid4().hex}"
        environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        fixed = ("--network", "host", "--log-driver", "json-file")
        docker("create", "--name", self.name, *fixed, *options, *environment, image, *command)
        self.start()

    def start(self) -> None:
        """Start it once more."""
        docker("start", self.name)

    def stop(self, seconds: int) -> float:
        """Stop it as a platform does that kills it after so many seconds; return how many it took."""
        begun = time.monotonic()
        docker("stop", "--time", str(seconds), self.name)
        return time.monotonic() - begun

    def kill(self) -> None:
        """Kill all its processes at once."""
        docker("kill", self.name)

    def kill_inside(self, pid: int) -> None:
        """Kill one of its processes, by the number that it has in there."""
        docker("exec", self.name, "python", "-c", f"import os; os.kill({pid}, 9)")

    def reported(self) -> dict[str, int]:
        """Return what its main process has reported of its processes, {} if it has not yet."""
        command = ["docker", "exec", self.name, "python", "-c", SIGN]
        done = subprocess.run(command, capture_output=True, check=False)
        found: dict[str, int] = json.loads(done.stdout or "{}")
        return found

    def probe(self) -> tuple[int, str]:
        """Ask how the worker is, as the platforms' probes do; return the exit code and what was printed."""
        command = ["docker", "exec", self.name, *PROBE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    def time_of_probe(self) -> float:
        """Return the seconds that a probe takes, which must find all well."""
        begun = time.monotonic()
        code, printed = self.probe()
        assert code == 0, printed
        return time.monotonic() - begun

    def state(self) -> dict[str, Any]:
        """Return what Docker knows of it."""
        found: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .}}", self.name))
        return {**found["State"], "RestartCount": found["RestartCount"]}

    def ended(self) -> int | None:
        """Return its exit code, None while it runs or is about to run again."""
        state = self.state()
        return None if state["Running"] or state["Restarting"] else int(state["ExitCode"])

    def output(self) -> str:
        """Return all that it has printed, each time that it ran."""
        return docker("logs", self.name)

    def log(self) -> str:
        """Return the end of it."""
        return self.output()[-5000:]

    def remove(self) -> None:
        """Leave nothing of it."""
        docker("rm", "--force", "--volumes", self.name)


@dataclass
class Dock(Lab):
    """A lab whose workers are containers. What these print is the ledger: it survives them, and needs no folder."""

    image: str = ""
    containers: list[Container] = field(default_factory=list)

    def launch(
        self, *options: str, command: Sequence[str] = WORKER, variables: Mapping[str, str] = {}, **cluster: Any
    ) -> Container:
        """Start a worker in a container, with other settings of Q_CLUSTER or variables if need be."""
        environment = self.variables(cluster, LAB_LEDGER="/dev/stdout", Q_WORKERS="2", **variables)
        container = Container(self.image, environment, options, command)
        self.containers.append(container)
        return container

    def agent(self, container: Container) -> int:
        """Return the number that the agent's process has in a container, once the worker has reported it."""
        return self.wait(lambda: container.reported().get("agent"), "a report of the worker", container)

    def workers(self) -> Sequence[Worker]:
        """Return all workers that were started."""
        return self.containers

    def entries(self) -> list[list[str]]:
        """Return the lines of the ledger, in words."""
        lines = [line.split() for each in self.containers for line in each.output().splitlines()]
        return [line for line in lines if line and line[0] in {"start", "end"}]

    def close(self) -> None:
        """End all that was started."""
        for container in self.containers:
            container.remove()
        super().close()


@contextmanager
def busy_processors() -> Iterator[None]:
    """Keep each of this machine's processors busy with one process."""
    burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count() or 1)]  # noqa: S607
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
