"""docs/performance.md says what the last run of `make bench` has found, and nothing else.

And what the benchmark computes, it computes rightly; its measures themselves are not taken here.
"""

import json
import logging
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest

from benchmarks import at_once, beside, drain, fit, parts, report
from benchmarks.bench import Bench
from benchmarks.cpu import cpu, cpu_of_server
from benchmarks.idle import WARM, latency
from benchmarks.inside.bench.apps import Saved, file, logger
from benchmarks.parts import PARTS, Measures
from benchmarks.setup import WITHOUT
from benchmarks.systems import AT_ONCE, DELAYED, DJANGO_TASKS, DRAINED, PYTHONS, QUICK, REALISTIC, STARTED, SYSTEMS
from tests.combinations import TEMPLATE
from tests.processes import started

KEYS = ["ours-redis", "django-q2-best-redis"]
# One child uses the CPU and ends, one uses it and stays.
SERVER = """
import os, time
def child():
    if not (pid := os.fork()):
        while time.process_time() < 0.2:
            pass
        print("busy no more", flush=True)
    return pid
if (first := child()):
    os.waitpid(first, 0)
    if not child():
        time.sleep(60)
    os.wait()
"""


@pytest.fixture
def measures(tmp_path: Path) -> Measures:
    """Return what takes the measures of two systems, with nothing started as yet."""
    systems = {system.key: system for system in SYSTEMS if system.key in KEYS}
    return Measures(Bench(tmp_path, ExitStack()), systems, rounds=2, share=1)


def test_the_page_and_its_charts_tell_of_the_last_run() -> None:
    seen, page = report.kept(), report.PAGE.read_text()
    assert page == report.text(seen, page)
    for name, svg in report.charts(seen).items():
        assert (report.DOCS / name).read_text() == svg, name
        assert f"]({name})" in page, name


def test_the_last_run_was_a_whole_one() -> None:
    seen = report.kept()
    asked = {"drain": set(DRAINED), "work": set(REALISTIC)}
    for measure, keys in asked.items():
        assert seen.keys(measure) == keys
    ended = seen.figures["drain"].keys() - seen.late.get("drain", [])
    assert all(len(seen.of("drain", key)) == seen.rounds for key in ended)


def test_a_table_that_says_something_else_is_noticed() -> None:
    seen, page = report.kept(), report.PAGE.read_text()
    seen.figures["drain"]["ours-redis"] = [1.0] * seen.rounds
    assert page != report.text(seen, page)


def test_a_table_that_was_taken_alone_says_when_and_the_others_stay_as_they_were() -> None:
    whole = report.kept()
    whole.parts.clear()
    for name in (*report.TASKED, *report.LATE):
        whole.figures.pop(name, None)
        whole.late.pop(name, None)
    figures: report.Figures = {name: {"ours-redis": [2000.0] * 3, "threadmill": [500.0] * 3} for name in report.TASKED}
    versions = whole.versions | {"Redis": "8.4.0"}
    first = report.Seen("2026-12-01", 3, 2, [10], versions, figures, {}, "1a2b3c4")
    again = report.Seen(
        "2026-12-02", 1, 2, [10], whole.versions, {report.LATE[0]: {"ours-redis": [7.0]}}, {}, "5d6e7f8"
    )
    seen = report.merged(report.merged(whole, first), again)
    assert seen == report.Seen(**json.loads(report.data(seen)))
    sections = dict(section.split("\n", 1) for section in report.tables(seen).split("\n### "))
    for section in report.tables(whole).split("\n### ")[1:]:
        title, table = section.split("\n", 1)
        assert sections[title] == table, title
    tasks, late = sections["Django's tasks, which do nothing"], sections["Tasks that are due later"]
    assert "\nMeasured on 2026-12-01 at 1a2b3c4, 3 rounds by turns, with Redis 8.4.0.\n" in tasks
    assert "Measured in" not in tasks
    assert "| 500 (500-500) | 4.0x | 500 (500-500) | 4.0x |" in tasks
    assert "\nMeasured on 2026-12-02 at 5d6e7f8.\n" in late
    assert "but for tables that say another day" in report.tables(seen).splitlines()[0]


