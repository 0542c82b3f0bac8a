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
