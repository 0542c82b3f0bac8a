"""What gunicorn 27.0.1 lacks: limits for slow clients, and its log through Django's LOGGING.

Worker can go when gunicorn's gthread reads requests whole, and within a time, before one of its few threads is busy
with them. Logger can go when gunicorn has an option for that; `logconfig_dict` has none on the command line.
"""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from tempfile import SpooledTemporaryFile
from typing import Any

from gunicorn import glogging
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread

from worker.middleware import PROBES, upload_limit

READERS = 100  #: threads of a process that read requests; they need no database, and next to no memory
HEAD = 10.0  #: seconds in which the head of a request must come
BODY = 20.0  #: seconds in which each PIECE of the body must come
PIECE = 2**16  #: bytes
ANSWER = 20.0  #: seconds for which a client may take nothing of an answer


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """Keeps the threads that run the application for requests that have come whole.

    Others read them, and answer probes, so that neither slow clients nor slow servers can make a probe wait.
    """

    def init_process(self) -> None:
        """Provide the threads."""
        self.readers = ThreadPoolExecutor(READERS, "reader")
        super().init_process()

    def enqueue_req(self, conn: gthread.TConn) -> None:
        """Have a request read as soon as something of it has come."""
        if self.cfg.is_ssl:  # the proxy's work, elsewhere; and other parsers'
            super().enqueue_req(conn)
        elif conn.data_ready or conn.initialized:
            self.readers.submit(self.read, conn)
        else:
            self.finish_request(conn, done(gthread._DEFER))  # noqa: SLF001 (waits without a thread)

    def read(self, conn: gthread.TConn) -> None:
        """Read a request, and have it answered."""
        conn.parser = conn.parser or Parser(self.cfg, conn)
        request = conn.parser.read()
        if request and request.path in PROBES:
            self.method_queue.defer(self.finish_request, conn, done(self.handle(conn)))
        else:
            super().enqueue_req(conn)

    def handle_request(self, req: Request, conn: gthread.TConn) -> bool:
        """Run the application."""
        conn.sock.settimeout(ANSWER)
        try:
            keep: bool = super().handle_request(req, conn)
        except TimeoutError as error:
            raise NoMoreData from error  # of which gunicorn makes no fuss
        finally:
            if isinstance(req.body, SpooledTemporaryFile):
                req.body.close()
        return keep

    def finish_request(self, conn: gthread.TConn, fs: "Future[Any]") -> None:
        """Close the connection elsewhere if it is at its end: gunicorn would wait up to 2 s for what still comes."""
        if fs.cancelled() or fs.result() is not False:
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1
            self.readers.submit(conn.close, graceful=True)


def done(result: Any) -> "Future[Any]":
    """Return what a thread would, had it done its work."""
    future: Future[Any] = Future()
    future.set_result(result)
    return future


class Parser(RequestParser):  # type: ignore[misc]
    """Reads a request, its body included, before it is asked for it."""

    request: Request | None = None
    error: Exception | None = None

    def __init__(self, cfg: Config, conn: gthread.TConn) -> None:
        """Read from a connection."""
        super().__init__(cfg, conn.sock, conn.client)
        self.unreader = Unreader(conn.sock)

    def read(self) -> Request | None:
        """Read the next request; return None if that fails, which whoever asks for it is told."""
        self.unreader.end = time.monotonic() + HEAD
        try:
            self.request = super().__next__()
            self.read_body(self.request)
        except Exception as error:  # the client's faults, each of which gunicorn answers in its way
            self.request, self.error = None, error
        return self.request

    def read_body(self, request: Request) -> None:
        """Read the body, but of one that is too large so much only that the middleware sees it."""
        length = getattr(request.body.reader, "length", None)  # None if it comes in chunks
        continues, request._expected_100_continue = request._expected_100_continue, False  # noqa: SLF001
        if length == 0:
            return
        if length is not None and length > upload_limit():
            request.force_close()
            return
        if continues:
            self.unreader.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = SpooledTemporaryFile(PIECE)  # noqa: SIM115 (handle_request closes it); beyond that size, in a file
        while body.tell() <= upload_limit():
            self.unreader.end = time.monotonic() + BODY
            if not (piece := request.body.read(PIECE)):
                break
            body.write(piece)
        if length is None:
            request.headers.append(("CONTENT-LENGTH", str(body.tell())))  # Django takes a body without it for none
            if body.tell() > upload_limit():
                request.force_close()
        elif body.tell() < length:
            raise NoMoreData
        body.seek(0)
        request.body = body

    def __next__(self) -> Request:
        """Return the request that was read.

        Raises:
            Exception: What was wrong with it.
        """
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
        """Return what comes next.

        Raises:
            NoMoreData: If it is too late.
        """
        self.sock.settimeout(max(self.end - time.monotonic(), 0.001))
        try:
            data: bytes = super().chunk(size_hint)
        except TimeoutError as error:
            raise NoMoreData from error
        return data


class Logger(glogging.Logger):  # type: ignore[misc]
    """Hands each record on to the root logger."""

    def setup(self, cfg: Config) -> None:
        """Set levels as gunicorn does, and drop the handlers that it adds."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
        if not cfg.accesslog:
            self.access_log.setLevel(logging.CRITICAL)
