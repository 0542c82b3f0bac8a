"""`make demo`, as somebody types it who has just cloned the template into a folder with a space in its name."""

import os
import pty
import re
import select
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Environment

ROOT = Path(__file__).resolve().parent.parent
MAKE = shutil.which("make") or "make"
pytestmark = pytest.mark.xdist_group("demo")


class Demo:
    """A copy of the template, and the environment of a user who works on other projects as well."""

    def __init__(self, folder: Path) -> None:
        """Give its processes a mark, by which they are found wherever they have gone."""
        self.folder = folder
        self.mark = f"DEMO_MARK={uuid.uuid4()}"
        with socket.create_server(("", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.env = os.environ | {
            "DATABASE_URL": "postgres://nobody@localhost:1/nothing",
            "DEBUG": "false",
            "DEMO_MARK": self.mark.partition("=")[2],
            "DJANGO_SETTINGS_MODULE": "other.settings",
            "HOME": str(folder),  # a ~/.cookiecutterrc that does not fit lies there
            "PORT": str(self.port),
            "PYTHONWARNINGS": "error",
            "Q_WORKERS": "none",
            "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path("~/.cache/uv").expanduser())),
            "VIRTUAL_ENV": "/nonexistent",
            "http_proxy": "http://localhost:1",
            "no_proxy": "",
        }

    def processes(self) -> list[str]:
        """Return what still runs of it."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark in environ.read_text(errors="replace").split("\0"):
                    found.append(f"{environ.parent.name} {(environ.parent / 'cmdline').read_text()}")
            except OSError:
                continue  # it has just ended, or is not ours
        return found


class Terminal:
    """A shell's terminal, in which a command runs in the foreground."""

    def __init__(self, command: str, folder: Path, env: Environment) -> None:
        """Type it."""
        self.output = ""
        self.keyboard, screen = pty.openpty()
        # Whoever leads a session and opens a terminal gets it as its own; -m gives each job a process group.
        line = f'exec <"{os.ttyname(screen)}" >"{os.ttyname(screen)}" 2>&1; set -m; {command}; echo "exit code $?"'
        self.shell = subprocess.Popen(["/bin/sh", "-c", line], cwd=folder, env=env, start_new_session=True)
        self.screen = screen

    def read_until(self, pattern: str, seconds: float) -> str:
        """Wait until a pattern appears."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.output):
            left = end - time.monotonic()
            ended = self.shell.poll() is not None
            self.read(0 if ended else max(0, min(left, 1)))
            found = re.search(pattern, self.output)
            assert found or (left > 0 and not ended), f"{pattern!r} does not appear in:\n{self.output}"
        return self.output

    def read(self, seconds: float = 0) -> None:
        """Read what has appeared, and wait for it so long; what nobody reads makes who writes it wait."""
        while select.select([self.keyboard], [], [], seconds)[0]:
            self.output += os.read(self.keyboard, 65536).decode(errors="replace")
            seconds = 0

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self.keyboard, f"{line}\n".encode())

    def press_ctrl_c(self) -> None:
        """Press it."""
        os.write(self.keyboard, b"\x03")

    def close(self) -> None:
        """Close the window."""
        os.close(self.screen)
        os.close(self.keyboard)
        self.shell.wait(20)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    if not Path("/proc/self/environ").exists():
        pytest.skip("not tested: what is left of processes is found in /proc, which is not here")
    folder = tmp_path_factory.mktemp("demo") / "a clone"
    generated = shutil.ignore_patterns(".git", ".venv", "build", "examples", "node_modules", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=generated)
    (folder / ".cookiecutterrc").write_text("default_context: {project_slug: from_the_users_own_configuration}\n")
    return Demo(folder)


@pytest.fixture
def terminal(demo: Demo) -> Iterator[Terminal]:
    terminal = Terminal("make demo", demo.folder, demo.env)
    yield terminal
    terminal.close()


def test_a_taken_port_is_named_before_anything_starts(demo: Demo) -> None:
    with socket.create_server(("", demo.port)):
        done = subprocess.run([MAKE, "demo"], cwd=demo.folder, env=demo.env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert re.search(rf"Port {demo.port} is taken; try: make demo PORT=\d+\n", done.stderr)
    assert not (demo.folder / ".venv").exists()


def test_one_command_leads_from_a_clone_to_the_result_of_a_task(demo: Demo) -> None:
    command = [MAKE, "demo", "ONCE=1"]
    done = subprocess.run(command, cwd=demo.folder, env=demo.env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Result: 9" in done.stdout
    assert demo.processes() == []


def test_ctrl_c_ends_all_that_the_demo_has_started(demo: Demo, terminal: Terminal) -> None:
    terminal.read_until("Serving until Ctrl-C", 900)
    assert any("worker.development.reloader\0web" in process for process in demo.processes())
    terminal.press_ctrl_c()
    assert "exit code 0\r\n" in terminal.read_until(r"exit code \d+\r\n", 10)
    terminal.shell.wait(5)
    assert demo.processes() == []


def test_ctrl_c_ends_what_has_only_begun(demo: Demo, terminal: Terminal) -> None:
    terminal.read_until("Installing and starting", 900)
    terminal.press_ctrl_c()
    assert "Stopped before there was a result." in terminal.read_until(r"exit code \d+\r\n", 10)
    terminal.shell.wait(5)
    assert demo.processes() == []
