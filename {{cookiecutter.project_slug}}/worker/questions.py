"""Whether the servers answer, for as many as want to know: each server is asked one question at a time."""

import logging
import time
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any

from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from worker.health import SERVERS

LIMIT = 2.0  #: seconds after which a question counts as not answered
SHARED = 1.0  #: seconds for which an answer is given to all
SOON = 0.5  #: seconds in which a server answers that has not done so when it was asked last
PATIENCE = 10.0  #: seconds for which somebody waits who looks at a queue

logger = logging.getLogger(__name__)


class Question(Thread):
    """Asks a server, in a thread: nobody can tell how long it takes."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        """Ask."""
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

    def is_old(self) -> bool:
        """Say whether the answer is too old to be shared."""
        return not self.is_alive() and time.monotonic() > self.begun + SHARED

    def wait(self, limit: float = LIMIT) -> bool:
        """Say whether an answer has come, once it has or can be waited for no longer."""
        self.join(max(self.begun + limit - time.monotonic(), 0))
        return self.answered


class Turns:
    """Asks a server one question at a time: who comes meanwhile waits for the same answer, as long as that one may."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        """Begin with none."""
        self.ask, self.lock = ask, Lock()
        self.question: Question | None = None
        self.is_silent = False  #: whether the last answer did not come in time

    def wait(self, limit: float) -> Any:
        """Return the answer; None if there is none within the limit."""
        question = self.current()
        self.is_silent = not question.wait(min(limit, SOON) if self.is_silent else limit)
        return None if self.is_silent else question.answer

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

    def current(self) -> Question:
        """Return the question under way, or the next one."""
        with self.lock:
            if self.question is None or not self.question.is_alive():
                self.question = Question(self.ask)
            return self.question


class Readiness:
    """What this process knows of the servers."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.lock = Lock()
        self.questions: dict[str, Question] = {}

    def silent(self) -> list[str]:
        """Return the servers that do not answer."""
        with self.lock:
            for name, ask in SERVERS.items():
                if name not in self.questions or self.questions[name].is_old():
                    self.questions[name] = Question(ask)
            questions = dict(self.questions)
        return [name for name, question in questions.items() if not question.wait()]