def test_a_table_that_is_taken_again_keeps_nothing_of_the_former_run() -> None:
    whole = report.kept()
    whole.parts.clear()
    whole.late["work"] = ["huey"]
    part = report.Seen("2026-12-01", 1, 2, [10], {}, {"work": {"ours-redis": [1.0]}, "drain": {}}, {"one": ["huey"]})
    seen = report.merged(whole, part)
    assert (seen.keys("work"), seen.keys("drain")) == ({"ours-redis"}, set())
    assert seen.keys("one") == {"huey"}
    assert (seen.day, seen.sizes, set(seen.parts)) == (whole.day, whole.sizes, {"work", "drain", "one"})


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--write"], "--write goes with --part alone"),
        (["--write", "--part", "waited", "redis"], "--write goes with --part alone"),
        (["--part", "typo"], "invalid choice: 'typo'"),
    ],
)
def test_a_run_that_cannot_be_written_is_refused(arguments: list[str], problem: str) -> None:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=TEMPLATE, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert problem in done.stderr


def test_each_part_can_be_taken() -> None:
    assert all(callable(getattr(Measures, name)) for name in PARTS)


def test_a_table_of_what_was_not_measured_is_left_out() -> None:
    seen = report.kept()
    whole = report.tables(seen)
    del seen.figures["work"]
    without = report.tables(seen)
    assert "### Tasks that wait 5 ms and write a row" in whole
    assert "### Tasks that wait 5 ms and write a row" not in without
    assert "| |" not in without


def test_a_table_shows_each_measure_that_was_taken() -> None:
    seen = report.kept()
    seen.figures.clear()
    seen.late.clear()
    for name in (*report.STARTS, f"{report.EACH}Redis commands", f"{report.CLUSTERS}8", f"{report.PAYLOAD}1 kB"):
        seen.figures[name] = {key: [1.5] for key in KEYS}
    seen.figures[f"{report.WEB}trivial, requests/s"] = {"generated": [23.0, 24.0, 25.0], "sync": [10.0, 20.0, 30.0]}
    seen.figures[report.CEILING] = {report.CEILING: [570.0]}
    seen.figures["work"] = {"ours-redis": [513.0]}
    written = report.tables(seen)
    assert "| 570 | 0.90x (Redis) |" in written
    for head in (
        "start to first task, s | memory (PSS), MiB | stop, s",
        "| Redis commands |",
        "| worker | 8 | ",
        "| worker | 1 kB | ",
    ):
        assert head in written, head
    assert "| 24.0 (23.0-25.0), 1.20x |" in written
    assert "Measured once." in written


def test_what_an_app_adds_is_the_difference_of_the_medians() -> None:
    seen = report.kept()
    seen.figures.clear()
    seen.late.clear()
    for title, value in zip(WITHOUT, (150.0, 110.0, 80.0), strict=True):
        seen.figures.setdefault(f"{report.SETUP}ms of CPU", {})[title] = [value - 1, value, value + 2]
    written = report.tables(seen)
    assert "| as generated | 150 (149-152) |" in written
    assert "| what `worker` adds | 40.0 |" in written


def test_a_table_says_how_the_cost_of_a_task_grows_as_it_follows_from_its_figures() -> None:
    seen = report.kept()
    seen.figures.clear()
    seen.late.clear()
    seen.sizes = [1_000, 100_000, 1_000_000]
    for clusters in (1, 2, 4, 8):
        seen.figures[f"{report.CLUSTERS}{clusters}"] = {"ours-redis": [4000 / clusters]}
    seen.figures[f"{report.PAYLOAD}1 kB"] = {"ours-redis": [1000 / 0.27]}
    seen.figures[f"{report.PAYLOAD}100 kB"] = {"ours-redis": [1000 / 2.25]}
    seen.figures[f"{report.GROWTH}count"] = {"ours-redis": [0.1, 0.1, 0.1]}
    written = report.tables(seen)
    assert "| 4,000 | 2,000 | 1,000 | 500 | grows with the number (exponent 1.00) |" in written
    assert "| 3,704 | 444 | 0.25 ms, and 0.0200 ms for each kB |" in written
    assert "| count | 0.1 | 0.1 | 0.1 | does not grow (exponent 0.00) |" in written


