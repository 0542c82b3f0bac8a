"""A task on its whole way: through the queue, a worker's process, and the table of results."""

from django_q.tasks import async_task, result

from core.tasks import count_words


def test_a_worker_runs_a_task(real_worker: None) -> None:
    assert result(async_task(count_words, "one two"), wait=20_000) == 2
