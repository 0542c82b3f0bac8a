"""The broker: tasks wait in an Amazon SQS queue, which is created when it is first used."""

from django.conf import settings
from django_q.brokers.aws_sqs import Sqs
from django_q.conf import Conf


class Broker(Sqs):  # type: ignore[misc]
    """django-q2's, with queue names that hold the project's, and sizes that are asked for anew."""

    def __init__(self, list_key: str | None = None) -> None:
        """Serve the queue of this cluster."""
        cluster = list_key or Conf.CLUSTER_NAME
        queue = settings.SQS_QUEUE_NAME or Conf.PREFIX
        super().__init__(queue if cluster == Conf.PREFIX else f"{queue}-{cluster}")

    def queue_size(self) -> int:
        """Return the number of waiting tasks; upstream's keeps the first answer for ever (1.11.1)."""
        self.queue.reload()
        return int(super().queue_size())

    def lock_size(self) -> int:
        """Return the number of tasks that are taken and not yet done."""
        self.queue.reload()
        return int(super().lock_size())

    def ping(self) -> bool:
        """Ask the queue for an answer; upstream's asks only what boto3 knows."""
        self.queue.reload()
        return True
