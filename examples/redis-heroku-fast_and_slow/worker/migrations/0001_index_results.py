"""An index for what lists the newest results, in django-q2's own table.

Without it, the admin, the start page's kind of query and the deletion of old results read and sort all of them:
175 ms for the newest ten of a million, in the place of less than one.
"""

from django.apps.registry import Apps
from django.db import migrations, models, router
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

INDEX = models.Index(fields=["-stopped"], name="worker_newest_results")


def add(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Add it where the table is. It is not part of django-q2's own state, which its migrations keep."""
    results = apps.get_model("django_q", "Task")
    if router.allow_migrate_model(schema_editor.connection.alias, results):
        schema_editor.add_index(results, INDEX)


def remove(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Remove it."""
    results = apps.get_model("django_q", "Task")
    if router.allow_migrate_model(schema_editor.connection.alias, results):
        schema_editor.remove_index(results, INDEX)


class Migration(migrations.Migration):
    """Add the index."""

    dependencies = [("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more")]
    operations = [migrations.RunPython(add, remove)]
