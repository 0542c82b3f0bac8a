"""How the main process starts others, and how it logs: neither may make it wait."""

import ctypes
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from django.core.management.base import CommandError

from worker.cluster.channels import Channel
from worker.delivery import brief

PR_SET_PDEATHSIG = 1  #: from linux/prctl.h
FILES = 64  #: that a process has open beside its channels, at most
READ_WITHIN = 1.0  #: seconds in which somebody must read a line of the log
MUTE = 10.0  #: seconds for which nothing is logged once nobody reads it

logger = logging.getLogger("django-q")
_mute_until = 0.0
_told = False  #: that a line cannot be logged


class Unread(BaseException):
    """Nobody reads the log: no Exception, for handlers of logging would tell of it in the log."""


def say(level: int, text: str, *args: Any, **options: Any) -> None:
    """Log a line; drop it if nobody reads the log, and for a while those that follow. For the main process only."""
    global _mute_until

    def give_up(*_: object) -> NoReturn:
        raise Unread

    if time.monotonic() < _mute_until:
        return
    before = signal.signal(signal.SIGALRM, give_up)
    try:
        signal.setitimer(signal.ITIMER_REAL, READ_WITHIN)
        logger.log(level, text, *args, **options)
    except Unread:
        _mute_until = time.monotonic() + MUTE
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def let_no_line_raise() -> None:
    """Let no filter or handler of the project's end a process that logs a line, and so the cluster; say so once."""
    handle = logging.Logger.handle

    def handled(self: logging.Logger, record: logging.LogRecord) -> None:
        global _told
        try:
            handle(self, record)
        except Exception as error:
            if not _told:
                _told = True
                told = f"A line cannot be logged: {brief(error)}; look at LOGGING in the settings.\n"
                with suppress(OSError):
                    os.write(2, told.encode(errors="replace"))

    logging.Logger.handle = handled  # type: ignore[method-assign]


def fork(target: Callable[[], None], *closed: Channel) -> int:
    """Start a process that ends with this one, and does not keep these channels open; return its pid.

    Raises:
        OSError: If the system has no room for it.
    """
    parent = os.getpid()
    if pid := os.fork():
        return pid
    code, own = 1, os.getpid()
    try:
        die_with(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT):
            # They are the main process's. SIG_IGN would do here, but programs that a task starts would inherit it.
            signal.signal(number, lambda *_: None)
        for channel in closed:
            channel.close()
        target()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except CommandError as error:
        sys.stderr.write(f"CommandError: {error}\n")
        sys.stderr.flush()
    except BaseException as error:
        if os.getpid() == own:
            logger.critical("A process of the cluster has failed.", exc_info=True)
        else:
            logger.error("A process that a task has forked did not end by itself: %s", brief(error))
    finally:
        os._exit(code)  # whatever threads and exit handlers a task has left


def how_ended(code: int) -> str:
    """Return in words how a process has ended; the signals of real time have no name."""
    name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
    return f"ended with code {code}" if code >= 0 else f"died ({name})"


def room_for_files(workers: int) -> None:
    """Let this process, and those that it starts, open as many files as that takes: two for each worker."""
    most = 2 * workers + FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < most and hard != resource.RLIM_INFINITY:
        problem = f"{workers} workers need {most} open files, and {hard} are allowed here"
        raise CommandError(f"{problem}: raise that limit (`ulimit -n`), or lower Q_WORKERS.")
    if soft < most and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def die_with(parent: int) -> None:
    """End this process as soon as its parent has ended, however that came about."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)
