"""docs/performance.md: its tables and charts, from what the last run of `make bench` has found."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import groupby
from typing import TypedDict

from benchmarks import fit
from benchmarks.drain import LIMIT
from benchmarks.setup import TRIES, WITHOUT
from benchmarks.systems import SYSTEMS, System
from benchmarks.web import GUNICORN
from tests.combinations import TEMPLATE

DOCS = TEMPLATE / "docs"
PAGE, DATA = DOCS / "performance.md", DOCS / "performance.json"
BEGIN, END = "<!-- what follows is written by `make bench` -->", "<!-- what was written ends -->"
BY_KEY = {system.key: system for system in SYSTEMS}
Figures = dict[str, dict[str, list[float]]]  #: by measure and system, one for each round


class Part(TypedDict):
    """A run of some parts, whose figures stand beside those of the last whole run."""

    day: str
    commit: str
    rounds: int
    versions: dict[str, str]


@dataclass
class Seen:
    """What a run has found."""

    day: str
    rounds: int
    cores: int
    sizes: list[int]  #: of the queues and of the kept results whose growth was looked at
    versions: dict[str, str]
    figures: Figures
    late: dict[str, list[str]] = field(default_factory=dict)  #: systems that have not ended, by measure
    commit: str = ""  #: of the template, "" if it is not known
    parts: dict[str, Part] = field(default_factory=dict)  #: by measure, the runs that took others than the whole one

    def of(self, measure: str, key: str) -> list[float]:
        """Return the figures of a system, none if it has none."""
        return self.figures.get(measure, {}).get(key, [])

    def keys(self, measure: str) -> set[str]:
        """Return the systems of which a measure was taken, or tried."""
        return {*self.figures.get(measure, {}), *self.late.get(measure, [])}

    def cell(self, measure: str, key: str) -> str:
        """Return the median and the spread of a system, and whether it has not ended once."""
        parts = [figure(values)] if (values := self.of(measure, key)) else ["-"]
        if key in self.late.get(measure, []):
            parts.append(f"not ended after {LIMIT:.0f} s" if not values else f"once not ended after {LIMIT:.0f} s")
        return ", ".join(parts)


def figure(values: list[float]) -> str:
    """Return the median, and the spread."""
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 3 if 0 < middle < 0.1 else 2
    if len(values) == 1:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def ratio(ours: list[float], theirs: list[float], digits: int = 1) -> str:
    """Return the ratio of the medians, "" where there is none."""
    if not ours or not theirs:
        return ""
    return f"{statistics.median(ours) / statistics.median(theirs):.{digits}f}x"


def row(*cells: str) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def by_place(keys: Iterable[str]) -> Iterator[tuple[str, list[System]]]:
    """Group systems by where their tasks wait, in the order in which they stand in the list."""
    chosen = [BY_KEY[key] for key in BY_KEY if key in set(keys)]
    for place, systems in groupby(chosen, lambda system: system.place):
        yield place, list(systems)


def ours(systems: list[System]) -> System:
    """Return which of them is this worker."""
    return next(system for system in systems if system.key.startswith("ours"))


def drained(seen: Seen, columns: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a table with a column for each measure, by its title; those of rates have ratios."""
    yield row("tasks wait in", "worker", "settings", *(cell for title in columns.values() for cell in headed(title)))
    yield row(*["---"] * (3 + sum(len(headed(title)) for title in columns.values())))
    for place, systems in by_place(set().union(*map(seen.keys, columns))):
        mine = ours(systems)
        for system in systems:
            cells = []
            for measure, title in columns.items():
                times = "" if system is mine else ratio(seen.of(measure, mine.key), seen.of(measure, system.key))
                cells += [seen.cell(measure, system.key), times][: len(headed(title))]
            yield row(place, system.title, system.settings, *cells)


def headed(title: str) -> list[str]:
    """Return the heads of a measure: of a rate there are ratios beside it."""
    return [title, "this worker is"] if title.endswith("/s") else [title]


Fitted = Callable[[Sequence[float], Sequence[float]], str]  #: says how costs grow with numbers
CEILING = "ceiling"  #: the measure of two processes that call the task themselves


