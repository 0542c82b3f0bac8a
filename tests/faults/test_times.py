"""Promises 2 and 10 for all that has its time: attempts, delays and schedules, while processes are killed."""

import random
import signal
import time
from collections import Counter
from datetime import datetime

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Lab
from tests.faults.test_chaos import SEED, Supervisor
from tests.faults.test_retries import check_none_came_early, enqueue, times

NUMBER = 40  #: of tasks that fail, of those that are delayed; of schedules there are half as many
MOST, FAILS, BACKOFF = 6, 2, 1.0
SECONDS = 15.0  #: for which processes are killed, and within which all is due
CLOCKS = 0.01  #: seconds; the ledger has whole milliseconds


class Due:
    """Tasks and schedules, each with its time."""

    def __init__(self, lab: Lab, chance: random.Random) -> None:
        """Queue them."""
        self.lab = lab
        failing = [f"failing{index}" for index in range(NUMBER)]
        delayed = {f"delayed{index}": chance.uniform(1, SECONDS) for index in range(NUMBER)}
        calls: list[tuple[object, ...]] = [(key, FAILS, 0.05) for key in failing]
        self.failing = dict(
            zip(failing, enqueue(lab, "fail_first", calls, max_attempts=MOST, seconds=BACKOFF), strict=True)
        )
        queued = lab.call("enqueue_later", func="lab_tasks.work", delays=delayed)
        self.delayed = {key: identity for key, (identity, _) in queued.items()}
        self.due = {key: due for key, (_, due) in queued.items()}
        kinds: dict[str, dict[str, object]] = {
            "once": {"schedule_type": "O", "repeats": -1},
            "minutes": {"schedule_type": "I"},
        }
        kinds["cron"] = {"schedule_type": "C", "cron": "* * * * *"}
        self.schedules, self.once = set[str](), set[str]()
        for index in range(NUMBER // 2):
            kind = ("once", "once", "minutes", "cron")[index % 4]
            name, fields = f"{kind}{index}", {"func": "lab_tasks.work_when_due", "intended_date_kwarg": "due"}
            ago = -chance.uniform(1, SECONDS)
            lab.call("schedule", name=name, seconds_ago=ago, args=f"{name!r},", **fields, **kinds[kind])
            self.schedules.add(name)
            self.once |= {name} if kind == "once" else set()

    @property
    def ids(self) -> set[str]:
        """The tasks."""
        return {*self.failing.values(), *self.delayed.values()}

    def runs(self) -> dict[str, list[datetime]]:
        """Return the times for which a schedule's task has run, by its name."""
        runs: dict[str, list[datetime]] = {name: [] for name in self.schedules}
        for event in self.lab.events("due"):
            name, _, due = event.partition("@")
            runs[name].append(datetime.fromisoformat(due))
        return runs

    def missed(self, rows: list[dict[str, object]]) -> set[str]:
        """Return the schedules that a worker has died of, as a failed task says: the queue may not know them."""
        killed = "cannot be queued: The worker died (SIGKILL)"
        return {str(row["group"]) for row in rows if not row["success"] and killed in str(row["result"])}

    def missing(self) -> set[str]:
        """Return the tasks and schedules of which nothing is saved, and tasks that will be tried again."""
        rows = self.lab.rows()
        found = {*(row["id"] for row in rows), *(row["group"] for row in rows), *self.missed(rows)}
        return {*self.ids, *self.schedules} - found | set(self.lab.call("waiting"))

    def check(self, kills: int) -> None:
        """None has more attempts than it may, or came too early, or twice for one time; and none is lost."""
        lab, rows, starts = self.lab, self.lab.rows(), self.lab.starts()
        assert all(FAILS < starts[key] <= MOST + kills for key in self.failing), lab.report()
        check_none_came_early(lab, set(self.failing), BACKOFF)
        for key, due in self.due.items():
            (_, began), *_ = times(lab, key, "start")
            assert began > due - CLOCKS, f"{key}: {due - began}\n{lab.report()}"
        for line in lab.entries():
            if line[0] == "due":
                due = datetime.fromisoformat(line[1].partition("@")[2]).timestamp()
                assert float(line[3]) > due - CLOCKS, f"{line}\n{lab.report()}"
        by_id = {row["id"]: row for row in rows}
        assert len(by_id) == len(rows), rows
        for identity in self.ids:
            row = by_id[identity]
            assert row["success"] or (identity in self.failing.values() and row["attempts"] == MOST), row
            assert identity not in self.failing.values() or row["attempts"] <= MOST, row
        together = lab.base.combination.broker == "orm"
        missed, saved = self.missed(rows), Counter(row["group"] for row in rows if row["success"])
        assert not (together and missed), missed
        for name, dues in self.runs().items():
            assert saved[name] <= len(set(dues)), f"{name} was queued twice for one time: {dues}\n{lab.report()}"
            if (
                name in self.once
            ):  # a worker that was killed once it had queued one may be what is said to have missed it
                assert len(set(dues)) == 1 or (not dues and name in missed), f"{name}: {dues}\n{lab.report()}"


def go_through(lab: Lab) -> None:
    """Kill a process each second, and all of them each fifth."""
    chance = random.Random(SEED)  # noqa: S311 (chaos that can be repeated)
    supervisor = Supervisor(lab)
    due = Due(lab, chance)
    kills, end, last = 0, time.monotonic() + SECONDS, 0.0
    while time.monotonic() < end:
        supervisor.look()
        if time.monotonic() - last > 1:
            last = time.monotonic()
            if kills % 5 == 4:
                supervisor.cluster.signal(signal.SIGKILL)
                kills += 1
            else:
                kills += supervisor.kill_one(chance)
        time.sleep(0.05)
    lab.deadline = 120

    def is_over() -> bool:
        supervisor.look()
        return not due.missing()

    lab.wait(is_over, lambda: f"the end of {due.missing()}")
    due.check(kills)
    lab.wait(supervisor.is_whole, "a worker that is whole")
    supervisor.cluster.signal(signal.SIGTERM)
    assert supervisor.cluster.wait_for_exit() == 0, lab.report()


@pytest.mark.full
@each_broker(10)
def test_all_that_has_its_time_survives_chaos(lab: Lab) -> None:
    go_through(lab)


@pytest.mark.full
@pytest.mark.parametrize("database", ["sqlite"])
@each_broker(10, own_server=False)
def test_all_that_has_its_time_survives_chaos_where_the_queue_is_in_a_file(lab: Lab) -> None:
    go_through(lab)
