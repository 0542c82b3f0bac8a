"""The tables of clusters, orders and tallies, in the database that holds the results; an index of those that failed.

Without it, the failures for good would be looked for among all results: a second for a few of a million.
"""

from django.db import migrations, models

from worker.migrations._beside import beside, index


class Migration(migrations.Migration):
    """Create the tables, and add the index."""

    dependencies = [("worker", "0005_index_queue")]
    operations = [
        beside(
            "Task",
            migrations.CreateModel(
                name="Cluster",
                fields=[
                    ("id", models.UUIDField(primary_key=True, serialize=False)),
                    ("name", models.CharField(max_length=100)),
                    ("host", models.CharField(max_length=255)),
                    ("pid", models.IntegerField()),
                    ("since", models.DateTimeField()),
                    ("seen", models.DateTimeField()),
                    ("lost", models.DateTimeField(null=True)),
                    ("state", models.JSONField()),
                ],
            ),
        ),
        *(
            beside(
                "Task",
                migrations.CreateModel(
                    name=name,
                    fields=[
                        (key, models.CharField(max_length=length, primary_key=True, serialize=False)),
                        ("since", models.DateTimeField()),
                        ("by", models.CharField(max_length=254)),
                    ],
                ),
            )
            for name, key, length in (("Pause", "cluster", 100), ("Cancellation", "task", 32))
        ),
        beside(
            "Task",
            migrations.CreateModel(
                name="Tally",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("cluster", models.CharField(max_length=100)),
                    ("func", models.CharField(max_length=256)),
                    ("outcome", models.CharField(max_length=16)),
                    ("count", models.BigIntegerField()),
                    ("ran", models.FloatField()),
                    ("waited", models.FloatField()),
                    ("ran_buckets", models.JSONField()),
                    ("waited_buckets", models.JSONField()),
                ],
                options={
                    "constraints": [
                        models.UniqueConstraint(fields=["cluster", "func", "outcome"], name="worker_one_tally")
                    ]
                },
            ),
        ),
        beside(
            "Task",
            migrations.CreateModel(
                name="Minute",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("cluster", models.CharField(max_length=100)),
                    ("minute", models.DateTimeField()),
                    ("done", models.IntegerField()),
                    ("failed", models.IntegerField()),
                ],
                options={
                    "constraints": [models.UniqueConstraint(fields=["cluster", "minute"], name="worker_one_minute")]
                },
            ),
        ),
        index(
            "Task",
            models.Index(fields=["-stopped"], name="worker_failed_results", condition=models.Q(success=False)),
        ),
    ]
