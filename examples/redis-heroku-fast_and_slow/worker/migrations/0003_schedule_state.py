"""The table of what is known of schedules, in the database that holds them."""

from django.db import migrations, models

from worker.migrations._beside import beside


class Migration(migrations.Migration):
    """Create the table."""

    dependencies = [("worker", "0002_lapse")]
    operations = [
        beside(
            "Schedule",
            migrations.CreateModel(
                name="ScheduleState",
                fields=[
                    ("schedule", models.BigIntegerField(primary_key=True, serialize=False)),
                    ("name", models.CharField(max_length=100, null=True, unique=True)),
                    ("receipt", models.CharField(default="", max_length=100)),
                    ("queued", models.DateTimeField(null=True)),
                ],
            ),
        )
    ]
