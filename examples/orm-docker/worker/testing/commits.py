"""The end of a transaction, which a TestCase never comes to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from django.db import transaction
from django.test import TestCase

from worker.policy import shown


@contextmanager
def committed() -> Iterator[None]:
    """Call what is given to transaction.on_commit() in a block at the end of it, as if that were a transaction."""
    database = transaction.get_connection()
    add = database.on_commit

    def add_once(function: Callable[[], object], robust: bool = False) -> None:
        add(Once(function) if callable(function) else function, robust)

    with patch.object(database, "on_commit", add_once), TestCase.captureOnCommitCallbacks(execute=True):
        yield


class Once:
    """A callback of on_commit(), which a TestCase keeps: each block that is around it would call it again."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function, self.is_over = function, False
        self.__qualname__ = getattr(function, "__qualname__", shown(function))  # which Django logs

    def __call__(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.function()
