"""The overview as a text that fits a terminal of 80 columns."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from textwrap import wrap

from worker.failures import clock, ordinal
from worker.queue.depths import MOST
from worker.queue.state import Overview, QueueState, Scheduled

HEAD = ("queue", "waiting", "due", "oldest", "running", "workers", "done/5min", "failed/5min")
MOST_LINES = 20  #: of a part


def text(found: Overview, width: int = 80) -> str:
    """Return the overview, no line of which is longer than the width."""
    return "\n\n".join("\n".join(part) for part in parts(found, width) if part)


def parts(found: Overview, width: int) -> Iterator[list[str]]:
    """Yield what there is to say, as lists of lines."""
    yield table([HEAD, *map(row_of, found.queues)], width, right=range(1, len(HEAD)))
    yield [line for queue in found.queues for note in notes_of(queue) for line in wrap(note, width)]
    yield [line for queue in found.queues if queue.start_with for line in start(queue)]
    if running := found.running:
        rows = [(duration(run.seconds), run.queue, run.func, run.id) for run in running[:MOST_LINES]]
        yield [f"Running: {len(running)}", *table(rows, width, right=[0], squeezed=2)]
    if found.again.total:
        tries = [(moment(each.next), each.func, ordinal(each.attempts, each.of), each.id) for each in found.again.first]
        lines = explained(table(tries, width, squeezed=1), [each.reason for each in found.again.first], width)
        yield [f"To be tried again: {counted(found.again.total)}", *lines]
    if found.failed or found.failed_older:
        yield [f"Failed for good: {counted(found.failed_total)}", *failures(found, width)]
    if found.schedules:
        schedules = [(each.name, moment(each.last), following(each), said(each)) for each in found.schedules]
        yield table([("schedule", "last", "next", ""), *schedules], width, squeezed=0)


def failures(found: Overview, width: int) -> Iterator[str]:
    """Yield the groups, and how many they leave out."""
    if found.failed:
        rows = [(f"{it.count}{'+' * it.more}", it.func, moment(it.last), it.ids[0]) for it in found.failed]
        yield from explained(table(rows, width, right=[0], squeezed=1), [it.reason for it in found.failed], width)
    if found.failed_older:
        yield f"Not counted in these lines: {counted(found.failed_older)} that failed earlier"


def row_of(queue: QueueState) -> tuple[str, ...]:
    unknown, more = queue.waiting is None, "+" * queue.more
    return (
        queue.name,
        "?" if unknown else f"{queue.waiting}{more}",
        "?" if unknown else f"{queue.due}{more}",
        "-" if queue.oldest is None else duration(queue.oldest),
        str(queue.running),
        str(sum(cluster.workers for cluster in queue.clusters if cluster.alive)),
        str(queue.done),
        str(queue.failed),
    )


def notes_of(queue: QueueState) -> Iterator[str]:
    """Yield what else is to be said of a queue."""
    if queue.problem:
        yield f"{queue.name}: {queue.problem}"
    if queue.paused_since:
        yield f"{queue.name}: paused by {queue.paused_by} since {moment(queue.paused_since)}."
    for cluster in queue.clusters:
        state = "alive" if cluster.alive else f"dead, last seen {moment(cluster.seen)}"
        late = "".join(f", late with {what}" for what in cluster.late)
        yield f"{queue.name}: {cluster.host}:{cluster.pid} since {moment(cluster.since)}, {state}{late}."


def start(queue: QueueState) -> tuple[str, str]:
    """Return how to let somebody serve a queue."""
    return f"Nothing serves the queue {queue.name}. Start it with:", f"    {queue.start_with}"


def said(schedule: Scheduled) -> str:
    """Return what is not as it should be with a schedule."""
    late = [f"overdue for {duration(schedule.overdue)}"] if schedule.overdue else []
    failed = ["has failed"] if schedule.last_failed else []
    return ", ".join([*late, *failed, *(["off"] if schedule.off else [])])


def following(schedule: Scheduled) -> str:
    """Return when a schedule is due next."""
    return "never" if schedule.next is None and not schedule.off else moment(schedule.next)


def counted(number: int) -> str:
    """Return a number, and whether there may be more."""
    return f"{number}{'+' * (number >= MOST)}"


def table(rows: Sequence[Sequence[str]], width: int, right: Sequence[int] = (), squeezed: int = 0) -> list[str]:
    """Return lines of columns, one of which is made as narrow as need be; these are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[squeezed] = max(8, min(widths[squeezed], width - sum(widths) - 2 * (len(widths) - 1) + widths[squeezed]))
    lines = []
    for row in rows:
        cells = [cut(cell, size) for cell, size in zip(row, widths, strict=True)]
        aligned = [
            cell.rjust(size) if place in right else cell.ljust(size)
            for place, (cell, size) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip()[:width])
    return lines


def explained(lines: list[str], reasons: list[str], width: int) -> list[str]:
    """Return lines with the reason below each."""
    pairs = zip(lines, reasons, strict=True)
    return [line for pair in pairs for line in (pair[0], f"    {cut(pair[1] or 'no reason is kept', width - 4)}")]


def plain(text: str) -> str:
    """Return a text without what could command a terminal: names and reasons may hold what strangers have sent."""
    return "".join(each if each.isprintable() or each == "\n" else "�" for each in text)


def cut(cell: str, size: int) -> str:
    """Return a text in one line that is not longer than this."""
    cell = plain(" ".join(cell.split()))
    return cell if len(cell) <= size else f"{cell[: size - 1]}…"


def moment(when: datetime | None) -> str:
    """Return a time by this host's clock."""
    return clock(when.timestamp()) if when else "-"


def duration(seconds: float) -> str:
    """Return seconds in the largest unit of which there are two or more."""
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
