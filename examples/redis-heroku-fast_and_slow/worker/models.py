"""What is kept about tasks beside django-q2's own tables."""

from django.db import models
from django.utils.translation import gettext_lazy as _
from django_q.models import Task

from worker import enqueue  # noqa: F401 (before any other app's models, which may import django-q2's async_task)

#: seconds up to which runs and waits are told apart; what is longer than the last comes after them. Rows of Tally have
#: a number for each, so another list needs a migration of those.
BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)


class Lapse(models.Model):
    """How often the lease of a task has run out: nobody said what became of the task, so it may have ended its cluster.

    Only where tasks wait in the database is anything kept here, in the database of Q_CLUSTER's `orm`, beside the queue:
    other brokers count by themselves. Most tasks never have a row. It goes with the task.
    """

    task = models.BigIntegerField(primary_key=True)  # the id of the row in django-q2's queue, which is never used again
    times = models.IntegerField()

    def __str__(self) -> str:
        return f"task {self.task}: {self.times}"


class ScheduleState(models.Model):
    """What is known of a schedule beside its row in django-q2's table, in the same database."""

    schedule = models.BigIntegerField(primary_key=True)  # the id of that row
    # Of those that are declared in code, whatever somebody does to the row; None for others.
    name = models.CharField(max_length=100, null=True, unique=True)  # noqa: DJ001 (many may have none)
    receipt = models.CharField(max_length=100, default="")  # what the broker knows its last task by
    queued = models.DateTimeField(null=True)  # when that was

    def __str__(self) -> str:
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
        return f"{self.task}: {self.reason}"


class Cluster(models.Model):
    """A cluster that runs, or did lately, beside the results: its agent writes the row, and removes it at a stop."""

    id = models.UUIDField(primary_key=True)
    name = models.CharField(max_length=100)  # of the cluster
    host = models.CharField(max_length=255)
    pid = models.IntegerField()  # of its main process
    since = models.DateTimeField()
    seen = models.DateTimeField()  # when the row was last written, by the database's clock
    lost = models.DateTimeField(null=True)  # when somebody found that it does not answer; None if it does
    state = models.JSONField()  # what worker.queue.state.ClusterState has beside these

    def __str__(self) -> str:
        return f"cluster {self.name} on {self.host}:{self.pid}"


class Pause(models.Model):
    """A cluster's queue of which nothing is begun for the time being."""

    cluster = models.CharField(max_length=100, primary_key=True)
    since = models.DateTimeField()
    by = models.CharField(max_length=254)

    def __str__(self) -> str:
        return f"{self.by} has paused {self.cluster}"


class Cancellation(models.Model):
    """A task that is not to run, or not to go on; it goes once that is so."""

    task = models.CharField(max_length=32, primary_key=True)  # django-q2's id of the task
    since = models.DateTimeField()
    by = models.CharField(max_length=254)

    def __str__(self) -> str:
        return f"{self.by} has cancelled {self.task}"


class Tally(models.Model):
    """How many attempts have ended in a way, since ever, and how long they took."""

    id = models.BigAutoField(primary_key=True)
    cluster = models.CharField(max_length=100)
    func = models.CharField(max_length=256)
    outcome = models.CharField(max_length=16)  # successful, failed (for good), retried, set_aside or cancelled
    count = models.BigIntegerField()
    ran = models.FloatField()  # seconds, of all together
    waited = models.FloatField()  # seconds from when they might have begun
    ran_buckets = models.JSONField()  # a list: how many are in each of BUCKETS, and after the last; not cumulated
    waited_buckets = models.JSONField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cluster", "func", "outcome"], name="worker_one_tally")]

    def __str__(self) -> str:
        return f"{self.cluster}: {self.count} of {self.func} {self.outcome}"


class Minute(models.Model):
    """How many tasks of a cluster have ended in a minute of the last hour."""

    id = models.BigAutoField(primary_key=True)
    cluster = models.CharField(max_length=100)
    minute = models.DateTimeField()  # when it began
    done = models.IntegerField()
    failed = models.IntegerField()  # for good

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cluster", "minute"], name="worker_one_minute")]

    def __str__(self) -> str:
        return f"{self.cluster}, {self.minute}: {self.done} done, {self.failed} failed"


class WaitingTask(Task):  # type: ignore[misc]
    """A task that has failed and will be tried again, for the admin."""

    class Meta:
        proxy = True
        verbose_name = _("Task to be tried again")
        verbose_name_plural = _("Tasks to be tried again")


class Queue(Task):  # type: ignore[misc]
    """What stands for the page of the queue in the admin's lists."""

    class Meta:
        proxy = True
        default_permissions = ()  # who may see it is said by those of tasks
        verbose_name = _("Queue")
        verbose_name_plural = _("Queue")
