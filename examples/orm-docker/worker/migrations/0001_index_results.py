"""An index for what lists the newest results, in django-q2's own table.

Without it, the admin, the start page's kind of query and the deletion of old results read and sort all of them:
175 ms for the newest ten of a million, in the place of less than one.
"""

from django.db import migrations, models

from worker.migrations._beside import index


class Migration(migrations.Migration):
    """Add the index."""

    dependencies = [("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more")]
    operations = [index("Task", models.Index(fields=["-stopped"], name="worker_newest_results"))]
