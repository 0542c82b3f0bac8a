"""`make run` serves what is edited, debugs at its terminal, and ends at once: in a real terminal, over real HTTP."""

import os
import re
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import RemoteDisconnected
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.browser import Page, Response, ask
from tests.combinations import CHOICES, COMBINATIONS, Combination, each
from tests.processes import DEADLINE, PAUSE, free_port, run
from tests.projects import Workplace, uv_environment
from tests.test_demo import Terminal

SAVES = 20
SECONDS = 2.0  #: that a change may take to show, on a machine with nothing else to do
LIMIT = 1  #: seconds that a task may run; 3 more pass until its worker is killed
of_each_django = [
    next(it for it in COMBINATIONS if it.django_version == django and it.queues == "fast_and_slow")
    for django in CHOICES["django_version"]
]
#: what is edited: a file, a text in it, and what takes its place
EDITS = [
    ("core/templates/core/start.html", "This page is", "WORD This page is"),
    (
        "core/views.py",
        '"site_name": settings.SITE_NAME, "offers"',
        '"site_name": settings.SITE_NAME + "WORD", "offers"',
    ),
    ("config/settings.py", 'SITE_NAME = "My Project"', 'SITE_NAME = "WORD"'),
    ("core/urls.py", 'path("", views.start', 'path("WORD/", views.start), path("", views.start'),
    ("core/tasks.py", "return len(text.split())", "return 'WORD'"),
]


class Developer:
    """Somebody who edits a project that `make run` serves."""

    def __init__(self, workplace: Workplace, interpreter: Path) -> None:
        """Type `make run`."""
        self.folder, self.port = workplace.path, free_port()
        uv = os.pathsep.join([str(Path(find_uv_bin()).parent), os.environ["PATH"]])
        self.environment = {
            **uv_environment(interpreter),
            "PATH": uv,
            "PORT": str(self.port),
            "Q_TIMEOUT": str(LIMIT),
            "TMPDIR": str(workplace.temporary),
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # which developers have not set
        self.cookies, self.originals = SimpleCookie(), dict[str, str]()
        self.terminal = Terminal("make run", self.folder, self.environment)

    def ask(self, method: str, path: str, body: str | None = None) -> Response:
        """Ask for a page; nothing is ever refused. As a browser does, ask again where no answer has begun."""
        host = f"localhost:{self.port}"
        cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in self.cookies.items())
        headers = {"Host": host, "Origin": f"http://{host}", "Cookie": cookies, "Accept": "text/html"}
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            return ask(self.port, method, path, headers, body, self.cookies)
        except RemoteDisconnected:
            return ask(self.port, method, path, headers, body, self.cookies)

    def wait_until(self, condition: Callable[[], object], what: str) -> float:
        """Return how long it took until a condition held."""
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < DEADLINE, f"{what} did not come:\n{self.terminal.output[-5000:]}"
            self.terminal.read(PAUSE)
        return time.monotonic() - begun

    def appears(self, wanted: str, other: str) -> bool:
        """Say whether one pattern appears now, and not the other."""
        begin = len(self.terminal.output)
        both = re.compile(f"({wanted})|{other}")
        self.wait_until(lambda: both.search(self.terminal.output, begin), wanted)
        found = both.search(self.terminal.output, begin)
        return bool(found and found[1])

    def queue(self, call: str) -> None:
        """Queue a task."""
        code = f"from django_q.tasks import async_task; async_task({call})"
        run(["uv", "run", "python", "manage.py", "shell", "-c", code], self.folder, self.environment)

    def result(self) -> str:
        """Return the result of a task that the start page runs."""
        page = self.send()
        self.wait_until(lambda: "Waiting" not in self.ask("GET", page).text, "a result")
        return self.ask("GET", page).text

    def send(self) -> str:
        """Send the form of the start page; return where the task's page is."""
        page = Page(self.ask("GET", "/").text)
        token = page.fields["csrfmiddlewaretoken"]
        answer = self.ask("POST", page.action, f"text=one+two&offer=count&csrfmiddlewaretoken={token}")
        assert answer.location, answer
        return answer.location

    def save(self, name: str, old: str, new: str) -> None:
        """Replace a text of a file as it was at first, as editors do: by another file that takes its place."""
        file = self.folder / name
        text = self.originals.setdefault(name, file.read_text())
        assert old in text
        (file.parent / f".{file.name}.new").write_text(text.replace(old, new))
        (file.parent / f".{file.name}.new").replace(file)

    def processes(self) -> dict[int, str]:
        """Return what runs in the project's folder: the commands by their pids."""
        found = {}
        for link in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if link.readlink() == self.folder:
                    found[int(link.parent.name)] = (link.parent / "cmdline").read_text()
        return found


