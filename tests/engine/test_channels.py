"""Messages between processes: whole or not at all, of any size, whoever is killed."""

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from worker.cluster.channels import INLINE, Channel, pair

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Provide a channel."""
    ours, theirs = pair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("size", [0, 1, INLINE - 100, INLINE, INLINE + 1, 1_000_000, 50_000_000])
def test_messages_of_any_size_arrive_whole_and_in_order(size: int, ends: Ends) -> None:
    ours, theirs = ends
    messages: list[tuple[Any, ...]] = [("text", "x" * size), ("bytes", b"y" * size), ("end", None, 1.5, True)]
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(theirs.receive() for _ in messages))
    reader.start()
    for message in messages:
        assert ours.send(message)
    reader.join()
    assert got == messages


def test_a_message_is_written_whole_though_a_write_is_cut_short(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = ends
    monkeypatch.setattr("worker.cluster.channels._file", lambda: Short(os.memfd_create("message"), "wb"))
    assert ours.send(("x" * INLINE * 2,))
    assert theirs.receive() == ("x" * INLINE * 2,)


class Short(io.FileIO):
    """A file that takes a part of what it is given, as the system does at a limit."""

    def write(self, data: Any) -> int:
        """Take as much as it likes."""
        return super().write(data[:50_000])


def test_nobody_waits_who_does_not_want_to(ends: Ends) -> None:
    ours, theirs = ends
    assert theirs.receive(wait=False) is None
    sent = 0
    while ours.send(("x" * 10_000,), wait=False):
        sent += 1
    assert 0 < sent < 10_000
    assert len(list(iter(lambda: theirs.receive(wait=False), None))) == sent


def test_what_was_not_taken_is_taken_back_and_nothing_twice(ends: Ends) -> None:
    ours, theirs = ends
    again = Channel.of(os.dup(theirs.fileno()))
    for number in range(5):
        ours.send((number,))
    taken = [theirs.receive(wait=False), again.receive(wait=False), theirs.receive(wait=False)]
    rest = list(iter(lambda: again.receive(wait=False), None))
    again.close()
    assert [*taken, *rest] == [(number,) for number in range(5)]


def test_descriptors_travel_along(ends: Ends) -> None:
    ours, theirs = ends
    reader, writer = os.pipe()
    ours.send(("a pipe",), [writer])
    os.close(writer)
    message = theirs.receive()
    assert message is not None
    os.write(message[1], b"through it")
    assert os.read(reader, 100) == b"through it"
    os.close(message[1])
    os.close(reader)


def test_the_end_of_the_other_side_is_seen(ends: Ends) -> None:
    ours, theirs = ends
    theirs.close()
    assert ours.receive() is None
    with pytest.raises(OSError, match=r"pipe|reset"):
        ours.send(("anything",))


@pytest.mark.parametrize("size", [100, 5_000_000])
def test_a_reader_that_is_killed_at_any_instant_takes_one_message_along_at_most(size: int) -> None:
    for attempt in range(20):
        ours, theirs = pair()
        report, reported = os.pipe()
        pid = os.fork()
        if not pid:
            while (message := theirs.receive()) is not None:
                os.write(reported, bytes([message[0]]))
            os._exit(0)
        sent = 0
        end = time.monotonic() + 0.02 * (attempt % 5) / 4
        while time.monotonic() < end or not sent:
            sent += ours.send((sent % 256, "x" * size), wait=False)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reported)
        seen = len(os.read(report, 1 << 16))
        left = list(iter(partial(theirs.receive, wait=False), None))
        assert 0 <= sent - seen - len(left) <= 1
        for message in left:
            assert len(message[1]) == size
        for descriptor in (report, ours.sock.detach(), theirs.sock.detach()):
            os.close(descriptor)
