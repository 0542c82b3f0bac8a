"""Show the template at work: bake the default project, run it, and send a task through web and worker.

`make demo` starts this. It needs the standard library only, since it is what installs the rest.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from html.parser import HTMLParser
from http.client import HTTPException
from http.cookiejar import CookieJar
from pathlib import Path
from types import FrameType
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "build" / "demo"
LOG = ROOT / "build" / "demo.log"
TOOLS = ROOT / ".venv" / "bin"
# What the user's shell may have set for other projects, or `make` for this one, and would change what runs here.
FOREIGN = re.compile(r"DJANGO_|GUNICORN_|MAKE|MFLAGS|PROCFILE|PYTHON|Q_|UV_(ENV|PROJECT|PYTHON|WORKING)|VIRTUAL_ENV")
START_SECONDS = 900  # it includes the download of all packages
TASK_SECONDS = 60
STOP_SECONDS = 7


class DemoError(Exception):
    """Something failed: a sentence, and the lines of log that explain it."""

    def __init__(self, sentence: str, lines: list[str] | None = None) -> None:
        """Keep both."""
        super().__init__(sentence)
        self.lines = lines or []


class Stop:
    """Whether Ctrl-C was pressed. A flag, which loops look at: an exception could come where a process gets lost."""

    requested = False

    @classmethod
    def request(cls, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        cls.requested = True


class Program:
    """A program in a session of its own, so that a Ctrl-C reaches this script alone, which ends it in order."""

    def __init__(self, *command: str, folder: Path = ROOT, **variables: str) -> None:
        """Start it, and keep what it prints."""
        self.command = shlex.join(command)
        self.lines: list[str] = []
        self.live = False
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder) | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout  # noqa: S101 (tells mypy)
        with self.process.stdout as output, LOG.open("a", encoding="utf-8") as log:
            for line in output:
                self.lines.append(line)
                print(line, end="", file=log, flush=True)
                if self.live:
                    with suppress(OSError):  # nobody reads our output any more
                        print(line, end="")

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition, and say whether it came true before the program ended or the time was over."""
        end = time.monotonic() + seconds
        while not condition():
            if Stop.requested:
                raise KeyboardInterrupt
            if self.ended() or time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def ended(self) -> bool:
        """Say whether it has ended."""
        return self.process.poll() is not None

    def failure(self, name: str = "", problem: str = "did not answer in time") -> DemoError:
        """Return what went wrong, with the lines of the process that ended first, or of `name`."""
        self.reader.join(1)
        ended = re.search(r"system +\| (\S+)\.1 stopped \(rc=(\S+)\)", "".join(self.lines))
        if ended:
            name, problem = ended[1], f"ended with exit code {ended[2]}"
        elif self.process.poll() is not None:
            name, problem = f"`{self.command}`", f"ended with exit code {self.process.returncode}"
        lines = [line for line in self.lines if re.match(rf"[\d:]+ {re.escape(name)}\.1 +\|", line)]
        return DemoError(
            f"{name} {problem}. Its log stands above, all of it in {LOG.relative_to(ROOT)}.", lines or self.lines
        )

    def stop(self) -> None:
        """End it and all that it has started; what does not end in time is killed."""
        family = living({self.process.pid})
        if family:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGINT)
        end = time.monotonic() + STOP_SECONDS
        while family := living(family):
            late = time.monotonic() - end
            if late > 0:
                for pid in family:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            if late > 1:
                break
            time.sleep(0.05)
        self.process.wait()
        self.reader.join(1)


