"""What becomes of a task of which an attempt has failed: how many it may have, and how long it waits for the next one.

A backoff is called in a worker with the exception and the Result of the attempt. It returns seconds, a timedelta, or
None for no further attempt.
"""

import inspect
import pickle
import pydoc
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from worker.django_tasks import base
from worker.processes import did_you_mean

Backoff = Callable[[BaseException, Any], float | timedelta | None]
LONGEST = 315_360_000.0  #: seconds of a delay: ten years


class WorkerDied(Exception):  # noqa: N818 (it says what has happened)
    """The worker has ended while it ran the task: somebody has killed it, or it was out of time or of memory."""


class PolicyError(ImproperlyConfigured, TypeError, ValueError):
    """What is wrong with a policy in code, in a sentence: manage.py ends with it."""


class Cancelled(Exception):  # noqa: N818 (it says what has happened)
    """Somebody has cancelled the task."""


@dataclass(frozen=True, slots=True)
class Result:
    """An attempt that has failed, as a backoff sees it; its fields are named as those of Django's TaskResult."""

    id: str  #: django-q2's
    task: str  #: the dotted path of the function
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attempts: int  #: this one included
    max_attempts: int  #: 0 for no limit
    errors: list[base.TaskError]  #: of all attempts, this one the last
    worker_ids: list[str]
    enqueued_at: datetime
    last_attempted_at: datetime | None  #: None where nobody knows when it began