def worked(seen: Seen) -> Iterator[str]:
    """Yield the lines of the table of the realistic task, with what no two workers can exceed."""
    yield from drained(seen, {"work": "tasks/s"})
    if most := seen.of(CEILING, CEILING):
        found = seen.figures["work"]
        ratios = [f"{ratio(found[key], most, 2)} ({BY_KEY[key].place})" for key in found if key.startswith("ours")]
        yield row("nowhere", "none: two processes that call the task", "", figure(most), ", ".join(ratios))


def enqueued(seen: Seen) -> Iterator[str]:
    """Yield the lines of the table of tasks queued a second."""
    yield row("tasks wait in", "way", "tasks/s", "of django-q2's own")
    yield row(*["---"] * 4)
    for place, systems in by_place(seen.keys("one")):
        mine = ours(systems).key
        for theirs in (system.key for system in systems if system.key != mine):
            yield row(place, "django-q2's own, one at a time", seen.cell("one", theirs), "")
            for way, name in (("one", "one at a time"), ("thousand", "a thousand in one call")):
                yield row(place, name, seen.cell(way, mine), ratio(seen.of(way, mine), seen.of("one", theirs)))


COSTS = ["latency p50, ms", "latency p99, ms", "transactions/s", "Redis commands/s", "CPU, % of a core"]
COSTS += ["memory (PSS), MiB"]
STARTS = ["start to first task, s", "start: memory (PSS), MiB", "stop, s"]
SETUP = "setup: "  #: how the measures of django.setup() begin
EACH = "each: "  #: how the measures of one task's costs begin
CLUSTERS = "clusters: "  #: how those begin that have a number of clusters
PAYLOAD = "payload: "  #: how those begin that have a size
WEB = "web: "  #: how those of requests begin
TASKED = {
    "Django's tasks: queued": "one `.enqueue()` at a time, tasks/s",
    "Django's tasks: drained": "drained, tasks/s",
}
LATE = ["late: least, ms", "late: p50, ms", "late: p99, ms", "late: most, ms"]
AT_ONCE = {"at once": "tasks/s", "at once: memory": "memory (PSS), MiB"}


def cost(seen: Seen, names: list[str], title: str = "", fitted: Fitted | None = None) -> Iterator[str]:
    """Yield the lines of a table with a column for each measure that was taken, and one for how a task's cost grows."""
    taken = [name for name in names if seen.keys(name)]
    last = [title] if fitted else []
    yield row("tasks wait in", "worker", *(name.partition(": ")[2] or name for name in taken), *last)
    yield row(*["---"] * (2 + len(taken + last)))
    for place, systems in by_place(set().union(*map(seen.keys, taken))):
        for system in systems:
            words = [by_number(seen, taken, system.key, fitted)] if fitted else []
            yield row(place, system.title, *[seen.cell(name, system.key) for name in taken], *words)


def by_number(seen: Seen, names: list[str], key: str, fitted: Fitted) -> str:
    """Say how a task's milliseconds grow with the number in the names of its rates, such as "payload: 1 kB"."""
    rates = {name: statistics.median(values) for name in names if (values := seen.of(name, key))}
    numbers = [float(name.partition(": ")[2].split()[0]) for name in rates]
    return fitted(numbers, [1000 / rate for rate in rates.values()])


def beginning(figures: Figures, prefix: str) -> list[str]:
    """Return the measures whose names begin so."""
    return [name for name in figures if name.startswith(prefix)]


def served(figures: Figures) -> Iterator[str]:
    """Yield the lines of the table of requests, with ratios to gunicorn's defaults."""
    names = beginning(figures, WEB)
    yield row("gunicorn", *(name.removeprefix(WEB) for name in names))
    yield row(*["---"] * (1 + len(names)))
    for key in (key for key in GUNICORN if key in figures[names[0]]):
        cells = []
        for name in names:
            found, defaults = figures[name][key], figures[name].get("sync")
            is_ratio = name.endswith("requests/s") and key != "sync" and defaults
            cells.append(f"{figure(found)}{f', {ratio(found, defaults, 2)}' if is_ratio and defaults else ''}")
        yield row(GUNICORN[key].title, *cells)


