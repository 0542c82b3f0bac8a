"""/metrics: the overview and the tallies of all clusters, as OpenMetrics; asked for by who knows METRICS_TOKEN.

Nothing is counted in this process: whichever one answers, it tells of all processes and hosts.
"""

import logging
from collections.abc import Iterator
from itertools import accumulate
from secrets import compare_digest
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from worker.conf import setting
from worker.delivery import brief
from worker.health import sentence_for, why_away
from worker.models import BUCKETS, Tally
from worker.packages import table
from worker.processes import clusters, queue_of
from worker.queue.depths import is_the_database, told_within
from worker.queue.overview import overview
from worker.queue.state import QueueState
from worker.single_flight import LIMIT, SHARED, SingleFlight

CONTENT_TYPE = CONTENT_TYPE_LATEST
BOUNDS = [*map(str, BUCKETS), "+Inf"]
SHORT = 0.3  #: seconds of the limit that are left for what is told while the database does not answer

logger = logging.getLogger(__name__)


def may_ask(authorization: str) -> bool:
    """Say whether this header shows that somebody knows the token."""
    return compare_digest(authorization.encode(), f"Bearer {setting('METRICS_TOKEN')}".encode())


class Found(NamedTuple):
    text: bytes
    problem: str = ""  #: why there is none


class Metrics:
    """What this process tells, for as many as ask."""

    def __init__(self) -> None:
        self.flight = SingleFlight(look, SHARED)

    def read(self) -> Found:
        """Return what was found, once it is, or can be waited for no longer."""
        question = self.flight.current()
        return question.answer if question.wait(LIMIT - SHORT) else Found(written(WithoutDatabase()))


def look() -> Found:
    """Ask for all of it; raises what says that the database is away."""
    try:
        return Found(written(Queues()))
    except Exception as error:
        if why_away(error):
            raise
        logger.debug("The metrics cannot be told", exc_info=True)
        return Found(b"", sentence_for(error) or f"The metrics cannot be told ({brief(error)}).")


def written(collector: Collector) -> bytes:
    """Return what a collector has as a text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


def database_up(value: int) -> GaugeMetricFamily:
    return GaugeMetricFamily("django_q_database_up", "Whether the database answers", value=value)


class WithoutDatabase(Collector):
    """Has what can be told while the database does not answer."""

    def collect(self) -> Iterator[Any]:
        """Yield that, and whether the broker does; one that is the database does not."""
        yield database_up(0)
        up = GaugeMetricFamily("django_q_broker_up", "Whether the broker answers", labels=["queue"])
        told = {} if is_the_database() else told_within(SHORT)
        for name in clusters():
            up.add_metric([queue_of(name)], float(name in told and not told[name].problem))
        yield up


class Queues(Collector):
    def collect(self) -> Iterator[Any]:
        found = overview(patience=LIMIT / 2)
        yield database_up(1)
        yield from families(found.queues)
        for name, about, value in (
            ("retrying_tasks", "Tasks that have failed and will be tried again", found.again.total),
            ("failed_tasks", "Results of tasks that have failed for good", found.failed_total),
        ):
            yield GaugeMetricFamily(f"django_q_{name}", about, value=value)
        about = "Seconds since a schedule should have been queued, 0 if it is not overdue"
        overdue = GaugeMetricFamily("django_q_schedule_overdue_seconds", about, labels=["schedule"], unit="seconds")
        most: dict[str, float] = {}  # many may have the same name, which Prometheus takes once
        for schedule in found.schedules:
            if schedule.next:
                most[schedule.name] = max(schedule.overdue, most.get(schedule.name, 0.0))
        for name, seconds in most.items():
            overdue.add_metric([name], seconds)
        yield overdue
        yield from tallies()


def families(queues: list[QueueState]) -> Iterator[GaugeMetricFamily]:
    """Yield a family for each value of a queue, without what the broker would have to tell while it is away."""
    for name, about, value in (
        ("broker_up", "Whether the broker answers", lambda queue: not queue.problem),
        ("waiting_tasks", "Tasks that may begin now, and nobody has begun", lambda queue: queue.waiting),
        ("due_tasks", "Tasks that are delayed, or between two attempts", lambda queue: queue.due),
        ("oldest_waiting_seconds", "Seconds for which the oldest of those that may begin waits", age),
        ("running_tasks", "Tasks that run", lambda queue: queue.running),
        ("paused", "Whether the queue is paused", lambda queue: queue.paused_since is not None),
        ("clusters", "Main processes that are alive", lambda queue: len(alive(queue))),
        ("workers", "Processes that run tasks", lambda queue: sum(cluster.workers for cluster in alive(queue))),
        (
            "results_lag_seconds",
            "Seconds for which the oldest result waits to be saved",
            lambda queue: max((cluster.lag for cluster in alive(queue)), default=0.0),
        ),
    ):
        family = GaugeMetricFamily(f"django_q_{name}", about, labels=["queue"])
        for queue in queues:
            if (number := value(queue)) is not None:
                family.add_metric([queue.name], float(number))
        yield family


def alive(queue: QueueState) -> list[Any]:
    return [cluster for cluster in queue.clusters if cluster.alive]


def age(queue: QueueState) -> float | None:
    """Return for how long the oldest task waits, None if nobody can tell."""
    return 0.0 if queue.oldest is None and queue.waiting == 0 else queue.oldest


def tallies() -> Iterator[Any]:
    """Yield what all clusters have counted, since there is the table."""
    labels = ["queue", "function"]
    ended = CounterMetricFamily("django_q_tasks", "Attempts that have ended", labels=[*labels, "outcome"])
    times = {
        "ran": HistogramMetricFamily("django_q_task_run_seconds", "Seconds that attempts took", labels=labels),
        "waited": HistogramMetricFamily("django_q_task_wait_seconds", "Seconds until they began", labels=labels),
    }
    sums: dict[tuple[str, str, str], tuple[list[int], float]] = {}
    for row in Tally.objects.using(table().db).order_by("cluster", "func", "outcome"):
        of = (queue_of(row.cluster), row.func)
        ended.add_metric([*of, row.outcome], row.count)
        for name in times:
            before, total = sums.get((name, *of), ([0] * len(BOUNDS), 0.0))
            buckets = [one + other for one, other in zip(before, getattr(row, f"{name}_buckets"), strict=True)]
            sums[name, *of] = buckets, total + getattr(row, name)
    yield ended
    for (name, queue, func), (buckets, total) in sums.items():
        times[name].add_metric([queue, func], list(zip(BOUNDS, accumulate(buckets), strict=True)), total)
    yield from times.values()
