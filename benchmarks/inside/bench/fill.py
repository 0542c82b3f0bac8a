"""Fills a queue: `python -m bench.fill TASK NUMBER BYTES`."""

import sys

import django


def main() -> None:
    """Queue tasks, each with an argument of so many bytes: by the thousand if the project's own worker is there."""
    django.setup()
    from django.apps import apps
    from django_q.brokers import get_broker
    from django_q.tasks import async_task

    broker = get_broker()
    task, number, size = f"bench.tasks.{sys.argv[1]}", int(sys.argv[2]), int(sys.argv[3])
    arguments = (b"x" * size,) if size else ()
    if apps.is_installed("worker"):
        from worker.enqueue import enqueue_many

        for begin in range(0, number, 1000):
            enqueue_many(task, [arguments] * min(1000, number - begin), broker=broker)
    else:
        for _ in range(number):
            async_task(task, *arguments, broker=broker)


main()
