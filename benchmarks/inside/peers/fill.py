"""Fills a queue: `python -m peers.fill TASK NUMBER`."""

import os
import sys

import django


def main() -> None:
    """Queue tasks."""
    django.setup()
    from peers.tasks import QUEUE

    queue = QUEUE[os.environ["BENCH_SYSTEM"]]
    for _ in range(int(sys.argv[2])):
        queue(name=sys.argv[1])


main()
