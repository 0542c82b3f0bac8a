"""The cluster: its guard, without other processes."""

from unittest.mock import Mock

import pytest
from django_q import cluster

from worker.cluster import Sentinel


@pytest.fixture
def sentinel(monkeypatch: pytest.MonkeyPatch) -> Sentinel:
    """Provide a guard of nothing, whose upstream part does nothing."""
    monkeypatch.setattr(cluster.Sentinel, "reincarnate", Mock())
    sentinel = Sentinel.__new__(Sentinel)
    sentinel.monitor, sentinel.pusher = Mock(), Mock()
    return sentinel


@pytest.mark.parametrize(("timer", "killed"), [(0, True), (-1, False), (-2, False), (5, False)])
def test_only_a_worker_whose_task_ran_out_of_time_is_killed(sentinel: Sentinel, timer: int, killed: bool) -> None:
    worker = Mock(timer=Mock(value=timer))
    sentinel.reincarnate(worker)
    assert worker.kill.called is killed
    cluster.Sentinel.reincarnate.assert_called_once_with(worker)


def test_a_monitor_or_pusher_that_ended_is_replaced(sentinel: Sentinel) -> None:
    for process in (sentinel.monitor, sentinel.pusher):
        sentinel.reincarnate(process)
        process.kill.assert_not_called()
