"""A task on its whole way: through the queue, a worker's process, and the table of results."""

import time

from core.tasks import count_words


def test_a_worker_runs_a_task(real_worker: None) -> None:
    result = count_words.enqueue("one two")
    end = time.monotonic() + 20
    while not result.is_finished and time.monotonic() < end:
        time.sleep(0.05)
        result.refresh()
    assert result.return_value == 2
