"""A real worker beside a test: a process of its own, on the databases of the test."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from django.conf import settings
from django.db import connections
from django.db.backends.sqlite3.base import DatabaseWrapper
from django_q.brokers import get_broker
from django_q.conf import Conf

from worker import health, processes
from worker.conf import setting

START = """
import json, os, sys
from django.conf import settings
from django.core.management import execute_from_command_line
for alias, name in json.loads(sys.argv[1]).items():
    settings.DATABASES[alias]["NAME"] = name
from worker import processes
processes.stand_in = os.environ["Q_CLUSTER_NAME"]
settings.Q_CLUSTER.setdefault("ALT_CLUSTERS", dict())[processes.stand_in] = dict()
execute_from_command_line(["manage.py", "qcluster"])
"""
WITHIN = 60.0  #: seconds in which it starts, and ends


@contextmanager
def working(folder: Path) -> Iterator[None]:
    """Let a process of its own run the default cluster's tasks, on the databases of the test and the project's broker.

    Only what is committed is seen there: in a TransactionTestCase, or with `@pytest.mark.django_db(transaction=True)`.
    """
    if any(connection.in_atomic_block for connection in connections.all()):
        what = "write a TransactionTestCase, or @pytest.mark.django_db(transaction=True)"
        pytest.fail(f"A real worker sees only what is committed: {what}.", pytrace=False)
    name, log = f"{Conf.CLUSTER_NAME}-test-{os.getpid()}", folder / "worker.log"
    with (
        on_disk(folder),
        patch.object(Conf, "BROKER_CLASS", settings.Q_CLUSTER["broker_class"]),
        patch.object(Conf, "CLUSTER_NAME", name),  # a queue of its own, beside that of `make run`
        patch.object(processes, "stand_in", name),
        patch.dict(settings.Q_CLUSTER, ALT_CLUSTERS={**settings.Q_CLUSTER.get("ALT_CLUSTERS", {}), name: {}}),
    ):
        if silent := health.silent_servers():
            pytest.fail(f"{health.in_words(silent)} A real worker needs it: see README, Run.", pytrace=False)
        names = {each.alias: each.settings_dict["NAME"] for each in connections.all()}
        command = [sys.executable, "-c", START, json.dumps(names)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=setting("BASE_DIR"),
                env={**os.environ, "Q_CLUSTER_NAME": name},
                stdout=output,
                stderr=output,
            )
        try:
            end = time.monotonic() + WITHIN
            while problem := health.cluster(name):
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"The worker does not start: {problem}", pytrace=False)
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            try:
                process.wait(WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
            get_broker().delete_queue()
            sys.stdout.write(log.read_text(errors="replace"))  # which pytest shows if the test fails


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Let other processes see SQLite's databases in memory: put copies in a folder in their place."""
    with ExitStack() as stack:
        for connection in connections.all():
            if isinstance(connection, DatabaseWrapper) and connection.is_in_memory_db():
                connection.ensure_connection()
                file = folder / f"{connection.alias}.sqlite3"
                with closing(sqlite3.connect(file)) as copy:
                    connection.connection.backup(copy)
                stack.enter_context(patch.object(connection, "connection", None))
                stack.enter_context(patch.dict(connection.settings_dict, NAME=str(file)))
                stack.callback(connection.close)
        yield