@dataclass(frozen=True)
class Exponential:
    """A backoff: each delay is a factor longer than the one before, up to a limit, and changed by chance by a share.

    With `retry_on`, only what is one of these exceptions is tried again; what is one of `discard_on` never is. They may
    be dotted paths. Where a worker died, the exception is WorkerDied.
    """

    first: float = 5  #: seconds, as the next
    most: float = 3600
    factor: float = 2
    jitter: float = 0.2
    retry_on: tuple[type[BaseException] | str, ...] = field(default=(), kw_only=True)
    discard_on: tuple[type[BaseException] | str, ...] = field(default=(), kw_only=True)

    def __new__(cls, *_: Any, **options: Any) -> "Exponential":
        for word in options.keys() - cls.__dataclass_fields__.keys():
            hint = did_you_mean(word, cls.__dataclass_fields__)
            raise PolicyError(f"{place()}: exponential() has no option {word!r}. {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        try:
            self.check()
        except (TypeError, ValueError) as error:
            raise PolicyError(f"{place(3)}: {error}") from None

    def check(self) -> None:
        """Refuse what can be no backoff."""
        ranges = {"first": (0, LONGEST), "most": (0, LONGEST), "factor": (1, 1000), "jitter": (0, 1)}
        for name, (least, most) in ranges.items():
            number(f"exponential(): {name}", getattr(self, name), least, most)
        for name in ("retry_on", "discard_on"):
            given = getattr(self, name)
            listed = (given,) if isinstance(given, type | str) else given
            if not isinstance(listed, Iterable) or not all(map(names_exception, listed := tuple(listed))):
                what = "is no exception class, dotted path of one, or tuple of these"
                raise TypeError(f"exponential(): {name} {shown(given)} {what}.")
            object.__setattr__(self, name, listed)

    def __call__(self, exception: BaseException, result: Any) -> float | None:
        if is_one_of(exception, self.discard_on) or (self.retry_on and not is_one_of(exception, self.retry_on)):
            return None
        try:
            delay: float = min(self.most, self.first * self.factor ** (result.attempts - 1))
        except OverflowError:
            delay = self.most
        return min(self.most, delay * random.uniform(1 - self.jitter, 1 + self.jitter))  # noqa: S311 (no secret)


exponential = Exponential


def place(depth: int = 2) -> str:
    """Return where a backoff is made, before @task knows of which task it is."""
    written = sys._getframe(depth)  # noqa: SLF001 (documented)
    return f"{written.f_globals.get('__name__')}, line {written.f_lineno}"


def names_exception(given: object) -> bool:
    """Say whether this is an exception class, or a dotted path of something."""
    if isinstance(given, str):
        return all(part.isidentifier() for part in given.split("."))
    return isinstance(given, type) and issubclass(given, BaseException)


def is_one_of(exception: BaseException, classes: Iterable[type[BaseException] | str]) -> bool:
    for listed in classes:
        found = pydoc.locate(listed) if isinstance(listed, str) else listed
        if not isinstance(found, type) or not issubclass(found, BaseException):
            raise LookupError(f"{listed!r} leads to no exception class")
        if isinstance(exception, found):
            return True
    return False


def seconds(backoff: Backoff, exception: BaseException, result: Result) -> float | None:
    """Ask a backoff how long to wait, None for no further attempt."""
    answer: Any = backoff(exception, result)
    if answer is None:
        return None
    delay = answer.total_seconds() if isinstance(answer, timedelta) else answer
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= LONGEST:
        raise ValueError(f"it returned {shown(answer)}, which is no number of seconds, no timedelta and not None")
    return float(delay)


# What is refused where a task is declared or queued, each in a sentence


def check(options: dict[str, Any], *, travels: bool = False) -> None:
    """Refuse a wrong max_attempts, backoff, timeout or run_after; a backoff that `travels` must be picklable.

    Raises:
        TypeError: If something is of a wrong type.
        ValueError: If something is out of range.
    """
    for name, refuse in CHECKS.items():
        if options.get(name) is not None:
            refuse(name, options[name])
    if travels and options.get("backoff") is not None:
        check_picklable("backoff", options["backoff"])


def number(name: str, value: Any, least: float, most: float = LONGEST) -> None:
    """Refuse what is no number within a range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} {shown(value)} is no number, such as 30.")
    if not least <= value <= most:
        raise ValueError(f"{name} {shown(value)} is not between {least:g} and {most:,.0f}.")


def check_max_attempts(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} {shown(value)} is no whole number, such as 3.")
    if value < 0:
        raise ValueError(f"{name} {value} is negative; write 1 or more, or 0 for no limit.")


def check_timeout(name: str, value: Any) -> None:
    number(name, value, 0)
    if value == 0:
        raise ValueError(f"{name} 0 leaves no time; write a number of seconds, or None for the cluster's own.")


def check_run_after(name: str, value: Any) -> None:
    if not isinstance(value, datetime):
        raise TypeError(f"{name} {shown(value)} is no datetime, such as timezone.now() + timedelta(minutes=5).")
    if timezone.is_naive(value):
        raise ValueError(f"{name} {value} has no time zone; write one such as timezone.now() + timedelta(minutes=5).")
    if (value - timezone.now()).total_seconds() > LONGEST:
        raise ValueError(f"{name} {value} is more than ten years away; write an earlier moment.")


def check_backoff(name: str, value: Any) -> None:
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} {shown(value)} cannot be called; write one such as exponential(first=5).")
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"{name} {shown(value)} is asynchronous; write `def`, and return seconds.")
    try:
        inspect.signature(value).bind(None, None)
    except TypeError:
        raise TypeError(f"{name} {shown(value)} does not take two arguments: the exception and the result.") from None
    except ValueError:  # of what is written in C, which does not tell
        return


def check_picklable(name: str, value: Any) -> None:
    """Refuse what does not arrive at a worker."""
    try:
        pickle.dumps(value)
    except Exception as error:
        advice = "write a function at the top of a module, or exponential()"
        raise ValueError(f"{name} {shown(value)} cannot be pickled, so no worker would get it; {advice}.") from error
    if getattr(value, "__module__", "") == "__main__":
        raise ValueError(f"{name} {shown(value)} is of __main__, where no worker finds it; move it into a module.")


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "max_attempts": check_max_attempts,
    "backoff": check_backoff,
    "timeout": check_timeout,
    "run_after": check_run_after,
}


def shown(value: object, most: int = 80) -> str:
    """Return a value as a sentence can hold it."""
    try:
        text = repr(value)
    except Exception:  # whatever a class's own __repr__ raises, or that of what is nested too deeply
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else f"{text[: most - 3]}..."


DEFAULT = Exponential(first=10, factor=4)  #: for tasks without a backoff of their own: 10 s, 40 s, …
