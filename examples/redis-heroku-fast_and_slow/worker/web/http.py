"""Requests as they come from slow clients, and answers as they take them; for worker.web.gunicorn."""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import SpooledTemporaryFile
from threading import BoundedSemaphore
from typing import Any

from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

from worker.web.middleware import is_probe, upload_limit

HEAD = 10.0  #: seconds in which the head of a request must come
HEAD_SIZE = 2**16  #: bytes, beyond which it is no head
END = b"\r\n\r\n"  #: of a head
BODY = 20.0  #: seconds in which a body must come, and
PACE = 50_000  #: for each so many bytes of it a second more
PIECE = 2**16  #: bytes; a larger body lies in a file
FILES = BoundedSemaphore(8)  #: of a process at once; MAX_UPLOAD_SIZE has the sum
FILE = 10.0  #: seconds for which a body waits for one
ANSWER = 20.0  #: seconds for which a client may take nothing of an answer


class Parser(RequestParser):  # type: ignore[misc]
    """Reads a request, its body included, before it is asked for it."""

    request: Any = None
    error: Exception | None = None
    expects_body = False  #: and it is not too large
    head_end = 0.0  #: when a head must be whole of which something has come

    def __init__(self, cfg: Config, conn: TConn) -> None:
        super().__init__(cfg, conn.sock, conn.client)
        self.unreader = Unreader(conn.sock)

    def has_head(self) -> bool:
        """Take what has come of a head; say whether it is whole, or will never be."""
        come, data = self.unreader.take_buffered(), None
        if END not in come:
            self.unreader.sock.setblocking(False)
            try:
                data = self.unreader.sock.recv(HEAD_SIZE)
            except BlockingIOError:
                pass
            except OSError:
                data = b""
        come += data or b""
        self.unreader.unread(come)
        if come and not self.head_end:
            self.head_end = time.monotonic() + HEAD
        return END in come or data == b"" or len(come) > HEAD_SIZE

    def read(self) -> Request | None:
        """Read the next head; return None if that fails, which whoever asks for the request is told."""
        self.head_end = self.unreader.end = 0.0
        self.expects_body = False
        try:
            self.request = super().__next__()
        except Exception as error:  # the client's faults, each of which gunicorn answers in its way
            self.request, self.error = None, error
            return None
        length = self.length(self.request)
        if is_probe(self.request.path) or (length or 0) > upload_limit():
            self.request._expected_100_continue = False  # noqa: SLF001 (nobody reads the body)
            if length != 0:
                self.request.force_close()
        else:
            self.expects_body = length != 0
        return self.request

    @staticmethod
    def length(request: Request) -> int | None:
        """Return the length of the body, or None if it comes in chunks."""
        return getattr(request.body.reader, "length", None)

    def read_body(self) -> None:
        """Read the body, or note why that fails."""
        body = Body(PIECE)
        try:
            self.fill(body)
        except Exception as error:
            self.error = error
            with suppress(OSError):  # of which the error tells
                body.close()

    def fill(self, body: "Body") -> None:
        """Take the body from the client, but of one that is too large so much only that the middleware sees it."""
        request, length, left = self.request, self.length(self.request), BODY
        if request._expected_100_continue:  # noqa: SLF001
            request._expected_100_continue = False  # noqa: SLF001
            self.unreader.sock.settimeout(ANSWER)
            self.unreader.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while body.tell() <= upload_limit():
            begun = time.monotonic()
            self.unreader.end = begun + left
            if not (piece := request.body.read(PIECE)):
                break
            left += len(piece) / PACE - (time.monotonic() - begun)
            try:
                body.write(piece)
                body.flush()
            except OSError as error:
                raise FullError(f"{request.method} {request.path}: no room for the body ({error})") from error
        if length is None:
            request.headers.append(("CONTENT-LENGTH", str(body.tell())))  # Django takes a body without it for none
            if body.tell() > upload_limit():
                request.force_close()
        elif body.tell() < length:
            raise NoMoreData
        body.seek(0)
        request.body = body

    def __next__(self) -> Request:
        if self.error:
            raise self.error
        return self.request

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Say that nothing is left to read of the last request."""
        return True


class Unreader(SocketUnreader):  # type: ignore[misc]
    """Reads from a client until a time, however little comes at once."""

    end = 0.0

    def chunk(self, size_hint: int | None = None) -> bytes:
        self.sock.settimeout(max(self.end - time.monotonic(), 0.001))
        try:
            data: bytes = super().chunk(size_hint)
        except TimeoutError as error:
            raise NoMoreData from error
        return data


class FullError(Exception):
    """There is no room for a body."""


class Body(SpooledTemporaryFile[bytes]):
    """What a client has sent; if it is large, in one of a few files."""

    has_file = False

    def rollover(self) -> None:
        """Wait until there may be another file."""
        if not FILES.acquire(timeout=FILE):
            raise TimeoutError("others take all files")
        self.has_file = True
        super().rollover()

    def close(self) -> None:
        """Make way for another."""
        try:
            super().close()
        finally:
            if self.has_file:
                self.has_file = False
                FILES.release()


class Socket(socket.socket):
    """Gives a client its time for each piece of an answer, where Python gives it for the whole."""

    def sendall(self, data: Any, flags: int = 0) -> None:
        left = memoryview(data)
        with taking():
            while left:
                left = left[self.send(left, flags) :]

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a file, which Python does piece by piece."""
        with taking():
            return super().sendfile(file, offset, count)


@contextmanager
def taking() -> Iterator[None]:
    """Tell a client that takes nothing, which gunicorn does not log, from an application that waits in vain."""
    try:
        yield
    except TimeoutError as error:
        raise BrokenPipeError(errno.EPIPE, "the client takes nothing") from error
