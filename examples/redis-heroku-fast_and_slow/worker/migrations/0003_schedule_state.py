"""The table of what is known of schedules, in the database that holds them."""

from typing import Any

from django.db import migrations, models, router
from django.db.models import Model


class CreateBesideSchedules(migrations.CreateModel):
    """Creates a table where django-q2's schedules are: a router may know of them, and nothing of this table."""

    def allow_migrate_model(self, connection_alias: Any, model: type[Model]) -> bool:
        """Say whether the table of schedules belongs there."""
        schedules = model._meta.apps.get_model("django_q", "Schedule")  # noqa: SLF001 (part of Django's interface)
        return router.allow_migrate_model(connection_alias, schedules)


class Migration(migrations.Migration):
    """Create the table."""

    dependencies = [("worker", "0002_lapse")]
    operations = [
        CreateBesideSchedules(
            name="ScheduleState",
            fields=[
                ("schedule", models.BigIntegerField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=100, null=True, unique=True)),
                ("receipt", models.CharField(default="", max_length=100)),
                ("queued", models.DateTimeField(null=True)),
            ],
        )
    ]