def added(figures: Figures) -> Iterator[str]:
    """Yield the lines of the table of django.setup(), and what each app of it takes."""
    names = beginning(figures, SETUP)
    yield row("`INSTALLED_APPS`", *(name.removeprefix(SETUP) for name in names))
    yield row(*["---"] * (1 + len(names)))
    for title in WITHOUT:
        yield row(title, *(figure(figures[name][title]) for name in names))
    whole, without, *_ = ([statistics.median(figures[name][title]) for name in names] for title in WITHOUT)
    yield row("what `worker` adds", *(figure([one - other]) for one, other in zip(whole, without, strict=True)))


ON_PAPER = [1_000, 10_000, 100_000]  #: tasks a second
PARTS = {
    "cores of the worker": ("CPU of the worker, ms", 1e-3),
    "cores of PostgreSQL": ("CPU of PostgreSQL, ms", 1e-3),
    "its commits/s": ("transactions", 1.0),
    "its WAL, MB/s": ("bytes of WAL", 1e-6),
    "cores of Redis": ("CPU of Redis, ms", 1e-3),
    "to and from it, MB/s": ("bytes to Redis + bytes from Redis", 1e-6),
}  #: of what a machine has: the costs of a task that take it, and how much of it one of their units is


def planned(seen: Seen) -> Iterator[str]:
    """Yield the lines of the table of what many tasks a second take, if each takes what one was seen to take."""
    yield row("tasks/s", "tasks wait in", "clusters", *PARTS)
    yield row(*["---"] * (3 + len(PARTS)))
    for rate in ON_PAPER:
        for place, systems in by_place(seen.keys(f"{EACH}CPU of the worker, ms")):
            key = ours(systems).key
            cells = []
            for names, unit in PARTS.values():
                costs = [
                    statistics.median(found) for name in names.split(" + ") if (found := seen.of(EACH + name, key))
                ]
                cells.append(figure([rate * sum(costs) * unit]) if any(costs) else "-")
            clusters = math.ceil(rate / statistics.median(seen.of("drain", key)))
            yield row(f"{rate:,}", place, str(clusters), *cells)


GROWTH = "ms to "  #: how the measures begin that have a figure for each size


def grown(seen: Seen) -> Iterator[str]:
    """Yield the lines of the table of what grows."""
    yield row(
        "tasks wait in",
        "milliseconds to",
        *(f"{size:,} wait, and as many results are kept" for size in seen.sizes),
        "it",
    )
    yield row(*["---"] * (3 + len(seen.sizes)))
    measures = [name for name in seen.figures if name.startswith(GROWTH)]
    for place, (system, *_) in by_place(seen.figures[measures[0]]):
        for name in measures:
            costs = seen.figures[name][system.key]
            shown = [f"{value:,.1f}" for value in costs]
            yield row(place, name.removeprefix(GROWTH), *shown, fit.power(seen.sizes, costs))


#: What a reader must know of a table.
NOTES = {
    "Django's tasks, which do nothing": (
        "Functions with `@task`: one process queues them, one `.enqueue()` after the other, and then workers are "
        "started. django-ox and threadmill ran on Django 6.1 and the oldest Python that they take and that was there, "
        "the others on the versions above."
    ),
    "Tasks that are due later": (
        "Tasks with a `run_after`, 1,000 at random moments of ten seconds, while the worker has nothing else to do: by "
        "how much each began after its moment. django-ox and threadmill look for them once a second, as they do unless "
        "told otherwise, and django-tasks-db ten times."
    ),
    "Tasks that wait 100 ms, a hundred at once": (
        "1,000 a second are the most that there can be. The first 400 of them do not count, during which processes and "
        "threads are made. The memory is that of all processes of the worker, once it has run them all. Tasks of the "
        "other queues count here once they have ended."
    ),
    "Start and stop of a worker": (
        "From the start of its process until a task begins that waits for it; the memory of all of its processes a "
        "second after that; and from SIGTERM to an idle worker until all of its processes have ended."
    ),
    "What worker/ adds to the start of a process": (
        "`django.setup()` of the project that is generated for Redis, in a new process each time: what web, a worker "
        f"and each command do first. {TRIES} times in each round, by turns; the median counts. The memory is what the "
        "process shares with no other."
    ),
    "What one task asks": (
        "A task that does nothing, from a full queue until its result is saved and it is acknowledged, with "
        "its part of what the start asks. PostgreSQL's log and Redis count; BEGIN and COMMIT are queries, "
        "too. The CPU is that of all processes of the worker, and of each server's, without that log."
    ),
    "On paper: what many tasks a second take": (
        "Arithmetic: the costs of one task above, so many times, and as many clusters of two processes as the first "
        "table asks for. The tasks do nothing: add what yours take. The commits are those of full batches; a cluster "
        "that has less to do makes up to 50 a second of what comes."
    ),
    "Tasks that do nothing, a second, by clusters": (
        "The clusters, of two processes each, share this machine's cores with the servers, and the queue is "
        "filled while they take from it: this shows whether they are in each other's way. The last column is "
        "about the time that all of them take for a task, and fitted as in the table of what grows."
    ),
    "Tasks that do nothing, a second, by the size of their argument": (
        "The last column is the line through the figures: what a task takes, and what each kB of it adds."
    ),
    "What grows": (
        "The last column is fitted: the exponent of the power of the number that is nearest to the figures, by least "
        "squares of the logarithms. With 0, a cost stays as it is; with 1, it grows as the number does."
    ),
    "Requests to the web process": (
        "wrk asks over 16 connections that it keeps, two seconds each time, for what is answered before the project's "
        "middleware (bare), for a view that does nothing behind it (trivial), and for one that waits 50 ms (waiting). "
        "It is chance how many of the connections a worker accepts; the generated arguments were tried three times in "
        "each round, with new connections, and the median counts. Ratios are to gunicorn's defaults with two workers."
    ),
}


