"""How a change of the schedules is announced to the agents, which sleep until the next one is due.

It is by the broker's server if that can, else by PostgreSQL if the schedules are in it, as part of the transaction.
Where neither is so, agents are told nothing, and look every Q_QUIET seconds.
"""

import logging
import time
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from django.db import connections, router, transaction
from django.db.models.signals import post_save
from django.utils.module_loading import import_string
from django_q.conf import Conf
from django_q.models import Schedule

from worker.delivery import brief

CHANNEL = f"{Conf.PREFIX}:schedules"[:63]  #: PostgreSQL takes no longer one
AGAIN = 5.0  #: seconds until a look while nothing can be heard
GATHER = 0.05  #: seconds in which changes gather, so that there is not a look for each

logger = logging.getLogger("django-q")


def client() -> Any:
    """Return the broker's client if it can announce something, else None; no server is asked."""
    broker = import_string(Conf.BROKER_CLASS)
    return broker.get_connection() if getattr(broker, "publishes", False) else None


def announce(using: str) -> None:
    """Tell all agents that schedules have changed, once the change can be seen."""
    if server := client():
        transaction.on_commit(partial(publish, server), using=using)
    elif connections[using].vendor == "postgresql":
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])


def publish(server: Any) -> None:
    """Tell them by the broker's server; if it is away they find out by themselves."""
    try:
        server.publish(CHANNEL, "")
    except Exception as error:  # of its client
        logger.warning("The change of schedules could not be announced: %s", brief(error))


def on_change(using: str, **signal: Any) -> None:
    """Announce that a schedule was saved; one that was deleted is due to nobody."""
    announce(using)


post_save.connect(on_change, sender=Schedule)


class Listener:
    """Hears of changes; nothing is asked meanwhile."""

    def __init__(self) -> None:
        """Begin without a connection."""
        self.alias = router.db_for_write(Schedule)
        self.subscription: Any = None  #: to what the broker's server announces
        self.listening: Any = None  #: the connection to PostgreSQL that listens

    def listen(self) -> None:
        """Make sure that what changes from now on is heard: before the schedules are looked at."""
        if server := client():
            if self.subscription is None:
                self.subscription = server.pubsub()
                self.subscription.subscribe(CHANNEL)
                self.subscription.get_message(timeout=AGAIN)  # that it is
            return
        database = connections[self.alias]
        if database.vendor != "postgresql" or (self.listening and self.listening is database.connection):
            return
        with database.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            # A pooler, such as PgBouncer, answers with a number of its own: it would hand a notification to nobody.
            if cursor.fetchone() == (database.connection.info.backend_pid,):
                cursor.execute(f'LISTEN "{CHANNEL}"')
        self.listening = database.connection

    def wait(self, seconds: float) -> bool:
        """Return when there may be a change, or so many seconds are over; say whether there is one."""
        try:
            if self.subscription is not None:
                changed = bool(self.subscription.get_message(timeout=seconds))
                if changed:
                    time.sleep(GATHER)
                while self.subscription.get_message(timeout=0):
                    changed = True
                return changed
            if self.listening and self.listening is connections[self.alias].connection:
                changed = bool(list(self.listening.notifies(timeout=0)))  # which came with the answer to the look
                if not changed and wait([self.listening.fileno()], seconds):
                    time.sleep(GATHER)
                    changed = bool(list(self.listening.notifies(timeout=0)))
                return changed
            time.sleep(seconds)
        except Exception as error:  # each client has exceptions of its own
            logger.warning("Changes of schedules are not heard: %s", brief(error))
            if self.subscription is not None:
                self.subscription.close()
            else:
                connections[self.alias].close()
            self.subscription = self.listening = None
            time.sleep(min(seconds, AGAIN))
            return True
        return False
