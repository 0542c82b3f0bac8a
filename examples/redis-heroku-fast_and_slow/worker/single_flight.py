"""What the servers answer, for as many as want to know: each is asked one question at a time."""

import logging
import time
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any

from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from worker.health import SERVERS

LIMIT = 2.0  #: seconds after which a question counts as not answered
SHARED = 1.0  #: seconds for which an answer of a probe is given to all
SOON = 0.5  #: seconds in which a server answers that has not done so when it was asked last
PATIENCE = 10.0  #: seconds for which somebody waits who looks at a queue

logger = logging.getLogger(__name__)


class Question(Thread):
    """Asks a server, in a thread: nobody can tell how long it takes."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.ask, self.answered, self.begun = ask, False, time.monotonic()
        self.answer: Any = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        """Note whether an answer came, and which."""
        try:
            self.answer = self.ask()
            self.answered = True
        except Exception as error:  # each driver and client has exceptions of its own
            self.error = error
            logger.debug("A server does not answer", exc_info=True)
        finally:
            for connection in connections.all(initialized_only=True):
                BaseDatabaseWrapper.close(connection)  # SQLite's own close() leaves a database in memory open

    def wait(self, limit: float) -> bool:
        """Say whether an answer has come, once it has or can be waited for no longer."""
        self.join(max(self.begun + limit - time.monotonic(), 0))
        return self.answered


class SingleFlight:
    """Asks a server one question at a time: who comes meanwhile waits for the same answer, as long as that one may.

    Who comes within `shared` seconds of the question gets its answer, too. Go's package of this name does the same.
    """

    def __init__(self, ask: Callable[[], Any], shared: float = 0.0) -> None:
        self.ask, self.shared, self.lock = ask, shared, Lock()
        self.question: Question | None = None
        self.is_away = False  #: whether the question before this one was not answered

    def current(self) -> Question:
        """Return the question whose answer is to be waited for."""
        with self.lock:
            last = self.question
            if last and (last.is_alive() or time.monotonic() < last.begun + self.shared):
                return last
            self.is_away = last is not None and not last.answered
            self.question = Question(self.ask)
            return self.question

    def wait(self, limit: float) -> Any:
        """Return the answer; None if there is none within the limit, which is short while the server is away."""
        question = self.current()
        return question.answer if question.wait(min(limit, SOON) if self.is_away else limit) else None

    def tell(self, limit: float) -> Any:
        """Return the answer, or raise its error; within a transaction, which no other thread sees, it is asked here.

        Raises:
            OperationalError: If neither comes within the limit.
        """
        if any(connection.in_atomic_block for connection in connections.all(initialized_only=True)):
            return self.ask()
        question = self.current()
        if question.wait(limit):
            return question.answer
        raise question.error or OperationalError(f"no answer within {limit:.0f} s")


class Readiness:
    """What this process knows of the servers."""

    def __init__(self) -> None:
        self.servers = {name: SingleFlight(ask, SHARED) for name, ask in SERVERS.items()}

    def silent(self) -> list[str]:
        """Return the servers that do not answer."""
        questions = {name: server.current() for name, server in self.servers.items()}
        return [name for name, question in questions.items() if not question.wait(LIMIT)]