def tables(seen: Seen) -> str:
    """Return what `make bench` writes into the page, without a section for what was not measured."""
    versions = listed(seen.versions)
    when, but = measured(seen.day, seen.commit), ", but for tables that say another day" if seen.parts else ""
    lines = [f"{when}, on {seen.cores} cores, {seen.rounds} rounds by turns{but}; {versions}."]
    figures = seen.figures
    each, clusters, payload = (beginning(figures, prefix) for prefix in (EACH, CLUSTERS, PAYLOAD))
    growth, web = beginning(figures, GROWTH), beginning(figures, WEB)
    sections: dict[str, tuple[list[str], Callable[[], Iterable[str]]]] = {
        "Tasks that do nothing": (["drain"], lambda: drained(seen, {"drain": "tasks/s"})),
        "Tasks that wait 5 ms and write a row": (["work"], lambda: worked(seen)),
        "Queuing from one process": (["one", "thousand"], lambda: enqueued(seen)),
        "Django's tasks, which do nothing": ([*TASKED], lambda: drained(seen, TASKED)),
        "Tasks that are due later": (LATE, lambda: cost(seen, LATE)),
        "Tasks that wait 100 ms, a hundred at once": ([*AT_ONCE], lambda: drained(seen, AT_ONCE)),
        "An idle worker": (COSTS, lambda: cost(seen, COSTS)),
        "Start and stop of a worker": (STARTS, lambda: cost(seen, STARTS)),
        "What worker/ adds to the start of a process": (beginning(figures, SETUP), lambda: added(figures)),
        "What one task asks": (each, lambda: cost(seen, each)),
        "On paper: what many tasks a second take": (each if seen.keys("drain") else [], lambda: planned(seen)),
        "Tasks that do nothing, a second, by clusters": (
            clusters,
            lambda: cost(seen, clusters, "a task's time", fit.power),
        ),
        "Tasks that do nothing, a second, by the size of their argument": (
            payload,
            lambda: cost(seen, payload, "a task takes", fit.by_size),
        ),
        "What grows": (growth, lambda: grown(seen)),
        "Requests to the web process": (web, lambda: served(figures)),
    }
    for title, (names, table) in sections.items():
        if any(seen.keys(name) for name in names):
            note = [NOTES[title], ""] if title in NOTES else []
            told = [*another(seen, names), *fewer(seen, [] if names == growth else names)]
            lines += ["", f"### {title}", "", *note, *told, *table()]
    return "\n".join(lines)


def measured(day: str, commit: str) -> str:
    """Say when, and of which commit."""
    return f"Measured on {day}{f' at {commit}' if commit else ''}"


def listed(versions: Mapping[str, str]) -> str:
    """Return versions as text."""
    return ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))


