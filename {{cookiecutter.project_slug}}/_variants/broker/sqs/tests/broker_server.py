"""The broker's server for tests with real processes: moto, which answers over HTTP as Amazon SQS does."""

from collections.abc import Iterator
from pathlib import Path

from moto.server import ThreadedMotoServer


def broker_server(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the variables that lead to the broker."""
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
