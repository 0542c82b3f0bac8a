"""What gunicorn 27.0.1 lacks: limits for slow clients, and its log through Django's LOGGING.

Worker can go when gunicorn's gthread reads requests whole, and within a time, before one of its few threads is busy
with them. Logger can go when gunicorn has an option for that; `logconfig_dict` has none on the command line.
"""

import logging
import resource
import selectors
import socket
import time
from bisect import insort
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from typing import Any

from gunicorn import glogging, util
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.workers import gthread

from worker.web.http import ANSWER, HEAD, Body, FullError, Parser, Socket
from worker.web.middleware import is_probe

#: of a process for probes, as many for bodies, and for connections that end: while slow bodies hold all of theirs,
#: others wait until these are cut off (BODY). They need no database, and next to no memory.
THREADS = 80
DESCRIPTORS = 4096  #: that a process may have open: gunicorn ends without a free one, and takes 1000 connections


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """Keeps the threads that run the application for requests that have come whole.

    Heads wait without a thread. Others read bodies, and again others answer probes, so that neither slow clients nor
    slow servers can make a probe wait.
    """

    def init_process(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
        self.probes, self.uploads, self.ends = (ThreadPoolExecutor(THREADS, it) for it in ("probe", "upload", "end"))
        super().init_process()

    def enqueue_req(self, conn: gthread.TConn) -> None:
        """Send a request on as soon as its head has come."""
        if self.cfg.is_ssl:  # the proxy's work, elsewhere; and other parsers'
            super().enqueue_req(conn)
            return
        if not conn.parser:
            conn.sock = Socket(fileno=conn.sock.detach())
            conn.parser = Parser(self.cfg, conn)
        if not conn.parser.has_head():
            self.wait(conn)
            return
        conn.data_ready = True  # nothing is left in the socket for which to wait
        request = conn.parser.read()
        if request and is_probe(request.path):
            self.probes.submit(self.handle, conn).add_done_callback(
                lambda future: self.method_queue.defer(self.finish_request, conn, future)
            )
        elif conn.parser.expects_body:
            self.uploads.submit(self.read_body, conn)
        else:
            super().enqueue_req(conn)

    def wait(self, conn: gthread.TConn) -> None:
        """Wait for more of a head; as finish_request does, but not longer for each byte."""
        conn.timeout = conn.parser.head_end or time.monotonic() + max(self.cfg.keepalive, HEAD)
        insort(self.pending_conns, conn, key=attrgetter("timeout"))
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def read_body(self, conn: gthread.TConn) -> None:
        conn.parser.read_body()
        super().enqueue_req(conn)

    def handle_request(self, req: Request, conn: gthread.TConn) -> bool:
        conn.sock.settimeout(ANSWER)
        try:
            keep: bool = super().handle_request(req, conn)
        finally:
            if isinstance(req.body, Body):
                req.body.close()
        return keep

    def handle_error(self, req: Request, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what cannot be handed to the application."""
        if isinstance(exc, FullError):
            self.log.error("%s", exc)
            util.write_error(client, 503, "Service Unavailable", "There is no room for this. Try again in a minute.")
        else:
            super().handle_error(req, client, addr, exc)

    def finish_request(self, conn: gthread.TConn, fs: "Future[Any]") -> None:
        """Close the connection elsewhere if it is at its end: gunicorn would wait up to 2 s for what still comes."""
        if fs.cancelled() or fs.result() is not False:
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1
            self.ends.submit(conn.close, graceful=True)

    def _cap_keepalive(self, deadline: float) -> None:
        """Let no connection without a request hold up a stop; gunicorn forgets those that have not had one yet."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)


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
