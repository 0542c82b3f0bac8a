"""Clusters of a queue of the tests' own, as many as a test wants at once, which it may kill."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from django.conf import settings
from django.db import connections
from django_q.brokers import get_broker
from django_q.conf import Conf
from project import DEADLINE, PROJECT, variables, wait_for
from worker.queue.signs import look
from worker.queue.state import ClusterState
from worker.testing.process import START

OWN = "own"
alike_elsewhere = pytest.mark.skipif(
    not Conf.ORM and not Conf.REDIS, reason="the broker has no part in it; SQLite is tried with another one"
)


@contextmanager
def own_queue() -> Iterator[None]:
    """Let there be such a queue, which is empty at the end."""
    others = settings.Q_CLUSTER.get("ALT_CLUSTERS", {})
    with patch.dict(settings.Q_CLUSTER, ALT_CLUSTERS={**others, OWN: {}}):
        try:
            yield
        finally:
            get_broker(OWN).delete_queue()


def own() -> list[ClusterState]:
    """Return what clusters of this queue say."""
    return [sign for sign in look() if sign.name == OWN]


@contextmanager
def clusters(folder: Path, number: int = 1, **env: str) -> Iterator[list[ClusterState]]:
    """Run clusters of this queue until the block ends, once they say that they are alive."""
    names = {each.alias: each.settings_dict["NAME"] for each in connections.all()}
    command = [sys.executable, "-c", START, json.dumps({alias: str(name) for alias, name in names.items()})]
    with (folder / "clusters.log").open("ab") as output:
        started = [
            subprocess.Popen(
                command,
                cwd=PROJECT,
                env=variables({"Q_CLUSTER_NAME": OWN, **env}),
                stdout=output,
                stderr=output,
                process_group=0,
            )
            for _ in range(number)
        ]
    pids = {process.pid for process in started}
    try:
        wait_for(
            lambda: (
                pids <= {sign.pid for sign in own() if sign.alive and sign.workers} or any(it.poll() for it in started)
            ),
            f"clusters: {(folder / 'clusters.log').read_text()}",
        )
        yield [sign for sign in own() if sign.pid in pids]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(DEADLINE if process.poll() is None else 0)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
        sys.stdout.write((folder / "clusters.log").read_text())