def living(pids: set[int]) -> set[int]:
    """Return those of the processes that live, and all below them: from /proc or, where there is none, from ps."""
    rows: list[list[str]] = []  # pid, state, parent
    if Path("/proc/self/stat").exists():
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has just ended
                rows.append([path.parent.name, *path.read_text(errors="replace").rpartition(")")[2].split()[:2]])
    else:
        listing = subprocess.check_output(["/bin/ps", "-A", "-o", "pid=,state=,ppid="], text=True)
        rows = [line.split() for line in listing.splitlines()]
    parents = {int(pid): int(parent) for pid, state, parent in rows if not state.startswith("Z")}
    found = pids & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def environment(folder: Path) -> dict[str, str]:
    """Return the user's environment without what would change the demo: the variables that a project reads as well."""
    example = folder / ".env.example"
    reads = (
        set(re.findall(r"^#?([A-Z0-9_]+)=", example.read_text(encoding="utf-8"), re.M)) if example.exists() else set()
    )
    kept = {name: value for name, value in os.environ.items() if name not in reads and not FOREIGN.match(name)}
    return kept | {
        "PYTHONUNBUFFERED": "1",
        "UV_PYTHON": os.path.realpath(sys.executable),  # the one that is surely here, whatever .python-version asks for
        "UV_PYTHON_DOWNLOADS": "never",
    }


class Form(HTMLParser):
    """What a browser would send: the first form's address and fields, and the first of its buttons."""

    def __init__(self, page: str) -> None:
        """Read a page."""
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what an element has to say."""
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = self.action or values["action"]
        elif tag in ("input", "button") and "name" in values:
            self.fields.setdefault(values["name"], values["value"])


class Site:
    """The running project, as a browser sees it."""

    def __init__(self, url: str) -> None:
        """Begin without cookies, and past any proxy."""
        self.url = url
        self.browser = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))

    def ask(self, path: str, fields: dict[str, str] | None = None) -> tuple[str, str]:
        """Get a page, or post a form; return the address that it led to, and the text."""
        data = urlencode(fields).encode() if fields else None
        with self.browser.open(urljoin(self.url, path), data, timeout=5) as response:
            return response.url, response.read().decode()

    def is_alive(self) -> bool:
        """Say whether web answers."""
        with suppress(OSError, HTTPException):
            return bool(self.ask("livez"))
        return False

    def run_task(self, program: Program) -> str:
        """Send the start page's form, wait for the result and return both."""
        form = Form(self.ask("")[1])
        task, _ = self.ask(form.action, form.fields)
        self.browser.addheaders = [("Accept", "application/json")]
        state: dict[str, str] = {}

        def is_done() -> bool:
            state.update(json.loads(self.ask(task)[1]))
            return bool(state["done"])

        if not program.wait(is_done, TASK_SECONDS) or not state["text"].startswith("Result"):
            raise program.failure("worker", f"did not do its task: {state['text']}")
        return f"{form.fields['offer']}({form.fields['text']!r})  {state['text']}"


@contextmanager
def step(doing: str, done: str) -> Iterator[None]:
    """Say what happens, then that it has and how long it took."""
    begin = time.monotonic()
    clear = "\r\033[K" if sys.stdout.isatty() else ""
    print(f"… {doing}" if clear else "", end="", flush=True)
    try:
        yield
    except BaseException:
        print(clear, end="", flush=True)
        raise
    print(f"{clear}✓ {done}  {time.monotonic() - begin:.1f} s")


@contextmanager
def running(*command: str, folder: Path = ROOT, **variables: str) -> Iterator[Program]:
    """Run a program meanwhile, and end it."""
    program = Program(*command, folder=folder, **variables)
    try:
        yield program
    finally:
        program.stop()


def run(*command: str) -> None:
    """Run a program to its end."""
    with running(*command) as program:
        if not program.wait(program.ended, START_SECONDS) or program.process.returncode:
            raise program.failure(program.command)


def bake() -> Path:
    """Bake the default project, whatever the user's ~/.cookiecutterrc says, and return its folder."""
    run("rm", "-rf", str(DEMO))  # a program, which a Ctrl-C ends
    DEMO.mkdir()
    config = DEMO / "cookiecutter.json"
    config.write_text(
        json.dumps({"replay_dir": str(DEMO / "replay"), "cookiecutters_dir": str(DEMO)}), encoding="utf-8"
    )
    options = ("--no-input", "--config-file", str(config), "--output-dir", str(DEMO))
    run(str(TOOLS / "python"), "-m", "cookiecutter", *options, str(ROOT))
    return next(DEMO.glob("*/manage.py")).parent


