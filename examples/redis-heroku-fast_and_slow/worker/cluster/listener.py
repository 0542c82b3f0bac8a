"""How an agent hears what is announced; nothing is asked meanwhile."""

import logging
import threading
import time
from multiprocessing.connection import wait
from typing import Any

from django.db import connections, router
from django_q.models import Schedule

from worker import announcements
from worker.announcements import ORDERS, SCHEDULES
from worker.delivery import brief

AGAIN = 5.0  #: seconds until a look while nothing can be heard
GATHER = 0.05  #: seconds in which changes gather, so that there is not a look for each

logger = logging.getLogger("django-q")


class Listener:
    def __init__(self) -> None:
        self.alias = router.db_for_write(Schedule)
        self.subscription: Any = None  #: to what the broker's server announces
        self.listening: Any = None  #: the connection to PostgreSQL that listens
        self.hears = False  #: whether announcements come; other threads ask, too
        self.bell = threading.Event()  #: by which other threads of this process announce orders, if none come

    def listen(self) -> bool:
        """Make sure that what changes from now on is heard; say whether it was not before, and is to be looked at."""
        if server := announcements.client():
            if self.subscription is None:
                subscription = server.pubsub()
                subscription.subscribe(announcements.CHANNEL)
                subscription.get_message(timeout=AGAIN)  # that it is
                self.subscription, self.hears = subscription, True  # not before: it would be taken for one
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
                cursor.execute(f'LISTEN "{announcements.CHANNEL}"')
        self.listening = database.connection
        return self.hears

    def heard(self) -> set[str]:
        return {each.payload for each in self.listening.notifies(timeout=0)}

    def wait(self, seconds: float) -> set[str]:
        """Return what may have changed, once something has, or when so many seconds are over."""
        changes: set[str] = set()
        try:
            if self.subscription is not None:
                message = self.subscription.get_message(timeout=seconds)
                if message:
                    time.sleep(GATHER)
                while message:
                    is_word = message["type"] == "message"  # else it has subscribed again, and heard nothing meanwhile
                    changes |= {message["data"].decode()} if is_word else {SCHEDULES, ORDERS}
                    message = self.subscription.get_message(timeout=0)
            elif self.hears and self.listening is connections[self.alias].connection:
                changes |= self.heard()  # with the answer to the look
                if not changes and wait([self.listening.fileno()], seconds):
                    time.sleep(GATHER)
                    changes |= self.heard()
            elif self.bell.wait(seconds):
                self.bell.clear()
                changes.add(ORDERS)
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
        return changes
