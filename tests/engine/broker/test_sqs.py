"""What is SQS's alone: its queues, its limits, and what it needs to be reached."""

import io
import json
import logging
import os
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django_q.brokers import get_broker
from django_q.conf import Conf
from pytest_django import Settings

from .conftest import Brokers, forget
from .contract import PLENTY, broker_name, receipts, sizes, take, texts

if broker_name() != "sqs":
    pytest.skip("the broker is another", allow_module_level=True)

from botocore.awsrequest import AWSRequest, AWSResponse
from worker.broker import broker as module
from worker.broker import messages
from worker.broker.queues import clients
from worker.health import why_away


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease run out by itself."""
    monkeypatch.setattr(Conf, "RETRY", 60)
    monkeypatch.setitem(Conf.SQS, "receive_message_wait_time_seconds", 1)


def test_processes_do_not_tell_where_keys_and_server_were_found(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clients.__wrapped__(0)  # as a new process makes them
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("botocore")]


def test_a_new_queue_has_another_for_what_no_worker_can_run(brokers: Brokers) -> None:
    (broker,) = brokers()
    dead = get_broker(f"{broker.list_key.partition('-')[2]}-dead")
    policy = json.loads(broker.attributes()["RedrivePolicy"])
    assert int(policy["maxReceiveCount"]) == 100
    assert policy["deadLetterTargetArn"] == dead.attributes()["QueueArn"]
    fortnight = str(14 * 24 * 3600)
    assert [found.attributes()["MessageRetentionPeriod"] for found in (broker, dead)] == [fortnight] * 2


@pytest.mark.parametrize(("receives", "named"), [(50, True), (51, False)])
def test_a_redrive_policy_that_takes_tasks_away_too_soon_is_named(
    receives: int, named: bool, brokers: Brokers, caplog: pytest.LogCaptureFixture
) -> None:
    (broker,) = brokers()
    policy = {
        "deadLetterTargetArn": get_broker("dead").attributes()["QueueArn"],
        "maxReceiveCount": receives,
    }
    broker.client.set_queue_attributes(QueueUrl=broker.queue, Attributes={"RedrivePolicy": json.dumps(policy)})
    broker.poll = 0
    broker.claim(1, PLENTY)
    broker.claim(1, PLENTY)
    told = [record.getMessage() for record in caplog.records if record.name == "django-q"]
    assert len(told) == named
    assert all("after 50 hand-outs, unrecorded: make its maxReceiveCount higher than 50." in line for line in told)


def test_a_task_larger_than_sqs_takes_is_refused_with_its_size(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("x" * 1_048_576)
    sentence = "The task has 1048578 bytes with its arguments, and SQS takes 1048576"
    with pytest.raises(ValueError, match=sentence):
        broker.enqueue("é" * 524_289)  # two bytes each
    with pytest.raises(ValueError, match=sentence):
        broker.enqueue_all(["small", "é" * 524_289])
    assert broker.queue_size() == 1


def test_more_receipts_than_a_request_takes_are_handled_though_some_are_gone(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue_all([str(number) for number in range(23)])
    taken = receipts(take(broker, 23))
    broker.leases["no receipt"] = max(broker.leases.values())
    assert broker.renew([*taken, "no receipt"]) == {"no receipt"}
    assert sizes(broker) == [0, 23]
    broker.acknowledge_all(taken[:12])
    broker.acknowledge_all(taken)
    broker.release(dict.fromkeys(taken, 0))
    assert sizes(broker) == [0, 0]
    assert not broker.leases


class Answer(io.BytesIO):
    """What comes over the network, as botocore reads it."""

    def stream(self) -> list[bytes]:
        """Return all of it."""
        return [self.getvalue()]


@pytest.mark.parametrize(
    ("status", "code", "is_away"),
    [
        (503, "", True),
        (500, "InternalFailure", True),
        (400, "RequestThrottled", True),
        (400, "ThrottlingException", True),
        (400, "InvalidMessageContents", False),
        (200, "InternalError", True),
    ],
)
def test_an_answer_that_it_cannot_now_is_that_of_a_server_that_is_away(
    status: int, code: str, is_away: bool, brokers: Brokers
) -> None:
    (broker,) = brokers()
    failed = [{"Id": "0", "Code": code, "SenderFault": False}]
    said = {"__type": f"com.amazonaws.sqs#{code}"} if status != 200 else {"Failed": failed}
    body = json.dumps(said).encode() if code else b"<html>Unavailable</html>"

    def reply(request: AWSRequest, **more: object) -> AWSResponse:
        return AWSResponse(request.url, status, {"content-type": "application/x-amz-json-1.0"}, Answer(body))

    once = clients(os.getpid())[1]
    once.meta.events.register("before-send.sqs", reply)
    try:
        with pytest.raises(Exception) as raised:  # noqa: PT011 (botocore's, of either kind)
            broker.enqueue("a")
    finally:
        once.meta.events.unregister("before-send.sqs", reply)
    assert bool(why_away(raised.value)) is is_away
    assert (code or str(status)) in str(raised.value)


def test_what_sqs_refuses_is_raised_once_the_rest_is_sent(brokers: Brokers) -> None:
    (broker,) = brokers()
    sent: list[int] = []

    def action(QueueUrl: str, Entries: list[Any]) -> dict[str, Any]:  # noqa: N803 (boto3's words)
        sent.append(len(Entries))
        refused = {"Id": "1", "Code": "AWS.SimpleQueueService.InternalError", "Message": "try again"}
        return {"Failed": [refused, {"Id": "2", "Code": "AWS.SimpleQueueService.MessageNotInflight"}]}

    sentence = r"SQS refused 2 of 13 receipts \(AWS.SimpleQueueService.InternalError: try again\)"
    broker.leases = dict.fromkeys(map(str, range(13)), time.monotonic() + 60)
    with pytest.raises(RuntimeError, match=sentence):
        broker.in_batches(action, [str(number) for number in range(13)])
    assert sent == [10, 3]


def test_a_delay_is_rounded_up_to_a_second(brokers: Brokers) -> None:
    (broker,) = brokers()
    broker.enqueue("a task")
    broker.release(dict.fromkeys(receipts(take(broker, 1)), 0.1))
    start = time.monotonic()
    (again,) = take(broker, 1)
    assert 0.8 < time.monotonic() - start < 8
    assert again.count == 2


def test_a_lease_is_not_longer_for_an_answer_that_took_its_time(
    brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    (broker,) = brokers()
    asked: list[float] = []

    def slow(request: Any, **options: Any) -> Any:
        asked.append(time.monotonic())
        answer = request(**options)
        time.sleep(0.1)
        return answer

    for name in ("receive_message", "change_message_visibility_batch"):
        monkeypatch.setattr(broker.client, name, partial(slow, getattr(broker.client, name)))
    broker.enqueue("a task")
    (receipt,) = receipts(take(broker, 1))
    assert broker.leases[receipt] <= asked[-1] + 60
    broker.renew([receipt])
    assert broker.leases[receipt] <= asked[-1] + 60


def test_whoever_is_late_asks_nothing(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    (broker,) = brokers()
    broker.enqueue("a task")
    (receipt,) = receipts(take(broker, 1))
    broker.leases[receipt] = time.monotonic() - 0.001
    for name in ("change_message_visibility_batch", "delete_message_batch"):
        monkeypatch.setattr(broker.client, name, lambda **_: pytest.fail("it was asked"))
    lease = broker.leases.copy()
    for action in (broker.acknowledge_all, broker.release, broker.renew):
        broker.leases = lease.copy()
        action({receipt: 0})
    assert not broker.leases


def test_only_what_adds_no_task_is_tried_again(brokers: Brokers) -> None:
    twice, once = clients(os.getpid())
    assert [client.meta.config.retries["total_max_attempts"] for client in (twice, once)] == [2, 1]


def test_a_process_has_one_pair_of_clients_and_a_fork_its_own(brokers: Brokers) -> None:
    mine = clients(os.getpid())
    assert brokers()[0].client is mine[0]
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.write(writer, b"another" if clients(os.getpid())[0] is not mine[0] else b"the same")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"another"
    os.close(reader)
    os.close(writer)


def test_a_queue_that_was_deleted_is_created_anew(brokers: Brokers) -> None:
    one, two = brokers(2)
    two.delete_queue()
    with pytest.raises(one.client.exceptions.QueueDoesNotExist):
        one.claim(1, PLENTY)
    one.enqueue("a task")
    assert texts(take(one, 1)) == ["a task"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"region": ""}, "SQS needs the queue's region: set AWS_REGION."),
        ({"region": "eu west"}, "SQS needs the queue's region: set AWS_REGION."),
        ({"AWS_ACCESS_KEY_ID": ""}, "SQS needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "SQS needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
    ids=["no region", "no such region", "no key", "half a key"],
)
def test_what_is_missing_is_named(changes: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nor does the host of the tests give any.
    host = {"AWS_CONFIG_FILE": "/-", "AWS_SHARED_CREDENTIALS_FILE": "/-", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in (host | changes | {"AWS_DEFAULT_REGION": ""}).items():
        monkeypatch.setenv(name, value)
    if "region" in changes:
        monkeypatch.setitem(Conf.SQS, "aws_region", changes["region"] or None)
    forget()
    with pytest.raises(ImproperlyConfigured) as refusal:
        get_broker(uuid4().hex)
    assert str(refusal.value).startswith(sentence)
    if changes == {"region": ""}:
        assert [(each.id, each.msg) for each in run_checks()] == [("worker.E014", sentence)]
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("url", ["localhost:5566", "http://", "http://local host", "sqs"])
def test_an_endpoint_that_is_no_url_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", url)
    sentence = "AWS_ENDPOINT_URL_SQS is no URL: write http://localhost:5566, or leave it out for Amazon's."
    assert [(each.id, each.msg) for each in run_checks()] == [("worker.E014", sentence)]


def test_a_poll_for_which_a_stop_could_not_wait_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Conf.SQS, "receive_message_wait_time_seconds", 20)
    with pytest.raises(ImproperlyConfigured, match="is 20: write a whole number from 0 to 4"):
        get_broker()


@pytest.mark.parametrize(
    "name",
    [
        "tasks.fifo",
        "https://sqs.eu-west-1.amazonaws.com/123456789012/tasks",
        "arn:aws:sqs:eu-west-1:123456789012:tasks",
        "my tasks",
        "t" * 80,
    ],
)
def test_what_is_no_name_of_a_queue_is_refused(name: str, settings: Settings) -> None:
    module.Broker.check_settings()
    settings.SQS_QUEUE_NAME = name
    with pytest.raises(ImproperlyConfigured, match="is no name for a queue: set SQS_QUEUE_NAME to"):
        module.Broker.check_settings()


def test_a_delay_that_sqs_does_not_know_is_kept_on(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets a task too early hides it again, as often as it takes, and that is no hand-out."""
    monkeypatch.setattr(messages, "MAX_DELAY", 1)
    monkeypatch.setattr(messages, "MAX_HIDDEN", 1)
    (broker,) = brokers()
    start = time.time()
    broker.enqueue("a task", datetime.now(UTC) + timedelta(seconds=4))
    (taken,) = take(broker, 1)
    assert 4 <= time.time() - start < 8
    assert taken.payload == "a task"
    assert taken.count <= 3  # of six: each time may be a second late
    assert not broker.queue_size()
    broker.acknowledge_all([taken.receipt])
    assert sizes(broker) == [0, 0]


