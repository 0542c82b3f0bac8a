"""Lines of the log: the keys by which they are found, and what they look like.

LOGGING names what is here while Django begins, so nothing here needs settings or apps.
"""

import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from pythonjsonlogger.json import JsonFormatter

REQUEST_ID = re.compile(r"[\w.+/=-]{1,64}", re.ASCII)  #: one that a client may choose, and a log can bear
SHORT = 16  #: characters of a task's id in a text, which `queue retry` and `queue cancel` take for all of it
COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}  #: of ANSI

_around: ContextVar[Mapping[str, Any]] = ContextVar("around", default={})  # noqa: B039 (nobody changes it)
here: Mapping[str, Any] = {}  #: of the task that a worker has: its threads, too, which have no context of its


def known() -> Mapping[str, Any]:
    """Return what is known of the request or task that goes on here, by the keys of its lines."""
    return _around.get() or here


@contextmanager
def around(**keys: Any) -> Iterator[None]:
    """Let each line of what comes have these keys."""
    token = _around.set({**known(), **keys})
    try:
        yield
    finally:
        _around.reset(token)


def request_id(given: str = "") -> str:
    """Return the id of a request: the one that it came with, if that can be used, else a new one."""
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


class Keys(logging.Filter):
    """Gives each line what is known, unless the line says otherwise itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        for key, value in known().items():
            record.__dict__.setdefault(key, value)
        return True


class Text(logging.Formatter):
    """Short lines for people, with colours on a terminal."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        wanted = sys.stdout.isatty() or os.environ.get("FORCE_COLOR")
        self.is_coloured = bool(wanted) and not os.environ.get("NO_COLOR")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the traceback, if there is one."""
        text = super().format(record)
        line, end, rest = text.partition("\n")
        key = str(getattr(record, "task_id", ""))
        if key and key not in line:
            text = f"{line} [{key[:SHORT]}]{end}{rest}"
        if more := getattr(record, "traceback", ""):
            text = f"{text}\n{more}"
        if self.is_coloured and (colour := COLOURS.get(record.levelno)):
            text = f"\033[{colour}m{record.levelname}\033[0m{text.removeprefix(record.levelname)}"
        return text.encode(errors="replace").decode()  # halves of characters, for which no stream has bytes


class Json(JsonFormatter):
    """An object a line, for machines."""

    def __init__(self) -> None:
        fields = "%(levelname)s %(name)s %(process)d %(message)s"
        strict = partial(json.dumps, allow_nan=False)  # NaN is Python's own, and makes others refuse all of the line
        super().__init__(fields, timestamp=True, rename_fields={"exc_info": "traceback"}, json_serializer=strict)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return the line, without halves of characters, which make others refuse all of it."""
        try:
            line: str = super().jsonify_log_record(log_data)
        except (TypeError, ValueError, RecursionError):
            line = super().jsonify_log_record({_text(key): self.bearable(it) for key, it in log_data.items()})
        if "\\ud" in line:
            line = json.dumps(json.loads(json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace")))
        return line

    def bearable(self, value: Any) -> Any:
        """Return a value of an extra, or its text if JSON has none for it."""
        try:
            super().jsonify_log_record({"": value})
        except (TypeError, ValueError, RecursionError):
            return _text(value)
        return value


def _text(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as error:  # of a number of 5,000 digits, say
        return f"{type(value).__name__}: {type(error).__name__}"
