"""What is in the queue, as far as SQS tells."""

import os
from collections.abc import Iterator
from typing import Any

from boto3 import Session
from django_q.brokers.aws_sqs import Sqs

from worker.broker.queues import OutageError, clients, queue_url
from worker.delivery import Depth


class Contents(Sqs):  # type: ignore[misc]
    """The queue, for those who look at it and empty it."""

    queue: str  #: its URL

    @staticmethod
    def get_connection(list_key: str | None = None) -> Session | None:
        """Return nothing: clients() has this process's session."""
        return None

    def get_queue(self) -> str:
        return queue_url(os.getpid(), self.list_key)

    @property
    def client(self) -> Any:
        """The client for what may be done twice."""
        return clients(os.getpid())[0]

    @staticmethod
    def receipt_of(receipt: str) -> str:
        """Return nothing: a receipt does not tell the id of its message."""
        return ""

    @staticmethod
    def peek(receipt: str) -> None:
        """Return nothing: SQS cannot be asked for a message."""

    @staticmethod
    def payloads(most: int) -> Iterator[tuple[str, str]]:
        """Yield nothing: SQS cannot be asked for messages without handing them out."""
        return iter(())

    def depth(self, most: int | None = None) -> Depth:
        """Return about how much is in the queue: what is hidden until a later attempt counts as taken."""
        found = self.attributes()
        kinds = ("", "Delayed", "NotVisible")
        waiting, due, taken = (int(found[f"ApproximateNumberOfMessages{kind}"]) for kind in kinds)
        return Depth(waiting, due, taken, None)

    @staticmethod
    def remove(receipt: str) -> bool:
        """Return False: SQS deletes only what it has handed out."""
        return False

    def purge(self) -> int:
        """Remove all tasks within a minute, also those that clusters hold; return about how many wait no more."""
        depth = self.depth()
        try:
            self.purge_queue()
        except self.client.exceptions.PurgeQueueInProgress as error:
            raise OutageError(code="that it empties a queue at most once a minute: try again in a minute") from error
        return depth.waiting + depth.due

    def attributes(self) -> Any:
        """Ask the server what it knows of the queue."""
        return self.client.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["All"])["Attributes"]

    def purge_queue(self) -> None:
        """Remove all tasks, within a minute."""
        self.client.purge_queue(QueueUrl=self.queue)

    def delete_queue(self) -> None:
        """Remove the queue, but not what SQS has set aside."""
        self.client.delete_queue(QueueUrl=self.queue)
        queue_url.cache_clear()

    def ping(self) -> bool:
        """Ask the queue for an answer; upstream's asks only what boto3 knows."""
        return bool(self.attributes())