def is_free(port: int) -> bool:
    """Say whether web could listen on a port, as it would: on all addresses."""
    dual = socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if dual else socket.AF_INET
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError:
        return False
    return True


def choose_port() -> int:
    """Return the port that was asked for.

    Raises:
        DemoError: If it is none, or not to be had.
    """
    text = os.environ.get("PORT") or "8000"
    port = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else 0
    if not 0 < port < 65536:
        raise DemoError(f"PORT={text} is no port; write a number from 1 to 65535.")
    if not is_free(port):
        other = next(filter(is_free, range(port + 1, 65536)), 8000)
        raise DemoError(f"Port {port} is taken; try: make demo PORT={other}")
    return port


@contextmanager
def alone() -> Iterator[None]:
    """Empty the log, and keep it locked: another demo in this folder would delete the project under this one's feet.

    Raises:
        DemoError: If another demo has locked it.
    """
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a", encoding="utf-8") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DemoError("Another `make demo` runs in this folder; end it first.") from error
        log.truncate(0)
        yield


@contextmanager
def foreground() -> Iterator[None]:
    """Take the terminal over from `make`: it would get a Ctrl-C as well, and report an error whatever happens here."""
    parent = os.getpgrp()
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError:  # there is none
        yield
        return
    if parent == os.getpid() or os.tcgetpgrp(terminal) != parent:
        yield
        return
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or taking the terminal would stop this process
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # the shell would not notice a Ctrl-Z, and wait for ever
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        with suppress(OSError):  # the terminal was closed
            os.tcsetpgrp(terminal, parent)


def demo(once: bool) -> None:
    """Do it all, and serve until Ctrl-C unless once is enough."""
    port = choose_port()
    with alone():
        with step("Preparing .venv", "Prepared .venv, with cookiecutter and uv"):
            run("make", ".venv/bake")
        with step("Baking the default project", f"Baked the default project into {DEMO.relative_to(ROOT)}"):
            project = bake()
        site = Site(f"http://localhost:{port}/")
        path = f"{TOOLS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        with running("make", "run", folder=project, PATH=path, PORT=str(port)) as program:
            with step("Installing and starting it: make run", "Installed and started it: make run"):
                if not program.wait(site.is_alive, START_SECONDS):
                    raise program.failure("web")
            with step("Sending a task through web and worker", "Sent a task through web and worker"):
                try:
                    task = site.run_task(program)
                except (OSError, HTTPException) as error:
                    raise program.failure("web", f"did not answer as it should: {error}") from error
            print(f"  {task}\n\n  The project  {project}\n  The log      {LOG}")
            if not once:
                serve(program, project, site.url)
            with step("Stopping", "Stopped web and worker"):
                program.stop()


def serve(program: Program, project: Path, url: str) -> None:
    """Say where to look, and show what the processes say until Ctrl-C."""
    print(f"  The page     {url}\n  The admin    {url}admin/, once you have made yourself a superuser:")
    print(f"               cd {shlex.quote(str(project))} && .venv/bin/python manage.py createsuperuser")
    print("\nServing until Ctrl-C. What web and worker say:")
    program.live = True
    with suppress(KeyboardInterrupt):
        program.wait(program.ended, float("inf"))
        raise program.failure()
    program.live = False
    print()


def main() -> int:
    """Run the demo and return its exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 (whatever `python3` is runs this)
        sys.exit(f"make demo needs Python 3.11 or newer; `python3` is {sys.version.split()[0]} here.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, Stop.request)
    try:
        with foreground():
            demo(once=os.environ.get("ONCE", "0") not in ("", "0"))
    except KeyboardInterrupt:
        print("Stopped before there was a result.", file=sys.stderr)
        return 130
    except DemoError as error:
        sys.stdout.writelines(error.lines)
        print(f"✗ {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
