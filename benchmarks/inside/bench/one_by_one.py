"""Queues tasks one at a time, each once the last has run, and notes when: `python -m bench.one_by_one NUMBER`."""

import os
import sys
import time
from pathlib import Path

import django


def main() -> None:
    """Queue tasks."""
    django.setup()
    from django_q.tasks import async_task

    from bench.apps import note

    ran = Path(os.environ["BENCH_FOLDER"]) / "ran"
    for number in range(int(sys.argv[1])):
        time.sleep(0.05)  # an idle worker is what is asked
        note("queued")
        async_task("bench.tasks.note_the_time")
        while not ran.exists() or ran.stat().st_size < 8 * (number + 1):
            time.sleep(0.001)


main()
