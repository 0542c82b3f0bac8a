"""`make run` with DEBUG on: starts a process anew when a file of the project has changed. Nothing else imports this.

Files are looked at here, and the process forked from here, since of what there is
- Django's autoreload (6.1) stops a process before it starts the next: web refuses connections, a worker drops its task.
  So does run_process of watchfiles 1, which besides kills after 5 s. Its watch() cannot leave a folder out: it would
  watch the 3,000 of .venv for each process (0.5 s), and on WSL poll them for a fifth of a processor.
- --reload of gunicorn 27 forks from a master that has loaded the code: prodserver's has. runserver is not what
  production runs, and refuses connections like the first.
Here the socket stays open, and gunicorn takes it over as from systemd; a new cluster starts while the former ends its
tasks. Templates begin processes anew too, for Django keeps what it has read of them.
"""

import importlib
import os
import runpy
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from django.conf import settings
from dotenv import dotenv_values

from worker.conf import setting

LEFT_OUT = {"media", "node_modules", "staticfiles", "tests"}  #: folders of the project, beside hidden ones
SUFFIXES = (".py", ".mo")  #: of files that processes read once, beside all templates
SETTLED = 0.1  #: seconds without a further change, after which a change is whole
PAUSE = 0.2  #: seconds between two looks, or the twentyfold of what a look takes
DRAIN = 86_400  #: seconds that a former process has for its tasks and requests: those at a breakpoint take long
ENDED = 6.0  #: seconds until what was told to end at once is killed; a cluster gives its tasks back
Files = dict[str, tuple[int, ...]]
DESCRIPTOR = 3  #: where systemd leaves a socket
#: what takes most of the time of a start, and needs no settings: it is there before each fork
PRELOADED = (
    *("django.contrib.admin.options", "django.contrib.admin.views.main", "django.test", "django.views.generic"),
    *("django.db.backends.postgresql.base", "django.db.backends.sqlite3.base", "django.db.migrations.executor"),
    *("environs", "gunicorn.app.wsgiapp", "gunicorn.workers.gthread", "whitenoise.middleware"),
)
BROKEN = b"""HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/html\r\nRefresh: 1\r\n\r\n
<title>It does not start</title><p>It does not start: the terminal says why. This page comes again once that is mended.
"""


# The process that starts others: it has loaded no file of the project but this one


def snapshot(folder: Path) -> Files:
    """Return the files on which processes depend, each with what tells whether it has changed."""
    found: Files = {}
    for path, folders, names in os.walk(folder):
        left_out = LEFT_OUT if path == str(folder) else ()
        folders[:] = [name for name in folders if name not in left_out and name[0] != "."]
        suffixes = ("",) if "templates" in Path(path).relative_to(folder).parts else SUFFIXES
        for name in names:
            # Others are an editor's: .name.swp, .#name, #name#, name~, name___jb_tmp___.
            if name == ".env" or (name[0] not in ".#" and name[-1] not in "#_~" and name.endswith(suffixes)):
                with suppress(FileNotFoundError):
                    status = os.stat(f"{path}/{name}")
                    found[f"{path}/{name}"] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


