"""The client for Redis, and what its URL may say."""

import os
import re
from functools import cache
from urllib.parse import parse_qs, urlsplit

from django.core.exceptions import ImproperlyConfigured
from redis import ConnectionError as ConnectionLost
from redis import ReadOnlyError, RedisError
from redis import Redis as Client
from redis.backoff import NoBackoff
from redis.retry import Retry


def connection_options(url: str) -> dict[str, object]:
    """Return what the URL leaves open.

    Heroku's certificates are signed by itself, and say so nowhere (https://devcenter.heroku.com/articles/connecting-heroku-redis):
    where its variable DYNO is set, they are not verified, unless the URL asks for it. Everywhere else they are.
    """
    parts = urlsplit(url)
    options: dict[str, object] = {
        "socket_connect_timeout": 5,  # seconds
        "socket_timeout": 5,  # seconds; above the one for which an empty queue is asked
        "health_check_interval": 30,  # seconds; routers drop connections that were long idle
        # Connect anew, once, if the connection was cut, or leads to a former primary. After a timeout the server may
        # still do what it was asked.
        "retry": Retry(NoBackoff(), 1, (ConnectionLost, ReadOnlyError)),
    }
    if parts.scheme == "rediss" and "DYNO" in os.environ and "ssl_cert_reqs" not in parse_qs(parts.query):
        options["ssl_cert_reqs"] = "none"
    return options


def usable(url: str) -> str:
    """Return the URL without what redis-py does not know (DigitalOcean adds `ssl`), or what changes its answers.

    Celery's word for a certificate that is not verified, CERT_NONE, is written as redis-py's. What is wrong is said
    without any part of the URL.
    """
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ImproperlyConfigured(
            "REDIS_URL must begin with redis://, rediss:// or unix://: the queue is on one server, "
            "neither behind Sentinel nor in a cluster."
        )
    try:
        parts = urlsplit(url)
        readable = parts.port != 0 and not parts.fragment and "@" not in parts.query
    except ValueError:
        readable = False
    if not readable or (parts.scheme != "unix" and "@" in parts.path):
        raise ImproperlyConfigured(
            "REDIS_URL cannot be read: write redis://user:password@host:6379/0, and in the password %2F for /, %23 for "
            "#, %3F for ?, %40 for @, %3A for : and %25 for %."
        )
    if parts.scheme != "unix" and not re.fullmatch(r"(/\d*)?", parts.path):  # redis-py would take the database 0
        raise ImproperlyConfigured("REDIS_URL must end with the number of a database, as in redis://host:6379/0.")
    base, _, query = url.partition("?")
    query = re.sub("ssl_cert_reqs=CERT_([A-Z]+)", lambda found: f"ssl_cert_reqs={found[1].lower()}", query)
    dropped = {"ssl", "protocol", "decode_responses", "legacy_responses"}
    return f"{base}?{'&'.join(pair for pair in query.split('&') if pair.partition('=')[0] not in dropped)}"


@cache
def client(url: str) -> Client:
    """Connect; a process keeps its connections, and those of a fork are its own."""
    wanted = usable(url)
    try:
        made = Client.from_url(wanted, **connection_options(url))
        pool = made.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # which connects nowhere, but knows all options
    except (RedisError, TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"REDIS_URL has an option after its ? that cannot be used: {error}") from error
    return made
