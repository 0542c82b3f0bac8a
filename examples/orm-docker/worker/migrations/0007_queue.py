"""What stands for the page of the queue in the admin's lists: no table of its own."""

from django.db import migrations


class Migration(migrations.Migration):
    """Note the model."""

    dependencies = [("worker", "0006_signs_and_tallies")]
    operations = [
        migrations.CreateModel(
            name="Queue",
            fields=[],
            options={
                "verbose_name": "Queue",
                "verbose_name_plural": "Queue",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_q.task",),
        ),
    ]
