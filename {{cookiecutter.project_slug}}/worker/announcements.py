"""How the agents, which sleep until a schedule is due, are told of changes, and asked for a sign of life.

It is by the broker's server if that can, else by PostgreSQL if the schedules are in it, as part of the transaction.
Where neither is so, or PostgreSQL is behind a pooler, agents are told nothing, and look by themselves.
"""

import logging
import threading
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

SCHEDULES, ORDERS, SIGNS = "schedules", "orders", "signs"  #: what is announced: changes of these, or who wants them
CHANNEL = f"{Conf.PREFIX}:schedules"[:63]  #: PostgreSQL takes no longer one
AGAIN = 5.0  #: seconds until a look while nothing can be heard
GATHER = 0.05  #: seconds in which changes gather, so that there is not a look for each

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


def announce(using: str, what: str = SCHEDULES) -> None:
    """Tell all agents of a change in this database, once it can be seen."""
    alias = router.db_for_write(Schedule)  # where they listen
    if server := client():
        transaction.on_commit(partial(publish, server, what), using=using)
    elif connections[alias].vendor == "postgresql":
        if alias == using:
            notify(alias, what)
        else:
            transaction.on_commit(partial(notify, alias, what), using=using)


def publish(server: Any, what: str) -> bool:
    """Tell them by the broker's server, and say whether it answers; if it is away they find out by themselves."""
    try:
        server.publish(CHANNEL, what)
    except Exception as error:  # of its client
        logger.warning("The change of %s could not be announced: %s", what, brief(error))
        return False
    return True


def notify(alias: str, what: str) -> None:
    """Tell them by PostgreSQL."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, what])


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
        self.hears = False  #: whether announcements come; other threads ask, too
        self.bell = threading.Event()  #: by which other threads of this process announce orders, if none come

    def listen(self) -> bool:
        """Make sure that what changes from now on is heard; say whether it was not before, and is to be looked at."""
        if server := client():
            if self.subscription is None:
                self.subscription = server.pubsub()
                self.subscription.subscribe(CHANNEL)
                self.subscription.get_message(timeout=AGAIN)  # that it is
                self.hears = True
                return True
            return False
        database = connections[self.alias]
        if database.vendor != "postgresql" or (self.listening and self.listening is database.connection):
            return False
        with database.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            # A pooler, such as PgBouncer, answers with a number of its own: it would hand a notification to nobody.
            self.hears = cursor.fetchone() == (database.connection.info.backend_pid,)
            if self.hears:
                cursor.execute(f'LISTEN "{CHANNEL}"')
        self.listening = database.connection
        return self.hears

    def wait(self, seconds: float) -> set[str]:
        """Return when there may be news, or so many seconds are over, and of what they are."""
        news: set[str] = set()
        try:
            if self.subscription is not None:
                message = self.subscription.get_message(timeout=seconds)
                if message:
                    time.sleep(GATHER)
                while message:
                    is_word = message["type"] == "message"  # else it has subscribed again, and heard nothing meanwhile
                    news |= {message["data"].decode()} if is_word else {SCHEDULES, ORDERS}
                    message = self.subscription.get_message(timeout=0)
            elif self.hears and self.listening is connections[self.alias].connection:
                news |= {
                    each.payload for each in self.listening.notifies(timeout=0)
                }  # came with the answer to the look
                if not news and wait([self.listening.fileno()], seconds):
                    time.sleep(GATHER)
                    news |= {each.payload for each in self.listening.notifies(timeout=0)}
            elif self.bell.wait(seconds):
                self.bell.clear()
                news.add(ORDERS)
        except Exception as error:  # each client has exceptions of its own
            logger.warning("Announcements are not heard: %s", brief(error))
            self.hears = False
            if self.subscription is not None:
                self.subscription.close()
            else:
                connections[self.alias].close()
            self.subscription = self.listening = None
            time.sleep(min(seconds, AGAIN))
            return {SCHEDULES, ORDERS}
        return news
