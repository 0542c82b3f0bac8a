"""The table of failures, which is beside that of results, and written in the same transaction."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from time import localtime, strftime
from typing import NamedTuple

from django.conf import settings
from django.db import connections
from django.db.models import Exists, OuterRef
from django.db.models.constants import OnConflict

from worker.models import Failure
from worker.policy import Cancelled

CANCELLED = f"{Cancelled.__module__}.{Cancelled.__qualname__}"  #: what is kept of a task that somebody has cancelled
CANCELLED_BY = "Cancelled by "  #: begins the reason why it has failed
OVERDUE = timedelta(hours=1)  #: after which a task that was to be tried again may have been lost with its queue
TOGETHER = 100  #: rows in one statement: SQLite may know no more than 999 parameters
COLUMNS = {field.name: str(field.column) for field in Failure._meta.concrete_fields}  # noqa: SLF001 (a documented part of models)


class Failed(NamedTuple):
    """A row, as texts and numbers that the database takes."""

    task: str
    attempts: int
    max_attempts: int
    next_try: float | None
    exception: str
    reason: str
    errors: str  #: JSON
    options: str | None


def moment(when: float) -> datetime:
    """Return a time as Django has it."""
    return datetime.fromtimestamp(when, UTC if settings.USE_TZ else None)


def ordinal(attempts: int, most: int) -> str:
    """Return which attempt has failed."""
    return f"{attempts} of {most}" if most else str(attempts)


def clock(when: float) -> str:
    """Return a time by the clock of the log, with the day unless that is today."""
    at, now = localtime(when), localtime()
    return strftime("%H:%M:%S" if at[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", at)


def stage(attempts: int, most: int, next_try: float | None) -> str:
    """Return which attempt has failed, and when the next one is."""
    return f"attempt {ordinal(attempts, most)}, {f'next at {clock(next_try)}' if next_try else 'no further one'}"


def write(rows: Collection[Failed], using: str) -> None:
    """Write rows, new ones and those of tasks that have failed before. No model is made: there may be listeners."""
    connection = connections[using]
    quote, adapt = connection.ops.quote_name, connection.ops.adapt_datetimefield_value
    table, columns = quote(Failure._meta.db_table), ", ".join(map(quote, COLUMNS.values()))  # noqa: SLF001
    has_target = connection.features.supports_update_conflicts_with_target
    keys = [COLUMNS["task"]] if has_target else []
    others = [column for name, column in COLUMNS.items() if name != "task"]
    on_conflict = connection.ops.on_conflict_suffix_sql([*COLUMNS], OnConflict.UPDATE, others, keys)
    row_of_marks = f"({', '.join(['%s'] * len(COLUMNS))})"
    ordered = sorted(rows, key=lambda row: row.task)  # so that two clusters do not wait for each other
    with connection.cursor() as cursor:
        for begin in range(0, len(ordered), TOGETHER):
            some = ordered[begin : begin + TOGETHER]
            values = [
                value
                for row in some
                for value in row._replace(next_try=row.next_try and adapt(moment(row.next_try)))  # type: ignore[arg-type]
            ]
            marks = ", ".join([row_of_marks] * len(some))
            cursor.execute(f"INSERT INTO {table} ({columns}) VALUES {marks} {on_conflict}", values)  # noqa: S608


def end(ids: Collection[str], using: str) -> None:
    """Note that there will be no further attempt of tasks that have failed before."""
    if ids:
        Failure.objects.using(using).filter(pk__in=ids, next_try__isnull=False).update(next_try=None)


def delete(ids: Collection[str], using: str) -> None:
    """Delete the rows of tasks whose results are deleted."""
    if ids:
        Failure.objects.using(using).filter(pk__in=ids)._raw_delete(using)  # noqa: SLF001 (reads no row)


def is_waiting() -> Exists:
    """Say of a row of django-q2's results whether the task has failed and will be tried again."""
    return Exists(Failure.objects.filter(task=OuterRef("pk"), next_try__isnull=False))
