"""The process of a worker: what is prepared before it runs tasks, and done when it leaves."""

import os
import signal
from contextlib import suppress
from functools import partial
from multiprocessing.process import current_process
from types import SimpleNamespace

from django.conf import settings
from django_q import worker as upstream
from django_q.conf import Conf

from worker import errors, traces
from worker.cluster import after, child
from worker.cluster.channels import Channel
from worker.cluster.functions import located
from worker.cluster.scoreboard import Scoreboard

ENDING = {signal.SIGTERM, signal.SIGINT}  #: by which programs end others


def run(slot: int, channel: Channel, scoreboard: Scoreboard) -> None:
    if not settings.DEBUG:  # a debugger reads the terminal, which only one group may
        os.setpgid(0, 0)  # a task that ends its own group, instead of that of a program of its, ends no more
    let_forks_leave(channel)
    current_process().name = f"Worker-{slot + 1}"
    # Of django-q2 1.11.1: its worker goes through the import system for each task, here once for each function, and
    # through the translations, though nobody searches a log in several languages; what a receiver of these two signals
    # raises would end it, or fail a task that has succeeded; and of an exception it keeps the text, which
    # Child.format_exc takes the place of.
    upstream.pydoc, upstream._ = SimpleNamespace(locate=located), str
    for name in ("post_spawn", "post_execute_in_worker"):
        setattr(upstream, name, SimpleNamespace(send=getattr(upstream, name).send_robust))
    if Conf.CPU_AFFINITY and hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        mine = range(slot * Conf.CPU_AFFINITY, (slot + 1) * Conf.CPU_AFFINITY)
        os.sched_setaffinity(0, {processors[number % len(processors)] for number in mine})
    child.current = it = child.Child(slot, channel, scoreboard)
    upstream.traceback = SimpleNamespace(format_exc=it.format_exc)
    it.work()
    with after.whatever_it_raises("What tells others of tasks"):
        errors.flush()
        traces.flush()


def let_forks_leave(channel: Channel) -> None:
    """Let a process that a task forks be one of the system's own: multiprocessing ends its own by SIGTERM, and at once.

    So one that comes before the child has taken the system's own handlers has to wait.
    """

    def after_in_child() -> None:
        with suppress(OSError):
            channel.close()
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, ENDING),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, ENDING),
        after_in_child=after_in_child,
    )