class Reloader:
    """Starts a process, and the next one as soon as a file has changed."""

    def __init__(self, name: str, listener: socket.socket | None) -> None:
        self.name, self.listener, self.parent, self.told = name, listener, os.getppid(), False
        self.current = 0  #: the pid of the process, 0 if it has ended
        self.code = 0  #: with which it has ended
        self.former: set[int] = set()  #: pids of those that it has replaced, while they end

    def run(self) -> None:
        """Start and replace the process until told to stop; return in each that is started."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        is_first = True
        while not self.told:
            files = self.settled()
            if self.told:
                break
            if self.current:
                os.kill(self.current, signal.SIGTERM)
                self.former.add(self.current)
            self.current = os.fork()
            if not self.current:
                os.setpgid(0, 0)  # a signal to all is this process's to answer
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                    signal.signal(number, lambda *_: os._exit(0))  # until gunicorn or the cluster takes it
                return
            while not self.told and not self.has_changed(files):
                self.reap()
                if is_first and not self.current:
                    sys.exit(self.code)
                self.told = self.told or os.getppid() != self.parent
            is_first = False
        self.end()
        sys.exit(0)

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def settled(self) -> Files:
        """Return the files once they change no more: one saves several, and git many."""
        files: Files = {}
        while (later := snapshot(Path.cwd())) != files and not self.told:
            files = later
            time.sleep(SETTLED)
        return files

    def has_changed(self, files: Files) -> bool:
        """Wait a while, and say whether the files have changed; answer who asks for a page of what has ended."""
        before = time.monotonic()
        if snapshot(Path.cwd()) != files:
            return True
        pause = max(PAUSE, 20 * (time.monotonic() - before))
        asked = [self.listener] if self.listener and not self.current else []
        for listener in select.select(asked, [], [], pause)[0]:
            if snapshot(Path.cwd()) != files:  # the next process answers
                return True
            with suppress(OSError), listener.accept()[0] as connection:
                connection.settimeout(1)
                connection.recv(65536)
                connection.sendall(BROKEN)
        return False

    def reap(self) -> set[int]:
        """Take note of processes that have ended, and end what they have left; return the others."""
        living = {*self.former, self.current} - {0}
        for pid in sorted(living):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                kill(pid)
                living.discard(pid)
                self.former.discard(pid)
                if pid == self.current:
                    code = os.waitstatus_to_exitcode(status)
                    self.current, self.code = 0, min(1, abs(code))
                    if code < 0 and not self.told:  # it could not say so itself
                        how = signal.strsignal(-code)
                        print(f"{self.name} has ended ({how}): it starts with the next save.", flush=True)
        return living

    def end(self) -> None:
        """End all processes at once; clusters give back what they run."""
        for pid in self.reap():
            os.kill(pid, signal.SIGQUIT)
        end = time.monotonic() + (0.5 if self.listener else ENDED)
        while living := self.reap():
            if time.monotonic() > end:
                for pid in living:
                    kill(pid)
            time.sleep(0.02)


def kill(group: int) -> None:
    """Kill the processes of a group, if there are any."""
    with suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def main(name: str, port: str = "") -> None:
    """Start a process of PRODUCTION_PROCESSES, with its port if it is a web server, and become each that is started."""
    listener = None
    if port:
        try:
            dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual else socket.AF_INET
            listener = socket.create_server(("", int(port)), family=family, backlog=2048, dualstack_ipv6=dual)
        except OSError as error:
            sys.exit(f"Port {port} cannot be had ({error.strerror}): `PORT=8001 make run` takes another.")
    module = os.environ.pop("DJANGO_SETTINGS_MODULE")  # without which nothing below can load a file of the project
    variables = dotenv_values(".env")
    for preloaded in PRELOADED:
        with suppress(Exception):
            importlib.import_module(preloaded)
    Reloader(name, listener).run()
    for variable in variables:  # as they were; the settings read them anew
        os.environ.pop(variable, None)
    os.environ["DJANGO_SETTINGS_MODULE"] = module
    if listener:
        if (descriptor := listener.detach()) != DESCRIPTOR:
            os.dup2(descriptor, DESCRIPTOR)
            os.close(descriptor)
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    sys.dont_write_bytecode = True  # of two files of one size and second, Python takes the second for the first
    sys.argv = ["manage.py", "prodserver", name]
    runpy.run_path("manage.py", run_name="__main__")


# A process that was started


def begin(name: str) -> None:
    """Let a Reloader start this process; in one that it has started, prepare for development."""
    if sys.orig_argv[1:3] != ["-m", __name__]:
        is_gunicorn = settings.PRODUCTION_PROCESSES[name]["BACKEND"].endswith(".GunicornServer")
        port = [str(setting("PORT"))] if is_gunicorn else []
        os.execv(sys.executable, [sys.executable, "-m", __name__, name, *port])  # noqa: S606 (no shell wanted)
    from gunicorn.workers import gthread

    from worker.development import debugger

    # A former process may take its time, at a breakpoint too; what a browser sends meanwhile is for the next one.
    settings.Q_GRACE = DRAIN
    if "graceful-timeout" in (arguments := settings.PRODUCTION_PROCESSES[name].get("ARGS", {})):
        arguments["graceful-timeout"] = str(DRAIN)
    gthread.STOP_KEEPALIVE_LINGER = 0  # no option of gunicorn 27.0.1
    debugger.install(os.environ["MAKE_RUN"])


if __name__ == "__main__":
    main(*sys.argv[1:])
