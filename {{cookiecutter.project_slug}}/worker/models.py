"""What is kept about tasks beside django-q2's own tables."""

from django.db import models

from worker import enqueue  # noqa: F401 (before any other app's models, which may import django-q2's async_task)


class Lapse(models.Model):
    """How often the lease of a task has run out: nobody said what became of the task, so it may have ended its cluster.

    Only where tasks wait in the database is anything kept here, in the database of Q_CLUSTER's `orm`, beside the queue:
    other brokers count by themselves. Most tasks never have a row. It goes with the task.
    """

    task = models.BigIntegerField(primary_key=True)  # the id of the row in django-q2's queue, which is never used again
    times = models.IntegerField()

    def __str__(self) -> str:
        """Return what it says."""
        return f"task {self.task}: {self.times}"


class ScheduleState(models.Model):
    """What is known of a schedule beside its row in django-q2's table, in the same database."""

    schedule = models.BigIntegerField(primary_key=True)  # the id of that row
    # Of those that are declared in code, whatever somebody does to the row; None for others.
    name = models.CharField(max_length=100, null=True, unique=True)  # noqa: DJ001 (many may have none)
    receipt = models.CharField(max_length=100, default="")  # what the broker knows its last task by
    queued = models.DateTimeField(null=True)  # when that was

    def __str__(self) -> str:
        """Return what it says."""
        return f"schedule {self.schedule}: {self.name or self.receipt}"
