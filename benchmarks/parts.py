"""The parts of a run: what each measures, of which systems, in how many rounds.

Ratios that are promised are taken in all rounds, by turns; what is only told takes fewer: the whole is to stay short.
"""

import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from benchmarks import report
from benchmarks.at_once import at_once
from benchmarks.bench import Bench
from benchmarks.django_tasks import delay, through_tasks
from benchmarks.drain import LIMIT, NotEndedError, clusters, drain
from benchmarks.each import each
from benchmarks.enqueue import ceiling, enqueue
from benchmarks.growth import growth
from benchmarks.idle import idle
from benchmarks.setup import setup
from benchmarks.start import start
from benchmarks.systems import AT_ONCE, DELAYED, DJANGO_TASKS, DRAINED, PYTHONS, REALISTIC, STARTED, System
from benchmarks.web import COMPARED, GUNICORN, TRIES, program, web
from tests.combinations import TEMPLATE
from tests.interpreters import new_enough

PAIR = ["ours-redis", "django-q2-best-redis", "ours-postgresql", "django-q2-best-postgresql"]
OURS = ["ours-redis", "ours-postgresql"]
#: Which idle at the same time, and for how many seconds: ours does some things every 20 and some every 30, django-q2's
#: own worker every 30.
IDLE = [(OURS, 60), (["django-q2-best-redis", "django-q2-best-postgresql"], 30)]
SIZES = [1_000, 100_000, 1_000_000]
FEWER = [1_000, 10_000, 100_000]
CLUSTERS = [1, 2, 4, 8]
PAYLOADS = {"1 kB": (1_000, 4_000), "100 kB": (100_000, 300)}  #: bytes, and how many tasks are enough
WORK = 600  #: tasks that wait and write a row: two seconds of them, beside which begin and end weigh little
MOST = 8_000  #: of Django's tasks, which are queued one by one
DUE = 1000  #: tasks that are due later
FEW = 2  #: rounds of what no ratio is promised of
#: In the order in which they are taken; each is a method.
PARTS = ["drained", "worked", "enqueued", "tasked", "delayed", "waited", "served", "started", "counted", "clustered"]
PARTS += ["loaded", "idled", "grew", "imported"]


