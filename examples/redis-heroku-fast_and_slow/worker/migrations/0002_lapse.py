"""The table that counts how often the lease of a task has run out, in the database that holds the queue."""

from typing import Any

from django.db import migrations, models, router
from django.db.models import Model


class CreateBesideQueue(migrations.CreateModel):
    """Creates a table wherever django-q2's queue is: a router may know where that is, and nothing of this table."""

    def allow_migrate_model(self, connection_alias: Any, model: type[Model]) -> bool:
        """Say whether the queue's table belongs there."""
        queue = model._meta.apps.get_model("django_q", "OrmQ")  # noqa: SLF001 (part of Django's interface)
        return router.allow_migrate_model(connection_alias, queue)


class Migration(migrations.Migration):
    """Create the table."""

    dependencies = [
        ("worker", "0001_index_results"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]
    operations = [
        CreateBesideQueue(
            name="Lapse",
            fields=[
                ("task", models.BigIntegerField(primary_key=True, serialize=False)),
                ("times", models.IntegerField()),
            ],
        )
    ]