@pytest.fixture
def developer(workplace: Workplace, interpreter: Path) -> Iterator[Developer]:
    developer = Developer(workplace, interpreter)
    try:
        developer.terminal.read_until(r"Q Cluster \w+ \[slow\] running", DEADLINE)
        developer.wait_until(lambda: developer.ask("GET", "/").status == 200, "the first page")
        yield developer
    finally:
        if developer.terminal.shell.poll() is None:
            developer.terminal.press_ctrl_c()
            developer.wait_until(lambda: not developer.processes(), "the end")
        developer.terminal.close()


@each("", lambda combination: iter([()]), of_each_django)
def test_what_is_edited_shows_and_ctrl_c_ends_it(combination: Combination, developer: Developer) -> None:
    check_saves(developer)
    check_a_syntax_error(developer)
    check_a_checkout(developer)
    check_a_kill(developer)
    check_breakpoints(developer)
    check_ctrl_c(developer)


def slowness() -> float:
    """Return how much longer a moment's work takes here than on a machine with nothing else to do."""
    begun, end = time.monotonic(), time.process_time() + 0.05
    while time.process_time() < end:
        pass
    return max(1.0, (time.monotonic() - begun) / 0.05)


def check_saves(developer: Developer) -> None:
    """Save twenty times while a task runs, which is not lost."""
    developer.queue("'time.sleep', 5, timeout=60")
    developer.terminal.read_until("processing .* 'time.sleep'", DEADLINE)
    took = []
    for number in range(SAVES):
        word = f"edition{number}"
        name, old, new = EDITS[number % len(EDITS)]

        def shows(name: str = name, word: str = word) -> bool:
            if name == "core/urls.py":
                return developer.ask("GET", f"/{word}/").status == 200
            return word in (developer.result() if name == "core/tasks.py" else developer.ask("GET", "/").text)

        developer.save(name, old, new.replace("WORD", word))
        took.append(developer.wait_until(shows, f"{word} in {name}") / slowness())
    assert statistics.median(took) < SECONDS, took
    shown = developer.terminal.read_until("Processed 'time.sleep'", DEADLINE)
    assert len(re.findall("processing .* 'time.sleep'", shown)) == 1


def check_a_syntax_error(developer: Developer) -> None:
    """Save half a line: the terminal and the page say so; the next save mends it."""
    developer.save("core/views.py", "@require_POST", "@require_POST(")
    developer.terminal.read_until("SyntaxError: '\\(' was never closed", DEADLINE)
    developer.wait_until(lambda: developer.ask("GET", "/").status == 503, "a page that says so")
    developer.save("core/views.py", "@require_POST", "@require_POST")
    assert developer.ask("GET", "/").status == 200
    assert "edition" in developer.result()


def check_a_checkout(developer: Developer) -> None:
    """Change many files at once, and some that do not matter: a process starts once."""
    for folder in ("static", "media", ".venv", "core/__pycache__", "staticfiles"):
        (developer.folder / folder).mkdir(exist_ok=True)
        (developer.folder / folder / "a.py").touch() if folder != "static" else None
    for name in ("core/.views.py.swp", "core/views.py~", "core/#views.py#", "core/.#views.py", "db.sqlite3-journal"):
        (developer.folder / name).touch()
    before = developer.terminal.output.count("Starting process named web")
    for number in range(30):
        (developer.folder / f"parts/templates/{number}").mkdir(parents=True)
        (developer.folder / f"parts/templates/{number}/part.html").touch()
        (developer.folder / f"parts/part{number}.py").touch()
    developer.save("config/settings.py", "My Project", "after the checkout")
    developer.wait_until(lambda: "after the checkout" in developer.ask("GET", "/").text, "the change")

    def starts() -> int:
        return developer.terminal.output.count("Starting process named web") - before

    developer.wait_until(starts, "what the terminal shows of it")
    assert starts() == 1