def test_what_many_tasks_take_is_what_one_takes_so_many_times() -> None:
    seen = report.kept()
    seen.figures.clear()
    seen.late.clear()
    costs = {"CPU of the worker, ms": 0.2, "transactions": 0.01, "bytes to Redis": 50.0, "bytes from Redis": 150.0}
    for name, cost in {"drain": 4000.0, **{f"{report.EACH}{name}": cost for name, cost in costs.items()}}.items():
        seen.figures[name] = {"ours-redis": [cost], "django-q2-best-redis": [1.0]}
    written = report.tables(seen)
    assert "| 10,000 | Redis | 3 | 2.00 | - | 100 | - | - | 2.00 |" in written
    assert "| 100,000 | Redis | 25 | 20.0 | - | 1,000 | - | - | 20.0 |" in written


@pytest.mark.parametrize(
    ("exponent", "words"),
    [
        (-0.3, "does not grow (exponent -0.30)"),
        (-0.001, "does not grow (exponent 0.00)"),
        (0.0, "does not grow (exponent 0.00)"),
        (0.5, "grows less than the number (exponent 0.50)"),
        (1.0, "grows with the number (exponent 1.00)"),
    ],
)
def test_the_exponent_of_a_power_is_found(exponent: float, words: str) -> None:
    numbers = [1_000, 100_000, 1_000_000]
    costs = [3 * number**exponent for number in numbers]
    assert fit.exponent(numbers, costs) == pytest.approx(exponent)
    assert fit.power(numbers, costs) == words


def test_a_line_lies_between_figures_that_scatter() -> None:
    assert fit.line([0, 1, 2, 3], [1.0, 2.0, 4.0, 5.0]) == pytest.approx((0.9, 1.4))


def test_of_one_figure_nothing_is_said() -> None:
    assert fit.power([8], [1.5]) == fit.by_size([1], [1.5]) == ""


def test_a_system_that_has_not_ended_is_a_dash_and_not_the_end_of_the_run(measures: Measures) -> None:
    def never() -> float:
        raise drain.NotEndedError

    ours, theirs = measures.systems.values()
    rates = iter([100.0, 200.0])
    measures.rate("drain", ours, lambda: next(rates))
    measures.rate("drain", theirs, never)
    measures.rate("drain", ours, lambda: next(rates))
    measures.rate("drain", theirs, lambda: pytest.fail("asked again"))
    written = report.tables(measures.seen)
    assert "| 150 (100-200) |" in written
    assert "| -, not ended after 45 s |  |" in written
    measures.rate("work", ours, lambda: 300.0)
    measures.rate("work", theirs, lambda: 100.0)
    measures.rate("work", theirs, never)
    assert "| 100, once not ended after 45 s | 3.0x |" in report.tables(measures.seen)


def test_tasks_that_do_not_end_in_their_time_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "LIMIT", 0.0)
    with started("worker", ["sleep", "60"], tmp_path, os.environ) as worker, pytest.raises(drain.NotEndedError):
        drain.wait(worker, lambda: None)


def test_what_was_found_is_kept_when_a_part_fails(measures: Measures, monkeypatch: pytest.MonkeyPatch) -> None:
    def servers(self: Measures) -> None:
        pass

    def drained(self: Measures) -> None:
        self.keep("ours-redis", {"drain": 100.0})
        raise RuntimeError

    monkeypatch.setattr(Measures, "servers", servers)
    monkeypatch.setattr(Measures, "drained", drained)
    kept: list[str] = []
    with pytest.raises(RuntimeError):
        measures.run([], lambda: kept.append(report.data(measures.seen)))
    assert '"ours-redis"' in kept[-1]


def test_systems_that_are_named_are_there() -> None:
    keys = [system.key for system in SYSTEMS]
    assert len(keys) == len({*keys})
    assert {*QUICK, *REALISTIC, *DJANGO_TASKS, *DELAYED, *STARTED} <= {*keys}


