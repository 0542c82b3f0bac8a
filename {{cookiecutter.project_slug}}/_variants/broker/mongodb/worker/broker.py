"""The broker: tasks wait in a MongoDB collection."""

from datetime import UTC, datetime

from django_q.brokers.mongo import Mongo

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Broker(Mongo):  # type: ignore[misc]
    """django-q2's, whose tasks can be taken at once by any cluster, and whose ping asks the server."""

    def enqueue(self, task: str) -> str:
        """Add a task.

        Upstream dates it back by the `retry` of the process that adds it, so that a cluster with a longer one
        waits for the difference (1.11.1).
        """
        return str(self.collection.insert_one({"payload": task, "lock": LONG_AGO}).inserted_id)

    def ping(self) -> bool:
        """Ask the server for an answer; upstream's asks nobody."""
        return bool(self.connection.admin.command("ping")["ok"])
