"""The table that counts how often the lease of a task has run out, in the database that holds the queue."""

from django.db import migrations, models

from worker.migrations._beside import beside


class Migration(migrations.Migration):
    """Create the table."""

    dependencies = [
        ("worker", "0001_index_results"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]
    operations = [
        beside(
            "OrmQ",
            migrations.CreateModel(
                name="Lapse",
                fields=[
                    ("task", models.BigIntegerField(primary_key=True, serialize=False)),
                    ("times", models.IntegerField()),
                ],
            ),
        )
    ]
