"""The broker's server for tests with real processes: Redis or Valkey."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import free_port, wait_until_listening

TASKS = 2000  #: of the test with many clusters
PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")


def broker_server(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the variables that lead to the broker: one of the test's own, or one given that is empty."""
    if PROGRAM is None:
        if "REDIS_URL" not in os.environ:
            pytest.skip("neither redis-server nor valkey-server is installed, and REDIS_URL is not set")
        yield {"REDIS_URL": os.environ["REDIS_URL"]}
        return
    port = free_port()
    command = [PROGRAM, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "redis.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        wait_until_listening(port, server)
        yield {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}
        server.terminate()
