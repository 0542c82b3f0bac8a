"""breakpoint() under `make run`: the debugger talks with the terminal in which that was typed.

Processes there have no terminal of their own. q and Ctrl-D leave the debugger, and let the code go on; so does c.
"""

import fcntl
import os
import pdb
import signal
import sys
from types import FrameType
from typing import Any

from worker.cluster import child


class Debugger(pdb.Pdb):
    """Talks with a terminal that others use as well: one at a time."""

    def __init__(self, terminal: str) -> None:
        super().__init__(stdin=open(terminal), stdout=open(terminal, "w"), nosigint=True)  # noqa: SIM115 (while it talks)

    def interaction(self, *args: Any, **options: Any) -> None:
        """Wait until others have gone on, and talk."""
        fcntl.flock(self.stdin, fcntl.LOCK_EX)
        super().interaction(*args, **options)

    def set_continue(self) -> None:
        """Let others talk."""
        super().set_continue()
        fcntl.flock(self.stdin, fcntl.LOCK_UN)

    do_q = do_quit = do_exit = do_EOF = pdb.Pdb.do_continue  # noqa: N815 (else the task fails, and is tried again)


def install(terminal: str) -> None:
    """Let breakpoint() talk with this terminal, unless there is none, or PYTHONBREAKPOINT names another debugger."""
    if os.path.exists(terminal) and "PYTHONBREAKPOINT" not in os.environ:

        def stop(*args: Any, **options: Any) -> None:
            frame: FrameType = sys._getframe(1)  # noqa: SLF001 (of whoever has called breakpoint())
            signal.alarm(0)  # with which django-q2 ends a task
            child.without_limit()
            Debugger(terminal).set_trace(frame)

        sys.breakpointhook = stop
