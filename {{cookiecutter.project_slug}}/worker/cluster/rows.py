"""Statements on django-q2's table of results that Django has no words for."""

from typing import Any

from django.db import connections
from django.db.models.expressions import RawSQL
from django_q.models import Task as Model

from worker.cluster.packages import FIELDS, Row, moment


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
            {name: adapt(moment(getattr(row, name))) for name in ("started", "stopped")} for row in rows
        ]
        values = [(*row._replace(**time), 1) for row, time in zip(rows, times, strict=True)]
        cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)  # noqa: S608 (names of Django's)
