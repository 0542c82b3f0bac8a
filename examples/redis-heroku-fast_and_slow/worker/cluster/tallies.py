"""How many attempts have ended, how, and how long they took: added up here, and written every few seconds.

If the cluster is killed, the counts of these seconds are lost; no result ever is.
"""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Any

from django.db.models import F
from django.utils import timezone
from django_q.conf import Conf

from worker.cluster.messages import Outcome
from worker.cluster.rows import patiently
from worker.models import BUCKETS, Minute, Tally
from worker.packages import table

WRITE_EVERY = 5.0  #: seconds
LOCKED_FOR = 2.0  #: seconds for which another cluster's are waited for
#: functions of a cluster that are told apart; /metrics tells of each in some thirty lines, within two seconds
MOST_FUNCTIONS = 500
OTHERS = "(others)"  #: what further ones are counted as
KEPT = timedelta(hours=1)
NAMES = ("ran", "waited")


def kind(outcome: Outcome) -> str:
    """Return how an attempt has ended."""
    if outcome.row.success:
        return "successful"
    if outcome.failure is None:
        return "set_aside"
    return "retried" if outcome.next_try else "cancelled" if outcome.is_cancelled else "failed"


@dataclass(slots=True)
class Count:
    """What is added to a row."""

    count: int = 0
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])  #: ran and waited
    buckets: list[list[int]] = field(default_factory=lambda: [[0] * (len(BUCKETS) + 1) for _ in NAMES])

    def add(self, other: "Count") -> None:
        self.count += other.count
        self.seconds = [sum(pair) for pair in zip(self.seconds, other.seconds, strict=True)]
        self.buckets = [[*map(sum, zip(*pair, strict=True))] for pair in zip(self.buckets, other.buckets, strict=True)]


class Tallies:
    def __init__(self) -> None:
        self.lock, self.writing = Lock(), Lock()
        self.counts: defaultdict[tuple[str, str], Count] = defaultdict(Count)  #: by function and outcome
        self.minutes: defaultdict[datetime, list[int]] = defaultdict(lambda: [0, 0])  #: done and failed
        self.written = time.monotonic()
        self.minute: datetime | None = None  #: the last one that was written

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Count attempts that have ended, and are saved."""
        minute = timezone.now().replace(second=0, microsecond=0)
        with self.lock:
            for outcome in outcomes:
                if outcome.counts:
                    how = kind(outcome)
                    count = self.counts[outcome.row.func, how]
                    count.count += 1
                    for number, seconds in enumerate((outcome.ran, outcome.waited)):
                        if seconds is not None:
                            count.seconds[number] += seconds
                            count.buckets[number][bisect_left(BUCKETS, seconds)] += 1
                    if how not in {"retried", "cancelled"}:
                        self.minutes[minute][0 if how == "successful" else 1] += 1

    def are_due(self) -> bool:
        """Say whether there is something to write by now."""
        return bool(self.counts) and time.monotonic() - self.written > WRITE_EVERY

    def write(self) -> None:
        """Write what was counted; raises what the database raises, and then keeps it."""
        self.written = time.monotonic()
        with self.writing:
            with self.lock:
                counts, minutes = dict(self.counts), dict(self.minutes)
                self.counts.clear()
                self.minutes.clear()
            if not counts:
                return
            try:
                alias = table().db
                with patiently(alias, LOCKED_FOR):
                    write_counts(counts, alias)
                    self.write_minutes(minutes, alias)
            except Exception:
                with self.lock:
                    for key, count in counts.items():
                        self.counts[key].add(count)
                    for when, numbers in minutes.items():
                        self.minutes[when] = [*map(sum, zip(self.minutes[when], numbers, strict=True))]
                raise

    def write_minutes(self, minutes: dict[datetime, list[int]], alias: str) -> None:
        """Write how many have ended in each minute; forget those of an hour ago."""
        rows = Minute.objects.using(alias).filter(cluster=Conf.CLUSTER_NAME)
        added = [Minute(cluster=Conf.CLUSTER_NAME, minute=each, done=0, failed=0) for each in sorted(minutes)]
        Minute.objects.using(alias).bulk_create(added, ignore_conflicts=True)
        for each in added:
            done, failed = minutes[each.minute]
            rows.filter(minute=each.minute).update(done=F("done") + done, failed=F("failed") + failed)
        if added and self.minute != added[-1].minute:
            self.minute = added[-1].minute
            rows.filter(minute__lt=timezone.now() - KEPT).delete()


def write_counts(counts: dict[tuple[str, str], Count], alias: str) -> None:
    """Add counts to the rows, always in the same order: two clusters wait for each other, and not for ever."""
    empty = dict.fromkeys(NAMES, 0.0) | {f"{name}_buckets": [0] * (len(BUCKETS) + 1) for name in NAMES}
    rows = Tally.objects.using(alias)
    mine = rows.filter(cluster=Conf.CLUSTER_NAME)
    found = locked(mine, counts)
    if counts.keys() - found.keys():
        counts = limited(counts, mine)
        added = [
            Tally(cluster=Conf.CLUSTER_NAME, func=func, outcome=how, count=0, **empty) for func, how in sorted(counts)
        ]
        rows.bulk_create(added, ignore_conflicts=True)
        found = locked(mine, counts)
    changed: list[Any] = []
    for key, count in counts.items():
        row = found[key]
        row.count += count.count
        for name, seconds, buckets in zip(NAMES, count.seconds, count.buckets, strict=True):
            setattr(row, name, getattr(row, name) + seconds)
            before = getattr(row, f"{name}_buckets")
            setattr(row, f"{name}_buckets", [*map(sum, zip(before, buckets, strict=True))])
        changed.append(row)
    rows.bulk_update(changed, ["count", *NAMES, *(f"{name}_buckets" for name in NAMES)], batch_size=50)


def locked(rows: Any, counts: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """Return the rows of these, by function and outcome, for nobody else to change meanwhile."""
    known = rows.select_for_update().filter(func__in={func for func, _ in counts}).order_by("func", "outcome")
    return {(row.func, row.outcome): row for row in known}


def limited(counts: dict[tuple[str, str], Count], rows: Any) -> dict[tuple[str, str], Count]:
    """Return counts in which functions for which there is no room are one."""
    funcs = {func for func, _ in counts}
    new = sorted(funcs - set(rows.filter(func__in=funcs).values_list("func", flat=True)))
    if not new:
        return counts
    known = rows.exclude(func=OTHERS).values("func").distinct().count()
    others = set(new[max(0, MOST_FUNCTIONS - known) :])
    found: defaultdict[tuple[str, str], Count] = defaultdict(Count)
    for (func, how), count in counts.items():
        found[OTHERS if func in others else func, how].add(count)
    return dict(found)
