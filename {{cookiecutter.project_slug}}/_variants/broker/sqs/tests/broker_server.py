"""The broker's server for tests with real processes: moto, which answers over HTTP as Amazon SQS does."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from moto.sqs.models import Queue, SQSBackend
from werkzeug.serving import WSGIRequestHandler

TASKS = 500  #: of the test with many clusters: moto counts all messages for each one that is added


def in_turn(action: Any, turn: Any) -> Any:
    """Let one request at a time change a queue: moto 5.2 would hand a message out twice, or forget a deletion."""

    def act(*args: Any, **options: Any) -> Any:
        with turn:
            return action(*args, **options)

    return act


def patiently(look: Any) -> Any:
    """Wait for a message without keeping others from their turn."""

    def receive_message(backend: Any, queue: str, count: int, seconds: int, *args: Any) -> Any:
        end = time.monotonic() + seconds
        while not (messages := look(backend, queue, count, 0, *args)) and time.monotonic() < end:
            time.sleep(0.05)
        return messages

    return receive_message


def broker_server(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the variables that lead to the broker."""
    with pytest.MonkeyPatch.context() as patch:
        turn = threading.RLock()
        patch.setattr(SQSBackend, "receive_message", patiently(in_turn(SQSBackend.receive_message, turn)))
        for name in ("add_message", "delete_message"):
            patch.setattr(Queue, name, in_turn(getattr(Queue, name), turn))
        # moto 5.2 counts all messages for each one whose age it looks at, which takes seconds.
        patch.setattr(SQSBackend, "is_message_valid_based_on_retention_period", lambda *_: True)
        # As Amazon does, keep connections: otherwise what goes wrong when processes share one would not show.
        patch.setattr(WSGIRequestHandler, "protocol_version", "HTTP/1.1")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield {
            "AWS_ENDPOINT_URL_SQS": f"http://{host}:{port}",
            "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        server.stop()
