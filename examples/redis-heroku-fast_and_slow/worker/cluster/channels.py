"""Channels between processes: socket pairs that carry whole messages, and no locks.

A message is taken whole or not at all, so a process that is killed at any instant leaves neither half a message nor a
lock behind (multiprocessing's queues leave both: https://github.com/django-q2/django-q2/issues/23). A message of more
than INLINE bytes travels as a file of its own, by its descriptor.
"""

import errno
import marshal
import mmap
import os
import socket
import sys
import tempfile
from array import array
from collections.abc import Sequence
from typing import Any

INLINE = 65_536  #: bytes; the buffers of a socket hold a few messages of this size on every system
KIND = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM  # macOS has no other
PIECE = 1 << 30  #: bytes that are written at once
BY_FILE = b"f"  #: in the place of a message that follows as a file; marshalled tuples begin otherwise
ROOM = socket.CMSG_SPACE(4 * array("i").itemsize)
# Flags as plain numbers: operators of enumerations would take a sixth of the agent's time.
CLOSES = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))  # what a task starts must not inherit a channel
AT_ONCE = int(socket.MSG_DONTWAIT)
CUT_SHORT = int(socket.MSG_CTRUNC)

if sys.platform != "linux":
    INLINE = 1024  # net.local.dgram.maxdgram is 2048


class Channel:
    """One end of a channel. Messages are tuples of numbers, strings, bytes, None, and dicts of them."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def of(cls, descriptor: int) -> "Channel":
        """Return the channel of a descriptor that came through another one."""
        return cls(socket.socket(socket.AF_UNIX, KIND, fileno=descriptor))

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def send(self, message: tuple[Any, ...], descriptors: Sequence[int] = (), *, wait: bool = True) -> bool:
        """Send a message, and descriptors along; say whether it was sent, which it is not if it had to wait.

        Raises:
            OSError: If the other end is closed, or there is no room for the message.
        """
        data = marshal.dumps(message)
        if len(data) <= INLINE:
            return self._send(data, descriptors, wait)
        with _file() as file:
            left = memoryview(data)
            while left:  # a write may be cut short, at 2 GiB or a limit of the process, before the next one fails
                left = left[file.write(left[:PIECE]) :]
            return self._send(BY_FILE, [file.fileno()], wait)

    def _send(self, data: bytes, descriptors: Sequence[int], wait: bool) -> bool:
        flags = 0 if wait else AT_ONCE
        try:
            if descriptors:  # socket.send_fds() of Python 3.11 forgets its flags
                self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))], flags)
            else:
                self.sock.send(data, flags)
        except BlockingIOError:
            return False
        return True

    def receive(self, *, wait: bool = True) -> tuple[Any, ...] | None:
        """Return the next message; None if there is none, and it was not to wait, or if the other end is closed.

        The descriptors that came along are appended to it.
        """
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(INLINE, ROOM, CLOSES if wait else CLOSES | AT_ONCE)
        except (BlockingIOError, ConnectionResetError):
            return None
        if not data:
            return None
        if flags & CUT_SHORT:
            raise OSError(errno.EMFILE, "a message has lost its file: too many are open")
        descriptors = array("i")
        for _, _, content in ancillary:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        if data == BY_FILE:
            return _content(descriptors[0])
        message: tuple[Any, ...] = marshal.loads(data)  # noqa: S302 (a process of this cluster has sent it)
        return (*message, *descriptors)


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair(socket.AF_UNIX, KIND)
    return Channel(one), Channel(other)


def _file() -> Any:
    """Return a file that is gone with its last descriptor."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("message"), "wb", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _content(descriptor: int) -> tuple[Any, ...]:
    try:
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
            message: tuple[Any, ...] = marshal.loads(content)  # noqa: S302 (as above)
            return message
    finally:
        os.close(descriptor)
