"""Changes of this app's tables, and indices of django-q2's: all are where django-q2's table is, as a router says.

A later release that changes one of the tables wraps its operation in `beside`, or it would run in another database too.
"""

from typing import Any

from django.db import migrations, models, router
from django.db.migrations.operations.base import Operation


def beside(model: str, operation: Operation) -> Operation:
    """Let an operation run where a model of django-q2's is: a router may know of that, and nothing of this app."""

    def allow(alias: Any, own: Any) -> bool:
        return router.allow_migrate_model(alias, own._meta.apps.get_model("django_q", model))  # noqa: SLF001

    operation.allow_migrate_model = allow  # type: ignore[assignment]
    return operation


def index(model: str, index: models.Index) -> Operation:
    """Add an index to a table of django-q2's, and not to its state, which its own migrations keep."""

    def change(action: str) -> Any:
        def run(apps: Any, schema_editor: Any) -> None:
            table = apps.get_model("django_q", model)
            if router.allow_migrate_model(schema_editor.connection.alias, table):
                getattr(schema_editor, action)(table, index)

        return run

    return migrations.RunPython(change("add_index"), change("remove_index"))
