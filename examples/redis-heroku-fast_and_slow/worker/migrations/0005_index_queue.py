"""An index for claims, in django-q2's own table: what is due comes before what waits, and the rest is passed over.

Without it, a claim would read and sort the whole queue: 0.4 s for a million tasks, in the place of a millisecond.
"""

from django.apps.registry import Apps
from django.db import migrations, models, router
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

INDEX = models.Index(fields=["key", "lock", "id"], name="worker_queue")


def add(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Add it where the table is. It is not part of django-q2's own state, which its migrations keep."""
    queue = apps.get_model("django_q", "OrmQ")
    if router.allow_migrate_model(schema_editor.connection.alias, queue):
        schema_editor.add_index(queue, INDEX)


def remove(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Remove it."""
    queue = apps.get_model("django_q", "OrmQ")
    if router.allow_migrate_model(schema_editor.connection.alias, queue):
        schema_editor.remove_index(queue, INDEX)


class Migration(migrations.Migration):
    """Add the index."""

    dependencies = [("worker", "0004_failure")]
    operations = [migrations.RunPython(add, remove)]