def another(seen: Seen, names: list[str]) -> list[str]:
    """Return a sentence on when some measures were taken, if it was not in the last whole run."""
    sentences = []
    for part in (part for name, part in seen.parts.items() if name in names):
        new = {name: value for name, value in part["versions"].items() if seen.versions.get(name) != value}
        with_versions = f", with {listed(new)}" if new else ""
        rounds = f", {part['rounds']} rounds by turns" if part["rounds"] > 1 else ""
        sentences.append(f"{measured(part['day'], part['commit'])}{rounds}{with_versions}.")
    return [" ".join(dict.fromkeys(sentences)), ""] if sentences else []


def merged(whole: Seen, part: Seen) -> Seen:
    """Return what a whole run has found with what one of parts has found after it: each measure is of one run."""
    taken = {*part.figures, *part.late}
    told: Part = {"day": part.day, "commit": part.commit, "rounds": part.rounds, "versions": part.versions}
    figures = {name: found for name, found in whole.figures.items() if name not in taken}
    late = {name: keys for name, keys in whole.late.items() if name not in taken}
    return replace(
        whole,
        sizes=part.sizes if any(name.startswith(GROWTH) for name in taken) else whole.sizes,
        figures=figures | {**part.figures},
        late=late | part.late,
        parts=whole.parts | dict.fromkeys(sorted(taken), told),
    )


def fewer(seen: Seen, names: list[str]) -> list[str]:
    """Return a sentence on the rounds of some measures, if one has not taken all."""
    ended = [(name, key) for name in names for key in seen.keys(name) if key not in seen.late.get(name, [])]
    taken = sorted({len(seen.of(name, key)) for name, key in ended})
    all_rounds = {seen.parts[name]["rounds"] if name in seen.parts else seen.rounds for name, _ in ended}
    if not taken or taken == sorted(all_rounds):
        return []
    if taken == [1]:
        return ["Measured once.", ""]
    numbers = " or ".join(str(number) for number in taken if number > 1)
    return [f"Measured in {numbers} rounds; where no spread is given, once.", ""]


def chart(found: dict[str, list[float]], place: str) -> str:
    """Return bars of the medians of the systems of a place, with lines for the spread, as SVG."""
    systems = dict(by_place(found))[place]
    most = max(max(found[system.key]) for system in systems)
    bars = []
    for number, system in enumerate(systems):
        values, y = found[system.key], 34 * number
        low, middle, high = (
            round(400 * value / most) for value in (min(values), statistics.median(values), max(values))
        )
        color = "#0b6e4f" if system is ours(systems) else "#8a94a6"
        bars.append(
            f'<text x="250" y="{y + 21}" text-anchor="end">{escape(system.title)}</text>'
            f'<rect x="260" y="{y + 6}" width="{middle}" height="22" fill="{color}"/>'
            f'<path d="M{260 + low} {y + 17}H{260 + high}" stroke="#1b1f24"/>'
            f'<text x="{268 + high}" y="{y + 21}">{statistics.median(values):,.0f}</text>'
        )
    height = 34 * len(systems)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 {height}" font-family="sans-serif" font-size="13" '
        f'role="img"><title>Tasks a second, {place}</title><rect width="740" height="{height}" fill="#fff"/>\n'
        + "\n".join(bars)
        + "\n</svg>\n"
    )


def charts(seen: Seen) -> dict[str, str]:
    """Return the charts by the names of their files."""
    found = seen.figures["drain"]
    return {f"performance-{place.lower()}.svg": chart(found, place) for place in ("Redis", "PostgreSQL")}


def text(seen: Seen, page: str) -> str:
    """Return a page with what was found between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(seen)}\n\n{END}{after}"


def kept() -> Seen:
    """Return what the last run has found."""
    return Seen(**json.loads(DATA.read_text()))


def data(seen: Seen) -> str:
    """Return what was found as JSON, with four digits."""
    rounded = {
        measure: {key: [float(f"{value:.4g}") for value in values] for key, values in found.items()}
        for measure, found in seen.figures.items()
    }
    return json.dumps(vars(seen) | {"figures": rounded}, indent=1) + "\n"


def write(seen: Seen, *, is_part: bool) -> None:
    """Keep what was found, of parts beside that of the last whole run, and write the page and the charts."""
    seen = merged(kept(), seen) if is_part else seen
    DATA.write_text(data(seen))
    PAGE.write_text(text(kept(), PAGE.read_text()))
    for name, svg in charts(kept()).items():
        (DOCS / name).write_text(svg)
