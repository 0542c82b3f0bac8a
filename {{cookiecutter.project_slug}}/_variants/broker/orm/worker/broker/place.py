"""Whether the setting `orm` names a database that can hold the queue."""

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django_q.conf import Conf
from django_q.models import OrmQ

from worker.processes import did_you_mean


def check_place() -> None:
    """Look whether the database is there, and hands out each task once; it is not asked."""
    if Conf.ORM not in settings.DATABASES:
        problem = f"which DATABASES does not have. {did_you_mean(str(Conf.ORM), settings.DATABASES)}"
    elif (vendor := connections[Conf.ORM].vendor) not in {"postgresql", "sqlite"}:
        problem = f"a database of {vendor}, where two workers would run a task twice: name one of PostgreSQL or SQLite."
    elif not router.allow_migrate_model(Conf.ORM, OrmQ):
        problem = "and a router keeps the queue's table out of it: name the one that its allow_migrate() answers."
    else:
        return
    raise ImproperlyConfigured(f"Q_CLUSTER['orm'] is {Conf.ORM!r}, {problem}")
