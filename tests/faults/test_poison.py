"""Promises 4 and 5: what cannot run is tried a few times, then set aside with a sentence; others go on."""

from typing import Any

from tests.faults.cells import each_broker
from tests.faults.lab import Cluster, Lab

ATTEMPTS = 2
LIMITS: dict[str, Any] = {"timeout": 2, "max_attempts": ATTEMPTS, "ack_failures": False}

#: The function, and what the sentence says.
POISONS = {
    "leave": "ended with code 1",
    "be_killed": "died (SIGKILL)",
    "call_exit": "ended with code 3",
    "fail": "this task always fails",
    "sleep_for_ever": "exceeded maximum timeout value",
    "be_stuck": "exceeded maximum timeout value",
    "sleep_in_c": "exceeded maximum timeout value",
    "gone": "Function lab_tasks.gone is not defined",
    "return_a_lambda": "result cannot be pickled",
    "return_a_trap": "result cannot be unpickled",
}
#: What becomes of a task that kills its worker, or whose result cannot be handed on.
NOT_COUNTED = {"redis": "it is silently gone", "*": "it is redelivered for ever, and never counted"}


def start(lab: Lab, **others: Any) -> Cluster:
    """Start a cluster that soon tries again, and soon gives up."""
    return lab.start(**LIMITS, **others)


def swallow(lab: Lab, functions: list[str]) -> None:
    """Queue poisonous tasks among others."""
    cluster = start(lab)
    ids = {function: lab.enqueue(function, (function,))[0] for function in functions}
    keys = lab.enqueue_many("other", 10)
    lab.wait(lambda: keys <= lab.succeeded().keys(), "the results of the others", cluster)
    lab.wait(lambda: all(row["attempts"] == ATTEMPTS for row in lab.failed()), "the last attempt of each", cluster)
    lab.wait(lambda: lab.call("queued") == 0, "an empty queue", cluster)
    failed = {row["id"]: row for row in lab.failed()}
    assert failed.keys() == set(ids.values()), failed
    for function, identity in ids.items():
        assert POISONS[function].lower() in failed[identity]["result"].lower(), failed[identity]
        assert failed[identity]["attempts"] == ATTEMPTS, failed[identity]
        assert lab.starts()[function] == (0 if function == "gone" else ATTEMPTS), lab.report()
    assert all(lab.starts()[key] == 1 for key in keys), lab.report()


@each_broker(4, upstream=NOT_COUNTED)
def test_poisonous_tasks_are_tried_and_set_aside_and_others_go_on(lab: Lab) -> None:
    swallow(lab, list(POISONS))


@each_broker(
    4,
    full=True,
    names="function",
    values=[(function,) for function in ("leave", "be_killed", "call_exit", "return_a_lambda")],
    upstream=NOT_COUNTED,
)
def test_a_task_that_django_q2_does_not_count_is_tried_and_set_aside(lab: Lab, function: str) -> None:
    swallow(lab, [function])


DELETED = "it is deleted"


@each_broker(4, upstream={"*": DELETED})
def test_a_payload_that_cannot_be_read_is_set_aside(lab: Lab) -> None:
    cluster = start(lab)
    lab.call("enqueue_raw", payload="garbage")
    keys = lab.enqueue_many("other", 5)
    lab.wait_done(keys, cluster)
    lab.wait(lambda: lab.failed(), "a failed task", cluster)
    assert "cannot be read" in lab.failed()[0]["result"], lab.failed()


OLD = "a key that was changed since and is long enough to be one"


@each_broker(5, upstream={"*": "SECRET_KEY_FALLBACKS is ignored, and it is deleted"})
def test_a_task_signed_with_a_former_key_runs(lab: Lab) -> None:
    cluster = start(lab, variables={"SECRET_KEY_FALLBACKS": OLD})
    lab.call("enqueue_raw", payload=lab.call("signed_with", secret=OLD, key="old"))
    lab.wait_done({"old"}, cluster)


@each_broker(5, full=True, upstream={"*": DELETED})
def test_a_task_signed_with_an_unknown_key_can_be_submitted_again_once_the_key_is_known(lab: Lab) -> None:
    cluster = start(lab)
    lab.call("enqueue_raw", payload=lab.call("signed_with", secret=OLD, key="old"))
    lab.wait(lambda: lab.failed(), "a failed task", cluster)
    assert "cannot be read" in lab.failed()[0]["result"], lab.failed()
    assert cluster.stop() == 0, lab.report()
    again = start(lab, variables={"SECRET_KEY_FALLBACKS": OLD})
    lab.call("resubmit", identity=lab.failed()[0]["id"])
    lab.wait_done({"old"}, again)


@each_broker(
    4, full=True, upstream={"redis": "the pusher dies of it, and it is lost", "*": "the pusher dies of it, for ever"}
)
def test_a_task_whose_argument_has_lost_its_class_can_be_submitted_again_once_it_is_back(lab: Lab) -> None:
    lab.call("enqueue_an_argument", key="argument")
    cluster = start(lab, variables={"LAB_WITHOUT_ARGUMENT": "1"})
    lab.wait(lambda: lab.failed(), "a failed task", cluster)
    assert "cannot be read" in lab.failed()[0]["result"], lab.failed()
    lab.wait_done(lab.enqueue_many("other", 5), cluster)
    assert cluster.stop() == 0, lab.report()
    again = start(lab)
    lab.call("resubmit", identity=lab.failed()[0]["id"])
    lab.wait_done({"argument"}, again)
