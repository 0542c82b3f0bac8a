"""Statements on django-q2's table of results that Django has no words for."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from sqlite3 import SQLITE_BUSY, SQLITE_FULL, SQLITE_IOERR
from typing import Any

from django.db import connections, transaction
from django.db.models.expressions import RawSQL
from django_q.models import Task as Model

from worker.packages import FIELDS, Row

LOCKED_FOR = 10.0  #: seconds for which somebody else's lock is waited for before that is said


@contextmanager
def patiently(using: str, seconds: float = LOCKED_FOR) -> Iterator[None]:
    """Begin a transaction that fails if somebody locks the table for long: so it is said, and tried again."""
    with transaction.atomic(using):
        if connections[using].vendor == "postgresql":
            with connections[using].cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{seconds * 1000:.0f}ms'")
        yield


def may_be_taken_later(error: BaseException) -> bool:
    """Say whether an error is no row's fault: the database is full, or about to end, or somebody has locked the row."""
    state = getattr(error.__cause__, "sqlstate", None) or ""
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
    return state[:2] in {"40", "53", "55", "57", "58"} or code in {SQLITE_BUSY, SQLITE_FULL, SQLITE_IOERR}


def among(ids: list[str], using: str) -> Any:
    """Return what an id may be: on PostgreSQL as one parameter, of hundreds it takes longer than the query."""
    return RawSQL("SELECT unnest(%s::text[])", [ids]) if connections[using].vendor == "postgresql" else ids


def insert(rows: list[Row], using: str) -> None:
    """Write new rows: by COPY on PostgreSQL, which takes half the time. No model is made: there may be listeners."""
    connection = connections[using]
    if not rows:
        return
    quote, fields = connection.ops.quote_name, [FIELDS[name] for name in (*Row._fields, "attempt_count")]
    table, columns = quote(Model._meta.db_table), ", ".join(quote(field.column) for field in fields)  # noqa: SLF001
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with connection.wrap_database_errors, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as lines:
                for row in rows:
                    lines.write_row((*row, 1))
            return
        adapt, marks = connection.ops.adapt_datetimefield_value, ", ".join(["%s"] * len(fields))
        times: list[dict[str, Any]] = [
            {name: adapt(datetime.fromisoformat(getattr(row, name))) for name in ("started", "stopped")} for row in rows
        ]
        values = [(*row._replace(**time), 1) for row, time in zip(rows, times, strict=True)]
        cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)  # noqa: S608 (names of Django's)


def is_in_transaction(connection: Any) -> bool:
    """Say whether a connection is in a transaction, also in one that Django does not know of."""
    driver = connection.connection  # of psycopg, sqlite3, or another
    status = getattr(getattr(driver, "info", None), "transaction_status", 0)  # PostgreSQL's: 0 is none, 4 unknown
    return connection.in_atomic_block or getattr(driver, "in_transaction", False) or 0 < status < 4
