"""Fills a queue: `python -m bench.fill TASK NUMBER`."""

import sys

import django


def main() -> None:
    """Queue tasks."""
    django.setup()
    from django_q.brokers import get_broker
    from django_q.tasks import async_task

    broker = get_broker()
    for _ in range(int(sys.argv[2])):
        async_task(f"bench.tasks.{sys.argv[1]}", broker=broker)


main()
