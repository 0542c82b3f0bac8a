"""The broker's server for tests with real processes: MongoDB."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import free_port, wait_until_listening

TASKS = 2000  #: of the test with many clusters


def broker_server(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the variables that lead to the broker: one of the test's own, or one given that is empty."""
    program = shutil.which("mongod")
    if program is None:
        if "MONGODB_URL" not in os.environ:
            pytest.skip("mongod is not installed, and MONGODB_URL is not set")
        yield {"MONGODB_URL": os.environ["MONGODB_URL"]}
        return
    port = free_port()
    command = [program, "--port", str(port), "--bind_ip", "127.0.0.1", "--dbpath", str(folder)]
    with (folder / "mongod.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        wait_until_listening(port, server)
        yield {"MONGODB_URL": f"mongodb://127.0.0.1:{port}"}
        server.terminate()
