"""The supervisor: what it tells the probe of, and what it ends for."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from unittest.mock import Mock

import pytest
from django.core.management import CommandError
from worker.cluster.channels import pair
from worker.cluster.forks import fork, let_no_line_raise
from worker.cluster.process import let_forks_leave
from worker.cluster.scoreboard import LEASES, SCHEDULES, THREADS
from worker.cluster.supervisor import Supervisor


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """Supervise nobody: this process has other children."""
    monkeypatch.setattr(Supervisor, "reap", lambda _: set())
    monkeypatch.setattr(Supervisor, "fill_slots", lambda _: None)
    made = Supervisor()
    made.agent, made.looked, made.resumed = 1, time.monotonic(), 0.0
    made.control, theirs = pair()
    yield made
    made.control.close()
    theirs.close()


@pytest.mark.parametrize(("thread", "ends"), [(SCHEDULES, False), (LEASES, True)])
def test_a_thread_that_no_task_waits_for_does_not_end_the_cluster(
    thread: int, ends: bool, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = Mock(return_value="")
    monkeypatch.setattr(supervisor.heartbeat, "beat", beat)
    supervisor.scoreboard.expect(thread, -100.0)
    assert supervisor.look()
    assert bool(supervisor.deadline) is ends
    assert beat.call_args.args[2].keys() == {THREADS[thread]}


def test_a_process_that_gives_up_says_why_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    def give_up() -> NoReturn:
        raise CommandError("The broker does not answer.")

    _, status = os.waitpid(fork(give_up), 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert capfd.readouterr().err == "CommandError: The broker does not answer.\n"


def test_a_filter_that_raises_ends_nobody_and_is_named_once(capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(record: logging.LogRecord) -> NoReturn:
        raise KeyError("request")

    def log() -> None:
        let_no_line_raise()
        for _ in range(2):
            logger = logging.getLogger("any")
            logger.addFilter(refuse)
            logger.error("a line")

    _, status = os.waitpid(fork(log), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert capfd.readouterr().err == "A line cannot be logged: KeyError: 'request'; look at LOGGING in the settings.\n"


def test_a_process_that_a_task_forks_bears_its_end_before_it_has_begun() -> None:
    def worker() -> NoReturn:
        killed, writer = os.pipe()
        os.register_at_fork(after_in_child=lambda: os.read(killed, 1))
        channel, _ = pair()
        let_forks_leave(channel)
        if not (child := os.fork()):
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        os.write(writer, b"1")
        raise SystemExit(
            os.WTERMSIG(os.waitpid(child, 0)[1]) != signal.SIGTERM or bool(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        )

    assert os.waitpid(fork(worker), 0)[1] == 0


def test_a_process_that_a_task_has_forked_is_no_fault_of_the_cluster(tmp_path: Path) -> None:
    def worker() -> None:
        logging.getLogger("django-q").addHandler(logging.FileHandler(tmp_path / "log"))
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            raise BrokenPipeError("gone")

    assert os.waitpid(fork(worker), 0)[1] == 0
    told = "A process that a task has forked did not end by itself: BrokenPipeError: gone\n"
    assert (tmp_path / "log").read_text() == told