def check_a_kill(developer: Developer) -> None:
    """Kill the worker: the terminal says so, and the next save starts it."""

    def leaders() -> list[int]:
        workers = [pid for pid, command in developer.processes().items() if command.endswith("reloader\0worker\0")]
        with suppress(ProcessLookupError):
            return [pid for pid in workers if os.getpgid(pid) == pid]
        return []

    developer.wait_until(lambda: len(leaders()) == 1, "the end of former workers")
    os.kill(leaders()[0], signal.SIGKILL)
    developer.terminal.read_until(r"worker has ended \(Killed\): it starts with the next save\.", DEADLINE)
    developer.save("core/views.py", "@require_POST", "@require_POST  # again")
    assert "edition" in developer.result()


def check_breakpoints(developer: Developer) -> None:
    """Think at a breakpoint for longer than the task may take, then at one in a view."""
    terminal = developer.terminal
    developer.save("core/tasks.py", "return len(text.split())", "breakpoint()\n    return len(text.split())")
    starts = terminal.output.count("Starting process named web")
    developer.save("core/views.py", "    try:\n        result = ", "    breakpoint()\n    try:\n        result = ")
    developer.wait_until(lambda: terminal.output.count("Starting process named web") > starts, "the change")
    while True:  # a task may have gone to the former worker
        page = developer.send()
        if developer.appears(r"\(Pdb\) $", "Processed 'core.tasks.count_words'"):
            break
    in_view = re.compile(r"views.py\(\d+\)task\(\)")

    def ask_until_it_stops() -> Response:
        """Ask for the task's page; the former web, while it ends, answers without a stop."""
        while True:
            answer = developer.ask("GET", page)
            if in_view.search(terminal.output) or time.monotonic() > begun + DEADLINE:
                return answer
            time.sleep(PAUSE)

    begun = time.monotonic()
    terminal.type("p text.upper()")
    terminal.read_until("'ONE TWO'", DEADLINE)
    with ThreadPoolExecutor(1) as browser:
        answer = browser.submit(ask_until_it_stops)
        developer.wait_until(lambda: time.monotonic() > begun + LIMIT + 4, "the end of the task's time")
        before = terminal.output.count("Processed 'core.tasks.count_words'")
        terminal.type("q")
        developer.wait_until(lambda: terminal.output.count("Processed 'core.tasks.count_words'") > before, "its end")
        terminal.read_until(in_view.pattern, DEADLINE)  # which waited for its turn
        terminal.type("p 'the ' + key[:0] + 'view'")
        terminal.read_until("'the view'", DEADLINE)
        terminal.type("c")
        assert "Result: 2" in answer.result(DEADLINE).text


def check_ctrl_c(developer: Developer) -> None:
    """Press Ctrl-C while a task runs, and one process takes another's place: all ends, and the task is kept."""
    developer.save("core/views.py", "result = default", "result = default")
    earlier = developer.terminal.output.count("'time.sleep'")
    developer.queue("'time.sleep', 30, timeout=60")
    developer.wait_until(lambda: developer.terminal.output.count("'time.sleep'") > earlier, "its start")
    before = developer.terminal.output.count("stopping.")
    developer.save("core/tasks.py", "return len", "return  len")
    developer.wait_until(lambda: developer.terminal.output.count("stopping.") > before, "a reload")
    begun = time.monotonic()
    developer.terminal.press_ctrl_c()
    developer.wait_until(lambda: developer.terminal.shell.poll() is not None, "the end")
    # Mostly after a second; on a busy machine what has not ended after six is killed.
    assert time.monotonic() - begun < 10, developer.terminal.output[-5000:]
    assert not developer.processes()
    code = "from django_q.models import OrmQ; print('waiting:', OrmQ.objects.count())"
    shown = run(["uv", "run", "python", "manage.py", "shell", "-c", code], developer.folder, developer.environment)
    assert "waiting: 1" in shown