def commit() -> str:
    """Return what is measured, "" if git does not know."""
    command = ["git", "-C", str(TEMPLATE), "describe", "--always", "--exclude=*", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


@dataclass
class Measures:
    """Takes the measures, and keeps the figures."""

    bench: Bench
    systems: dict[str, System]
    rounds: int
    share: int  #: of the tasks and seconds: 1 for all, 3 for a third
    figures: report.Figures = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    late: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  #: who has not ended, by measure

    @property
    def sizes(self) -> list[int]:
        """How many tasks wait, and how many results are kept, where it is asked what grows."""
        return SIZES if self.share == 1 else FEWER

    @property
    def seen(self) -> report.Seen:
        """What was found as yet."""
        versions = {name: value for base in self.bench.bases.values() for name, value in base.versions.items()}
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        late = {measure: keys for measure, keys in self.late.items() if keys}
        cores = os.cpu_count() or 0
        return report.Seen(day, self.rounds, cores, self.sizes, versions, self.figures, late, commit())

    def keep(self, key: str, found: dict[str, float], prefix: str = "") -> None:
        """Add figures to those of other rounds."""
        for name, value in found.items():
            self.figures[f"{prefix}{name}"][key].append(value)

    def chosen(self, keys: Iterable[str]) -> list[System]:
        """Return the systems of these keys whose brokers are asked for."""
        return [self.systems[key] for key in keys if key in self.systems]

    def rate(self, measure: str, system: System, take: Callable[[], float]) -> None:
        """Take a rate."""
        self.take([measure], system, lambda: [take()])

    def take(self, measures: list[str], system: System, take: Callable[[], Iterable[float]]) -> None:
        """Take measures, but none of a system that has not ended in its time: each time costs a minute."""
        if system.key in self.late[measures[0]]:
            return
        try:
            self.keep(system.key, dict(zip(measures, take(), strict=True)))
        except NotEndedError as error:
            for measure in measures:
                self.late[measure].append(system.key)
            print(f"{measures[0]}: {system.key} has not ended in {LIMIT:.0f} s\n{error}", flush=True)

    def drain(self, measure: str, system: System, task: str, number: int, size: int = 0) -> None:
        """Take the rate at which a system drains a queue, of so many tasks in a run that is not quick."""
        few = max(number // self.share, 40)
        self.rate(measure, system, lambda: drain(self.bench, system, task, few, size))

    def servers(self) -> None:
        """Start all servers, and bake and install the projects: nothing of it is measured."""
        for key, system in [*self.systems.items()]:
            if system.packages and not new_enough(PYTHONS[system.packages]):
                needed = ".".join(map(str, PYTHONS[system.packages]))
                print(f"{key} is not measured: there is no Python {needed} or newer", flush=True)
                del self.systems[key]
        for broker in dict.fromkeys(system.broker for system in self.systems.values()):
            self.bench.base(broker)
        for system in self.systems.values():
            self.bench.python(system)

    def drained(self) -> None:
        """Take tasks that do nothing."""
        for _ in range(self.rounds):
            for system in self.chosen(DRAINED):
                self.drain("drain", system, "nothing", system.tasks)

    def worked(self) -> None:
        """Take tasks that wait and write a row: those of ours in all rounds, as their ratio is to a ceiling."""
        for number in range(self.rounds):
            for system in self.chosen(REALISTIC if number < FEW else OURS):
                self.drain("work", system, "work", WORK)
            for system in self.chosen(OURS)[:1]:
                self.keep(report.CEILING, {report.CEILING: ceiling(self.bench, system, WORK // self.share)})

    def enqueued(self) -> None:
        """Queue tasks."""
        for _ in range(self.rounds):
            for system in self.chosen(PAIR):
                self.keep(system.key, {"one": enqueue(self.bench, system, "one", 2000 // self.share)})
                if system.key in OURS:
                    number = 6000 if self.share == 1 else 2000
                    self.keep(system.key, {"thousand": enqueue(self.bench, system, "thousand", number)})

    def tasked(self) -> None:
        """Queue Django's tasks, and drain them."""
        for _ in range(self.rounds):
            for system in self.chosen(DJANGO_TASKS):
                number = max(min(system.tasks, MOST) // self.share, 40)
                self.take([*report.TASKED], system, partial(through_tasks, self.bench, system, number))

    def delayed(self) -> None:
        """Let tasks be due later."""
        for _ in range(min(FEW, self.rounds)):
            for system in self.chosen(DELAYED):
                self.take(report.LATE, system, partial(delay, self.bench, system, DUE // self.share))

    def waited(self) -> None:
        """Take tasks that wait, a hundred at once."""
        for _ in range(self.rounds):
            for system in self.chosen(system.key for system in AT_ONCE):
                self.take([*report.AT_ONCE], system, partial(at_once, self.bench, system, system.tasks // self.share))

    def idled(self) -> None:
        """Let workers idle."""
        tasks, settle, part = (200, 5.0, 1) if self.share == 1 else (40, 3.0, 2)
        for keys, seconds in IDLE if self.share == 1 else IDLE[:1]:
            if systems := self.chosen(keys):
                runs = {system.key: self.bench.run(system) for system in systems}
                for key, found in idle(runs, self.bench.folder, seconds / part, tasks, settle).items():
                    self.keep(key, found)

    def started(self) -> None:
        """Start and stop workers."""
        for _ in range(self.rounds):
            for system in self.chosen(STARTED):
                self.take([*report.STARTS], system, partial(start, self.bench, system))

    def imported(self) -> None:
        """Set Django up, with worker/ and without."""
        for _ in range(self.rounds):
            for system in self.chosen(OURS)[:1]:
                for title, found in setup(self.bench, system).items():
                    self.keep(title, found, report.SETUP)

    def counted(self) -> None:
        """Count what a task costs."""
        for system in self.chosen(PAIR):
            self.keep(system.key, each(self.bench, system, max(system.tasks // 2 // self.share, 200)), report.EACH)

    def grew(self) -> None:
        """Look at long queues."""
        for system in self.chosen(OURS):
            for name, values in growth(self.bench, system, self.sizes).items():
                self.figures[f"{report.GROWTH}{name}"][system.key] = values

    def clustered(self) -> None:
        """Take tasks with several clusters."""
        for count in CLUSTERS if self.share == 1 else CLUSTERS[:2]:
            for system in self.chosen(OURS):
                take = partial(clusters, self.bench, system, count, 9_000 // self.share)
                self.rate(f"{report.CLUSTERS}{count}", system, take)

    def loaded(self) -> None:
        """Take tasks with much in them."""
        for title, (size, most) in PAYLOADS.items():
            for system in self.chosen(PAIR):
                self.drain(f"{report.PAYLOAD}{title}", system, "nothing", min(system.tasks, most), size)

    def served(self) -> None:
        """Answer requests: with those arguments that are compared in all rounds, with the others once."""
        systems = self.chosen(OURS)
        if not systems or not program():
            print("web is not measured: there is no wrk", flush=True)
            return
        for number in range(self.rounds):
            for key, arguments in GUNICORN.items():
                if key in COMPARED or (not number and self.share == 1):
                    tries = TRIES if key == COMPARED[0] else 1
                    self.keep(key, web(self.bench, systems[0], arguments, 2, tries), report.WEB)

    def run(self, names: list[str], keep: Callable[[], object]) -> None:
        """Take the parts of these names, or all; after each, also one that fails, keep what was found so far."""
        first = time.monotonic()
        for part in ["servers", *(name for name in PARTS if not names or name in names)]:
            begin = time.monotonic()
            try:
                getattr(self, part)()
            finally:
                keep()
                now = time.monotonic()
                print(f"{part}: {now - begin:.0f} s, {now - first:.0f} s in all", flush=True)
