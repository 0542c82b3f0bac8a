"""Queues tasks and prints how many a second: `python -m bench.enqueue one|thousand NUMBER`."""

import sys
import time

import django


def main() -> None:
    """Queue tasks as a view does, by async_task() or by enqueue_many()."""
    django.setup()
    from django_q.brokers import get_broker
    from django_q.tasks import async_task

    way, number = sys.argv[1], int(sys.argv[2])
    async_task("bench.tasks.nothing")  # connects
    begin = time.perf_counter()
    if way == "one":
        for _ in range(number):
            async_task("bench.tasks.nothing")
    else:
        from worker.enqueue import enqueue_many

        for _ in range(number // 1000):
            enqueue_many("bench.tasks.nothing", [()] * 1000)
    rate = number / (time.perf_counter() - begin)
    get_broker().purge_queue()
    print(rate)


main()
