"""The table of tasks of which an attempt has failed, in the database that holds django-q2's results."""

from typing import Any

from django.db import migrations, models, router
from django.db.models import Model


class CreateBesideResults(migrations.CreateModel):
    """Creates a table wherever django-q2's results are: a router may know where that is, and nothing of this table."""

    def allow_migrate_model(self, connection_alias: Any, model: type[Model]) -> bool:
        """Say whether the table of results belongs there."""
        results = model._meta.apps.get_model("django_q", "Task")  # noqa: SLF001 (part of Django's interface)
        return router.allow_migrate_model(connection_alias, results)


class Migration(migrations.Migration):
    """Create the table, and the admin's list of those that will be tried again."""

    dependencies = [
        ("worker", "0003_schedule_state"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]
    operations = [
        CreateBesideResults(
            name="Failure",
            fields=[
                ("task", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("attempts", models.IntegerField()),
                ("max_attempts", models.IntegerField()),
                ("next_try", models.DateTimeField(db_index=True, null=True)),
                ("exception", models.CharField(max_length=256)),
                ("reason", models.CharField(max_length=256)),
                ("errors", models.JSONField()),
                ("options", models.TextField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="WaitingTask",
            fields=[],
            options={
                "verbose_name": "Task to be tried again",
                "verbose_name_plural": "Tasks to be tried again",
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("django_q.task",),
        ),
    ]
