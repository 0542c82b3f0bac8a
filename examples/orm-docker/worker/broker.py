"""The broker: tasks wait in the project's own database."""

from django.db.models import QuerySet
from django_q.brokers.orm import ORM
from django_q.models import OrmQ


class Broker(ORM):  # type: ignore[misc]
    """django-q2's, in the order in which tasks came: 1.11.1 asks for none, and PostgreSQL keeps none by itself."""

    @staticmethod
    def get_connection(list_key: str | None = None) -> QuerySet[OrmQ]:
        """Return the queue's rows, the oldest first."""
        rows: QuerySet[OrmQ] = ORM.get_connection(list_key)
        return rows.order_by("id")
