"""How the agents, which sleep until a schedule is due, are told of changes, and asked for a sign of life.

It is by the broker's server if that can, else by PostgreSQL if the schedules are in it, as part of the transaction.
Where neither is so, or PostgreSQL is behind a pooler, agents are told nothing, and look by themselves.
"""

import logging
from functools import partial
from typing import Any

from django.db import connections, router, transaction
from django.db.models.signals import post_save
from django.utils.module_loading import import_string
from django_q.conf import Conf
from django_q.models import Schedule

from worker.delivery import brief
from worker.single_flight import LIMIT, SingleFlight

SCHEDULES, ORDERS, SIGNS = "schedules", "orders", "signs"  #: what is announced: changes of these, or who wants them
CHANNEL = f"{Conf.PREFIX}:schedules"[:63]  #: PostgreSQL takes no longer one

logger = logging.getLogger("django-q")


def client() -> Any:
    """Return the broker's client if it can announce something, else None; no server is asked."""
    broker = import_string(Conf.BROKER_CLASS)
    return broker.get_connection() if getattr(broker, "publishes", False) else None


def ask(what: str) -> bool:
    """Tell all agents at once, outside of a transaction; say whether this could be announced."""
    alias = router.db_for_write(Schedule)  # where they listen
    if server := client():
        return publish(server, what)
    if connections[alias].vendor == "postgresql":
        notify(alias, what)
    return True


def announce(using: str, what: str = SCHEDULES) -> bool:
    """Tell all agents of a change in this database, once it can be seen; say whether it could be, as far as known."""
    alias = router.db_for_write(Schedule)  # where they listen
    if server := client():
        if not connections[using].in_atomic_block:
            return publish(server, what)
        transaction.on_commit(partial(publish, server, what), using=using)
    elif connections[alias].vendor == "postgresql":
        if alias == using:
            notify(alias, what)
        else:
            transaction.on_commit(partial(notify, alias, what), using=using)
    return True


def publish(server: Any, what: str) -> bool:
    """Tell them by the broker's server, and say whether it answers; if it is away they find out by themselves."""
    try:
        SingleFlight(partial(server.publish, CHANNEL, what)).tell(LIMIT)
    except Exception as error:  # of its client
        logger.warning("The change of %s could not be announced: %s", what, brief(error))
        return False
    return True


def notify(alias: str, what: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, what])


def on_change(using: str, **signal: Any) -> None:
    """Announce that a schedule was saved; one that was deleted is due to nobody."""
    announce(using)


post_save.connect(on_change, sender=Schedule)
