"""Promise 4: hooks and receivers run once for each attempt, after the commit, and cost no task its result."""

from collections import Counter

import pytest

from tests.faults.cells import each_broker
from tests.faults.lab import Lab
from tests.faults.test_inputs import LIMITS, check_goes_on

#: Each with how often it is called at least, and at most: of one that its process dies of nobody hears whether it ran.
HOOKS = {
    "hook_that_fails": (1, 1),
    "hook_that_exits": (1, 1),
    "hook_that_interrupts": (1, 1),
    "hook_that_violates_a_constraint": (1, 1),
    "hook_that_violates_a_constraint_and_fails": (1, 1),
    "hook_that_leaves_a_transaction": (1, 1),
    "hook_that_saves": (1, 1),
    "hook_that_leaves": (1, 5),
    "hook_that_never_ends": (1, 1),
}


@each_broker(4)
def test_hooks_that_raise_hang_or_kill_cost_no_task_its_result(lab: Lab) -> None:
    cluster = lab.start(**LIMITS)
    for hook in HOOKS:
        lab.enqueue("work", (hook,), task_name=hook, hook=f"lab_tasks.{hook}")
    beside = lab.enqueue_many("beside", 10)
    keys = beside | HOOKS.keys()
    lab.wait_done(keys, cluster)
    lab.wait(lambda: len(set(lab.events("hook"))) >= len(HOOKS), lambda: f"all hooks: {lab.events('hook')}", cluster)
    check_goes_on(lab, cluster)
    assert all(lab.starts()[key] == 1 for key in keys), lab.report()
    rows = {row["name"]: row for row in lab.rows()}
    assert all(rows[hook]["success"] and rows[hook]["attempts"] == 1 for hook in HOOKS), rows
    calls = Counter(lab.events("hook"))
    wrong = {hook: calls for hook, (least, most) in HOOKS.items() if not least <= calls[f"{hook}:1"] <= most}
    assert not wrong, f"{wrong}\n{lab.report()}"
    assert len(calls) == len(HOOKS), calls
    assert lab.events("went-on") == ["hook_that_violates_a_constraint"], lab.report()


@pytest.mark.full
@each_broker(4)
def test_a_hook_runs_once_for_each_attempt_after_the_commit_and_outside_of_a_transaction(lab: Lab) -> None:
    receivers = "post_save:take_note post_execute:take_note"
    cluster = lab.start(max_attempts=3, ack_failures=False, variables={"LAB_RECEIVERS": receivers})
    tasks = {"first": "work", "second": "work", "third": "fail_twice", "never": "fail"}
    for key, function in tasks.items():
        lab.enqueue(function, (key,), task_name=key, hook="lab_tasks.hook_that_looks")
    lab.call("enqueue_with_hook", func="lab_tasks.work", key="given", hook="lab_tasks.hook_that_looks", options={})
    attempts = {"first": 1, "second": 1, "third": 3, "never": 3, "given": 1}
    expected = [f"{key}:{number}:{number}:False" for key, last in attempts.items() for number in range(1, last + 1)]
    lab.wait(lambda: len(lab.events("hook")) >= len(expected), lambda: f"all hooks: {lab.events('hook')}", cluster)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", cluster)
    cluster.stop_in_time()
    assert Counter(lab.events("hook")) == dict.fromkeys(expected, 1), lab.report()
    signals = {f"{key}:False": 2 * last for key, last in attempts.items()}  # two of them for each attempt
    assert Counter(lab.events("signal")) == signals, lab.report()


@pytest.mark.full
@each_broker(4)
def test_a_hook_of_a_result_in_the_cache_runs_once(lab: Lab) -> None:
    cluster = lab.start(max_attempts=2, ack_failures=False)
    lab.enqueue("work", ("named",), task_name="named", hook="lab_tasks.hook", cached=60)
    lab.enqueue("fail", ("failed",), task_name="failed", hook="lab_tasks.hook", cached=60)
    options = {"cached": 60}
    lab.call("enqueue_with_hook", func="lab_tasks.work", key="given", hook="lab_tasks.hook", options=options)
    expected = ["named:1", "given:1", "failed:1", "failed:2"]
    lab.wait(lambda: len(lab.events("hook")) >= len(expected), lambda: f"all hooks: {lab.events('hook')}", cluster)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", cluster)
    cluster.stop_in_time()
    assert Counter(lab.events("hook")) == dict.fromkeys(expected, 1), lab.report()


AFTER = [("post_save", function) for function in ("refuse", "never_end", "leave")]
AFTER += [("post_execute", function) for function in ("refuse", "never_end", "leave")]
BEFORE = [("pre_execute", "refuse"), ("pre_execute", "never_end"), ("pre_execute", "leave")]
BEFORE += [("post_execute_in_worker", "refuse"), ("post_execute_in_worker", "leave")]


@pytest.mark.full
@each_broker(4, names="signal,function", values=AFTER)
def test_a_receiver_that_fails_once_a_result_is_saved_costs_no_task_its_result(
    lab: Lab, signal: str, function: str
) -> None:
    cluster = lab.start(**LIMITS, variables={"LAB_RECEIVERS": f"{signal}:{function}"})
    lab.enqueue("work", ("refused",), task_name="refused")
    keys = lab.enqueue_many("beside", 10) | {"refused"}
    lab.wait_done(keys, cluster)
    check_goes_on(lab, cluster)
    assert all(lab.starts()[key] == 1 for key in keys), lab.report()
    assert not lab.failed(), lab.failed()


@pytest.mark.full
@each_broker(4, names="signal,function", values=BEFORE)
def test_a_receiver_that_fails_while_a_task_runs_fails_that_task_at_most(lab: Lab, signal: str, function: str) -> None:
    cluster = lab.start(**LIMITS, variables={"LAB_RECEIVERS": f"{signal}:{function}"})
    (identity,) = lab.enqueue("work", ("refused",), task_name="refused")
    keys = lab.enqueue_many("beside", 10)
    lab.wait_done(keys, cluster)
    lab.wait(lambda: identity in {row["id"] for row in lab.rows()}, "an outcome", cluster)
    check_goes_on(lab, cluster)
    assert all(lab.starts()[key] == 1 for key in keys), lab.report()
    assert {row["id"] for row in lab.failed()} <= {identity}, lab.failed()
