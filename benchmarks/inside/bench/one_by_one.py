"""Queues tasks one at a time, each once the last has run, and notes when: `python -m bench.one_by_one NUMBER TURN`.

Those that do so at once for several systems share a file, whose lock is held while a task is under way: whoever is
looked at has the machine for itself, and the pauses of one are the turns of others.
"""

import os
import random
import sys
import time
from fcntl import LOCK_EX, LOCK_UN, flock
from pathlib import Path

import django

PAUSE = 0.03, 0.23  #: seconds; at least, since an idle worker is what is asked
# They differ by as much as a worker waits that looks every 0.2 seconds: after a pause that is always the same, each
# task would come at the same time before its next look.


def main() -> None:
    """Queue tasks."""
    django.setup()
    from django_q.tasks import async_task

    from bench.apps import note

    ran = Path(os.environ["BENCH_FOLDER"]) / "ran"
    pauses = random.Random(1)  # noqa: S311  # the same for all systems
    with Path(sys.argv[2]).open("w") as turn:
        for number in range(int(sys.argv[1])):
            time.sleep(pauses.uniform(*PAUSE))
            flock(turn, LOCK_EX)
            note("queued")
            async_task("bench.tasks.note_the_time")
            while not ran.exists() or ran.stat().st_size < 8 * (number + 1):
                time.sleep(0.001)
            flock(turn, LOCK_UN)


main()