def test_a_hundred_at_once_are_measured_once_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    times = (*range(at_once.FIRST), *(at_once.FIRST - 1 + number / 50 for number in range(1, 1001)))
    worker = Mock(session=lambda: [1, 2], wait_until=lambda condition, what: condition())
    run = MagicMock(times=lambda name, number: times[::-1] if name == "saved" else ())
    run.workers.return_value.__enter__.return_value = [worker, worker]
    monkeypatch.setattr(at_once, "memory", lambda pid: 512 * pid)
    assert at_once.at_once(Mock(run=lambda system: run), AT_ONCE[0], len(times)) == pytest.approx((50, 3))


def test_systems_whose_python_is_not_there_are_left_out(
    measures: Measures, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = next(system for system in SYSTEMS if system.packages == "newer-peers")
    measures.systems[newer.key] = newer
    monkeypatch.setattr(measures, "bench", Mock())
    monkeypatch.setattr(parts, "new_enough", lambda oldest: None if oldest == PYTHONS[newer.packages] else Path())
    measures.servers()
    assert set(measures.systems) == set(KEYS)
    assert f"{newer.key} is not measured: there is no Python 3.12 or newer" in capsys.readouterr().out


def test_the_cpu_of_a_server_is_that_of_its_children_too(tmp_path: Path) -> None:
    with started("server", [sys.executable, "-c", SERVER], tmp_path, os.environ) as server:
        server.wait_until(lambda: server.out.read_text().count("busy no more") == 2, "two busy children")
        assert cpu_of_server(server.popen.pid) >= 0.38  # each is a tick less at times
        assert cpu([server.popen.pid]) < 0.2


def test_the_first_tasks_do_not_count_as_latency(tmp_path: Path) -> None:
    times = {"queued": (10.0,) * (WARM + 3), "ran": (11.0,) * WARM + (10.5,) * 3}
    run = Mock(times=lambda name, number=0: times[name])
    worker = Mock(wait_until=lambda condition, what: condition())
    assert latency(run, 3, worker, tmp_path) == [0.5] * 3


def test_a_former_version_is_compared_by_the_medians() -> None:
    rates: beside.Figures = {"ours-redis": {"tasks/s": {beside.NOW: [100.0, 300.0, 200.0], beside.THEN: [400.0]}}}
    idle: beside.Figures = {"ours-postgresql": {"Redis commands/s": {beside.NOW: [0.0], beside.THEN: [0.0]}}}
    growths = {"ours-redis": {"claim": {beside.NOW: [1.0, 3.0], beside.THEN: [1.0, 2.0]}}}
    written = list(beside.table("4fc3d7b", rates | idle, growths, [10, 1_000]))
    assert written[0] == "| tasks wait in |  | now | 4fc3d7b | now / then |"
    assert written[2:] == [
        "| redis | tasks/s | 200 (100-300) | 400 | 0.50x |",
        "| postgresql | Redis commands/s | 0.00 | 0.00 |  |",
        "| redis | ms to claim, by 10 / 1,000 | 1.0 / 3.0 | 1.0 / 2.0 | 1.50x |",
    ]


def test_a_former_version_that_broke_is_left_out() -> None:
    rates: beside.Figures = {"ours-redis": {"tasks/s": {beside.NOW: [100.0]}}}
    growths = {"ours-redis": {"claim": {beside.NOW: [1.0]}}}
    assert list(beside.table("4fc3d7b", rates, growths, [10]))[2:] == [
        "| redis | tasks/s | 100 | - |  |",
        "| redis | ms to claim, by 10 | 1.0 |  |  |",
    ]


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, [True, True]), (logging.WARNING, [False, True])])
def test_a_result_is_counted_by_its_line_of_the_log_which_is_shown_as_before(
    level: int, shown: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_FOLDER", str(tmp_path))
    monkeypatch.setattr(logger, "level", level)
    heard = Saved()
    lines = {"Processed '%s' (%s)": logging.INFO, "Failed '%s' (%s)": logging.ERROR}
    records = [logging.LogRecord("", number, "", 0, text, None, None) for text, number in lines.items()]
    try:
        assert [heard.filter(record) for record in records] == shown
        assert (tmp_path / "saved").stat().st_size == 8
    finally:
        os.close(file("saved"))
        file.cache_clear()
