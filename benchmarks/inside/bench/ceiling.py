"""Prints how often a second two processes can call the realistic task: `python -m bench.ceiling NUMBER`."""

import sys
import time
from multiprocessing import get_context

import django


def repeat(number: int) -> tuple[float, float]:
    """Call the task so often, once a connection is there, and return when that began and ended."""
    from django.db import connection

    from bench.tasks import work

    connection.ensure_connection()
    begin = time.time()
    for _ in range(number):
        work()
    return begin, time.time()


def main() -> None:
    """Let two processes call it at the same time."""
    django.setup()
    number = int(sys.argv[1])
    with get_context("fork").Pool(2) as pool:
        times = pool.map(repeat, [number // 2] * 2, chunksize=1)
    print(number / (max(end for _, end in times) - min(begin for begin, _ in times)))


main()
