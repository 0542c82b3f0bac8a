"""A cluster's sign of life: a file for the probes on its own host, and a cache entry for the web processes.

django-q2 publishes a status too, but it does not say which cluster it is of, and asking for it needs the database:
a probe that fails when the database is away would have the platform restart workers that only need to wait.
"""

import logging
import math
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from django.conf import settings
from django.core.cache import caches
from django_q.conf import Conf

from worker.delivery import brief

FRESH = 30.0  #: seconds for which the file counts; the guard may have to wait for an absent database

logger = logging.getLogger(__name__)


def _file(cluster: str) -> Path:
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"{Conf.PREFIX}-{cluster}-{user}.heartbeat"


def _key(cluster: str) -> str:
    return f"heartbeat:{Conf.PREFIX}:{cluster}"


def shared_for() -> int:
    """Return the seconds for which a sign of life in the cache counts: of three in a row two may fail."""
    quiet: int = settings.Q_QUIET
    return 3 * quiet


class Heartbeat:
    """The beating side, in the cluster's guard."""

    def __init__(self, cluster: str) -> None:
        """Beat for the cluster of this name."""
        self.cluster = cluster
        self._tried = -math.inf
        self._refused = ""  #: why the last file could not be written

    def beat(self) -> bool:
        """Give a sign of life, and say whether it was the cache's turn, and it has taken it.

        It never raises: a file system that is read-only or an absent database must not stop the guard.
        """
        try:
            _file(self.cluster).touch()
            self._refused = ""
        except OSError as error:  # said once, for it may stay so, and apart: web must see the cluster nevertheless
            if str(error) != self._refused:
                logger.warning("Cluster %s has nowhere to leave a sign of life for probes: %s", self.cluster, error)
            self._refused = str(error)
        try:
            if time.monotonic() - self._tried >= settings.Q_QUIET:
                self._tried = time.monotonic()
                caches[Conf.CACHE].set(_key(self.cluster), time.time(), shared_for())
                return True
        except Exception as error:  # each cache has exceptions of its own
            logger.warning("The sign of life of cluster %s could not be given: %s", self.cluster, brief(error))
        return False

    def stop(self) -> None:
        """Withdraw the sign of life, when the cluster ends as it should."""
        with suppress(OSError):
            _file(self.cluster).unlink(missing_ok=True)
        try:
            caches[Conf.CACHE].delete(_key(self.cluster))
        except Exception as error:
            logger.warning("The sign of life of cluster %s could not be withdrawn: %s", self.cluster, brief(error))


def age_on_this_host(cluster: str) -> float | None:
    """Return the seconds since the cluster's last sign of life on this host, None if there is none.

    Raises:
        OSError: If there is no temporary folder to leave one in.
    """
    file = _file(cluster)
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return None


def is_alive(cluster: str) -> bool:
    """Say whether the cluster has reported lately, on whatever host it runs."""
    return caches[Conf.CACHE].get(_key(cluster)) is not None
