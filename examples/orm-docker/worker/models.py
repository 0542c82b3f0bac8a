"""What is kept about tasks beside django-q2's own tables."""

from django.db import models
from django.utils.translation import gettext_lazy as _
from django_q.models import Task

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


class Failure(models.Model):
    """A task of which an attempt has failed, beside its result in django-q2's table, in the same database.

    It stays when a later attempt succeeds, and goes with the result. A task has failed for good if its result is no
    success, and there is no `next_try` here.
    """

    task = models.CharField(max_length=32, primary_key=True)  # django-q2's id of the task
    attempts = models.IntegerField()  # that have failed
    max_attempts = models.IntegerField()  # 0 for no limit
    next_try = models.DateTimeField(null=True, db_index=True)  # None if there will be no further attempt
    exception = models.CharField(max_length=256)  # the dotted path of the last one's class
    reason = models.CharField(max_length=256)  # in one line
    #: a dict for each attempt: exception_class_path, traceback, worker, started, stopped (None where unknown)
    errors = models.JSONField()
    options = models.TextField(null=True)  # noqa: DJ001 (pickled: what "resubmit" needs once there is no next_try)

    def __str__(self) -> str:
        """Return what it says."""
        return f"{self.task}: {self.reason}"


class WaitingTask(Task):  # type: ignore[misc]
    """A task that has failed and will be tried again, for the admin."""

    class Meta:
        """Names."""

        proxy = True
        verbose_name = _("Task to be tried again")
        verbose_name_plural = _("Tasks to be tried again")
