"""The broker: tasks wait in a Redis or Valkey list."""

import os
from urllib.parse import parse_qs, urlsplit

from django_q.brokers.redis_broker import Redis
from django_q.conf import Conf
from redis import Redis as Client


def connection_options(url: str) -> dict[str, object]:
    """Return what the URL leaves open.

    Heroku's certificates are signed by itself, and say so nowhere (https://devcenter.heroku.com/articles/connecting-heroku-redis):
    where its variable DYNO is set, they are not verified, unless the URL asks for it. Everywhere else they are.
    """
    parts = urlsplit(url)
    options: dict[str, object] = {
        "socket_connect_timeout": 5,  # seconds
        "socket_timeout": 15,  # seconds; above the one for which an empty queue is asked
        "health_check_interval": 30,  # seconds; routers drop connections that were long idle
    }
    if parts.scheme == "rediss" and "DYNO" in os.environ and "ssl_cert_reqs" not in parse_qs(parts.query):
        options["ssl_cert_reqs"] = "none"
    return options


class Broker(Redis):  # type: ignore[misc]
    """django-q2's, with keys that hold the project's name: two projects may share a server."""

    def __init__(self, list_key: str | None = None) -> None:
        """Serve the queue of this cluster."""
        cluster = list_key or Conf.CLUSTER_NAME
        super().__init__(cluster if cluster == Conf.PREFIX else f"{Conf.PREFIX}-{cluster}")

    @staticmethod
    def get_connection(list_key: str | None = None) -> Client:
        """Connect to the server of the setting `redis`."""
        return Client.from_url(Conf.REDIS, **connection_options(Conf.REDIS))
