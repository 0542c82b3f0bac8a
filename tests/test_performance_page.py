"""docs/performance.md says what the last run of `make bench` has found, and nothing else."""

from benchmarks import report
from benchmarks.systems import REALISTIC, SYSTEMS


def test_the_page_and_its_charts_tell_of_the_last_run() -> None:
    seen, page = report.kept(), report.PAGE.read_text()
    assert page == report.text(seen, page)
    for name, svg in report.charts(seen).items():
        assert (report.DOCS / name).read_text() == svg, name
        assert f"]({name})" in page, name


def test_the_last_run_was_a_whole_one() -> None:
    seen = report.kept()
    assert seen.figures["drain"].keys() == {system.key for system in SYSTEMS}
    assert seen.figures["work"].keys() == set(REALISTIC)
    assert all(len(values) == seen.rounds for values in seen.figures["drain"].values())


def test_a_table_that_says_something_else_is_noticed() -> None:
    seen, page = report.kept(), report.PAGE.read_text()
    seen.figures["drain"]["ours-redis"] = [1.0] * seen.rounds
    assert page != report.text(seen, page)


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
    keys = ["ours-redis", "django-q2-best-redis"]
    for name in (*report.STARTS, f"{report.EACH}Redis commands", f"{report.CLUSTERS}8", f"{report.PAYLOAD}1 kB"):
        seen.figures[name] = {key: [1.5] for key in keys}
    seen.figures[f"{report.WEB}trivial, requests/s"] = {"generated": [23.0, 24.0, 25.0], "sync": [10.0, 20.0, 30.0]}
    seen.figures[report.CEILING] = {report.CEILING: [570.0]}
    seen.figures["work"] = {"ours-redis": [513.0]}
    written = report.tables(seen)
    assert "| 570 | 0.90x (Redis) |" in written
    for head in ("start to first task, s | stop, s", "| Redis commands |", "| worker | 8 |", "| worker | 1 kB |"):
        assert head in written, head
    assert "| 24.0 (23.0-25.0), 1.20x |" in written
    assert "Measured once." in written