@pytest.mark.parametrize("release", [True, False])
def test_what_its_queue_would_forget_is_queued_anew(
    release: bool, brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_DELAY", 1)
    monkeypatch.setattr(messages, "MAX_HIDDEN", 1)
    (broker,) = brokers()
    broker.keep, broker.looked = 2, True
    send, sent = broker.send, []

    def send_once(*args: Any, **options: Any) -> Any:
        broker.keep = 1_000_000
        sent.append(options)
        return send(*args, **options)

    start = time.time()
    if release:
        broker.enqueue("a task")
        monkeypatch.setattr(broker, "send", send_once)
        broker.release(dict.fromkeys(receipts(take(broker, 1)), 3))
    else:
        broker.enqueue("a task", datetime.now(UTC) + timedelta(seconds=3))
        monkeypatch.setattr(broker, "send", send_once)
    (taken,) = take(broker, 1)
    assert 3 <= time.time() - start < 9
    assert (taken.payload, taken.again, sent) == ("a task", True, [{"again": release}])
    assert sizes(broker) == [0, 1]


def test_what_is_another_s_is_not_queued_anew(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    (broker,) = brokers()
    broker.enqueue("a task")
    (receipt,) = receipts(take(broker, 1))
    broker.leases[receipt] = time.monotonic() - 1
    monkeypatch.setattr(broker, "send", lambda *_, **__: pytest.fail("it was sent"))
    broker.release({receipt: 24 * 3600})


def test_weeks_are_no_hand_outs() -> None:
    """Each 12 hours a task is looked at that is to wait for longer."""
    fortnight = {"delay": {"StringValue": str(13 * 24 * 3600)}}
    for receives, count in ((27, 1), (28, 1), (29, 2)):
        message = {"MessageAttributes": fortnight, "Attributes": {"ApproximateReceiveCount": str(receives)}}
        assert messages.hand_outs(message) == count
