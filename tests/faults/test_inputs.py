"""Promise 4: no input stops the worker: whatever a task is, has, raises or leaves behind, others go on."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Cluster, Lab

LIMITS: dict[str, Any] = {"timeout": 2, "max_attempts": 1, "ack_failures": False}

#: What the sentence of a failed task says, as a regular expression.
RAN, EITHER, NO_ROW = "ran", "ran or failed", "no row"
CUT_OFF = "exceeded|limit of time|too long"
ENDLESS = "never-ends|for-ever|refuses-signals"  #: in the name of what takes all time that there is
NOT_OPENED = "cannot be (read|opened)|could not be (read|opened)"
NOT_PACKED = "cannot be (pickled|packed|saved)"
ENDED = "ended with|exit|SystemExit|died"

LABELS = {
    "name-has-a-lone-surrogate": RAN,
    "name-has-nul": RAN,
    "name-is-very-long": RAN,
    "name-is-long-in-bytes": RAN,
    "name-is-a-number": RAN,
    "name-is-bytes": RAN,
    "name-cannot-be-printed": RAN,
    "group-has-a-lone-surrogate": RAN,
    "group-has-nul": RAN,
    "group-is-very-long": RAN,
    "group-is-a-number": RAN,
    "group-cannot-be-printed": EITHER,
    "hook-is-very-long": RAN,
    "hook-has-nul": RAN,
    "hook-has-a-lone-surrogate": RAN,
    "hook-is-a-number": RAN,
    "hook-is-not-there": RAN,
    "hook-cannot-be-imported": RAN,
    "hook-exits-at-import": RAN,
    "hook-cannot-be-printed": RAN,
    "cached-is-a-word": NO_ROW,
    "cached-cannot-be-printed": NO_ROW,
    "timeout-is-a-word": EITHER,
    "timeout-is-negative": EITHER,
    "timeout-is-huge": EITHER,
    "timeout-is-infinite": EITHER,
    "timeout-is-no-number": EITHER,
    "timeout-cannot-be-printed": EITHER,
    "iter-count-is-a-word": NO_ROW,
    "chain-is-a-word": EITHER,
    "chain-is-a-number": EITHER,
    "save-cannot-be-compared": NO_ROW,
}
FUNCTIONS = {
    "func-is-none": "None",
    "func-is-empty": "not|no function|empty",
    "func-has-no-dots": "work",
    "func-is-not-there": "lab_tasks.gone is not defined",
    "func-is-a-number": "5|int",
    "func-is-bytes": "bytes|lab_tasks",
    "func-is-a-dictionary": "dict|lab_tasks",
    "func-has-nul": ".",
    "func-has-a-lone-surrogate": ".",
    "func-is-very-long": ".",
    "func-is-a-module": "not callable",
    "func-is-no-function": "not callable",
    "func-cannot-be-imported": "this module cannot be imported",
    "func-exits-at-import": "exit|3",
    "func-is-not-given-away": "not given away",
    "func-takes-no-argument": "takes 0 positional arguments",
    "func-is-a-class": RAN,
    "func-is-a-partial": RAN,
    "func-is-a-method-of-what-cannot-be-printed": EITHER,
    "func-is-an-object-that-cannot-be-printed": EITHER,
    "keyword-is-unknown": "unknown",
}
ARGUMENTS = {
    "argument-opens-to-a-lock": RAN,
    "argument-cannot-be-printed": RAN,
    "argument-never-ends-to-be-printed": RAN,
    "argument-cannot-be-compared": RAN,
    "argument-is-deep": RAN,
    "argument-has-nul-and-a-surrogate": RAN,
    "argument-packs-only-once": RAN,
    "argument-packs-for-ever": EITHER,
    "argument-exits-when-packed-again": EITHER,
    "opening-the-argument-fails": NOT_OPENED,
    "opening-the-argument-raises-what-cannot-be-printed": NOT_OPENED,
    "opening-the-argument-interrupts": f"{NOT_OPENED}|{ENDED}",
    "opening-the-argument-exits": f"{NOT_OPENED}|{ENDED}",
    "opening-the-argument-leaves": ENDED,
    "opening-the-argument-kills": "SIGKILL",
    "opening-the-argument-never-ends": f"{CUT_OFF}|{NOT_OPENED}",
}
RESULTS = {
    "result-is-a-generator": NOT_PACKED,
    "result-is-a-lock": NOT_PACKED,
    "result-cannot-be-printed": RAN,
    "result-cannot-be-compared": RAN,
    "result-is-very-deep": NOT_PACKED,
    "result-has-nul-and-a-surrogate": RAN,
    "packing-the-result-never-ends": f"{CUT_OFF}|{NOT_PACKED}",
    "packing-the-result-exits": f"{NOT_PACKED}|{ENDED}",
    "packing-the-result-leaves": ENDED,
    "packing-the-result-interrupts": f"{NOT_PACKED}|{ENDED}|Interrupt",
    "opening-the-result-fails": "cannot be unpickled|cannot be opened",
    "opening-the-result-never-ends": f"{CUT_OFF}|cannot be (unpickled|opened)",
    "opening-the-result-exits": f"{ENDED}|cannot be (unpickled|opened)",
    "opening-the-result-leaves": ENDED,
    "raises-what-cannot-be-printed": "Silent",
    "raises-what-never-ends-to-be-printed": f"{CUT_OFF}|Endless",
    "raises-what-exits-when-printed": f"{ENDED}|Fatal",
    "raises-SystemExit": ENDED,
    "raises-SystemExit-with-an-object": ENDED,
    "raises-KeyboardInterrupt": "KeyboardInterrupt|died|ended",
    "raises-GeneratorExit": "GeneratorExit",
    "raises-StopIteration": "StopIteration",
    "raises-BaseException": "neither an error nor an exit",
    "raises-MemoryError": "MemoryError",
    "raises-RecursionError": "recursion",
    "raises-a-group": "two",
    "raises-a-circle": "one",
    "raises-at-an-odd-place": "traceback cannot be told",
    "raises-ten-megabytes": "xxxx",
    "raises-nul-and-a-surrogate": "ValueError",
    "raises-with-an-object": "ValueError",
}
PROCESSES = {
    "returns-in-two-processes": RAN,
    "leaves-a-copy-of-its-process": RAN,
    "closes-all-descriptors": EITHER,
    "closes-its-streams": RAN,
    "refuses-signals": CUT_OFF,
    "stops-its-group": RAN,
    "kills-its-group": ENDED,
    "takes-the-alarm": RAN,
    "leaves-a-transaction": RAN,
    "leaves-a-broken-connection": RAN,
    "leaves-a-program": RAN,
    "leaves-its-folder": RAN,
    "leaves-a-thread": RAN,
    "starts-threads-that-fail": RAN,
}


def swallow(lab: Lab, cluster: Cluster, inputs: Mapping[str, str]) -> None:
    """Queue inputs among plain tasks, and see that each has its own outcome and touches no other one."""
    ids: dict[str, str] = lab.call("enqueue_inputs", names=list(inputs))
    assert ids.keys() == inputs.keys(), "an input is not there"
    beside = lab.enqueue_many("beside", 10)
    due = {name: identity for name, identity in ids.items() if inputs[name] != NO_ROW}

    def missing() -> list[str]:
        return sorted(due.keys() - lab.call("outcomes", ids=due))

    lab.wait(lambda: not missing(), lambda: f"the outcome of {missing()}", cluster)
    lab.wait_done(beside, cluster)
    wrong = {name: row for name, row in lab.call("outcomes", ids=due).items() if not fits(row, inputs[name])}
    assert not wrong, f"{wrong}\n{lab.report()}"
    starts = lab.starts()
    assert all(starts[key] == 1 for key in beside), lab.report()
    again = {name: starts[name] for name in inputs if starts[name] > 1}
    assert not again, f"{again} were run more than once\n{lab.report()}"


def fits(row: Mapping[str, Any], expected: str) -> bool:
    """Say whether a row is what is expected of an input; its labels must fit into their columns in any case."""
    labels = (row["name"], 100), (row["func"], 256), (row["group"] or "", 100), (row["hook"] or "", 256)
    if any(len(text) > length for text, length in labels):
        return False
    if row["success"]:
        return expected in {RAN, EITHER}
    return expected == EITHER or bool(re.search(expected, row["result"], re.IGNORECASE))


def check_goes_on(lab: Lab, cluster: Cluster) -> None:
    """The cluster is whole, serves as before, is well, and stops."""
    cluster.roles()
    after = lab.enqueue_many("after", 10)
    lab.wait_done(after, cluster)
    assert all(lab.starts()[key] == 1 for key in after), lab.report()
    assert not lab.problem(), f"{lab.problem()}\n{lab.report()}"
    cluster.stop_in_time()


def go_through(lab: Lab, inputs: Mapping[str, str]) -> None:
    """Let one cluster swallow all of them, and go on."""
    cluster = lab.start(**LIMITS)
    swallow(lab, cluster, {name: inputs[name] for name in inputs if not re.search(ENDLESS, name)})
    check_goes_on(lab, cluster)


@each_broker(4)
def test_labels_of_any_kind_and_length_cost_no_task_its_result(lab: Lab) -> None:
    go_through(lab, LABELS)


@each_broker(4)
def test_functions_of_any_kind_run_or_fail_alone(lab: Lab) -> None:
    go_through(lab, FUNCTIONS)


@each_broker(4)
def test_arguments_that_do_harm_when_they_are_opened_fail_alone(lab: Lab) -> None:
    go_through(lab, ARGUMENTS)


@each_broker(4)
def test_results_and_errors_that_do_harm_when_they_are_packed_fail_alone(lab: Lab) -> None:
    go_through(lab, RESULTS)


@each_broker(4)
def test_tasks_that_do_harm_to_their_process_harm_no_other_task(lab: Lab) -> None:
    go_through(lab, PROCESSES)


@pytest.mark.full
@each_broker(4)
def test_whatever_never_ends_is_cut_off_alone(lab: Lab) -> None:
    lab.deadline = 180
    everything = {**LABELS, **FUNCTIONS, **ARGUMENTS, **RESULTS, **PROCESSES}
    endless = {name: expected for name, expected in everything.items() if re.search(ENDLESS, name)}
    cluster = lab.start(**LIMITS)
    swallow(lab, cluster, endless)
    check_goes_on(lab, cluster)


@pytest.mark.full
@each_broker(4)
def test_signed_payloads_that_hold_no_task_are_set_aside(lab: Lab) -> None:
    cluster = lab.start(**LIMITS)
    number = lab.call("enqueue_payloads")
    beside = lab.enqueue_many("beside", 10)
    lab.wait_done(beside, cluster)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", cluster)
    ran = {key for key in lab.starts() if key not in beside}
    lab.wait(lambda: len(lab.failed()) + len(ran) >= number, lambda: f"an outcome of each: {lab.rows()}", cluster)
    assert all(lab.starts()[key] == 1 for key in beside), lab.report()
    check_goes_on(lab, cluster)
