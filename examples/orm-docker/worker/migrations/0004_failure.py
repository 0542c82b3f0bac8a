"""The table of tasks of which an attempt has failed, in the database that holds django-q2's results."""

from django.db import migrations, models

from worker.migrations._beside import beside


class Migration(migrations.Migration):
    """Create the table, and the admin's list of those that will be tried again."""

    dependencies = [
        ("worker", "0003_schedule_state"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]
    operations = [
        beside(
            "Task",
            migrations.CreateModel(
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
