"""What is SQS's alone: its queues, its limits, and what it needs to be reached."""

import pytest

from tests.test_broker import ask


def test_a_new_queue_has_another_for_what_no_worker_can_run(environment: dict[str, str]) -> None:
    code = """
queue, dead = get_broker("new").queue, get_broker("new-dead").queue
policy = json.loads(queue.attributes["RedrivePolicy"])
kept = [found.attributes["MessageRetentionPeriod"] for found in (queue, dead)]
answer(int(policy["maxReceiveCount"]), policy["deadLetterTargetArn"] == dead.attributes["QueueArn"], kept)
"""
    fortnight = str(14 * 24 * 3600)
    assert ask(code, environment) == [100, True, [fortnight, fortnight]]


@pytest.mark.parametrize(("receives", "named"), [(50, True), (51, False)])
def test_a_redrive_policy_that_takes_tasks_away_too_soon_is_named(
    receives: int, named: bool, environment: dict[str, str]
) -> None:
    code = f"""
import logging
from logging.handlers import BufferingHandler

log = BufferingHandler(100)
logging.getLogger("django-q").addHandler(log)
name = "own-{receives}"
dead, queue = get_broker("dead").queue, get_broker(name).queue
policy = dict(deadLetterTargetArn=dead.attributes["QueueArn"], maxReceiveCount={receives})
queue.set_attributes(Attributes=dict(RedrivePolicy=json.dumps(policy)))
broker = get_broker(name)
broker.poll = 0
broker.claim(1)
broker.claim(1)
answer([record.getMessage() for record in log.buffer])
"""
    (log,) = ask(code, environment)
    assert len(log) == named
    assert all("after 50 hand-outs, unrecorded: make its maxReceiveCount higher than 50." in line for line in log)


def test_a_task_larger_than_sqs_takes_is_refused_with_its_size(environment: dict[str, str]) -> None:
    code = """
broker = get_broker("size")
broker.enqueue("x" * 1_048_576)
try:
    broker.enqueue("é" * 524_289)  # two bytes each
except ValueError as error:
    answer(str(error), broker.queue_size())
"""
    sentence, size = ask(code, environment)
    assert sentence.startswith("The task has 1048578 bytes with its arguments, and SQS takes 1048576")
    assert size == 1


def test_more_receipts_than_a_request_takes_are_handled_though_some_are_gone(environment: dict[str, str]) -> None:
    code = """
Conf.RETRY = 60
broker = get_broker("batches")
for number in range(23):
    broker.enqueue(str(number))
taken = [*receipts(take(broker, 23)), "no receipt"]
lost = broker.renew(taken)
locked = sizes(broker)
broker.acknowledge_all(taken[:12])
broker.acknowledge_all(taken)
broker.release(taken)
answer(list(lost), locked, sizes(broker))
"""
    assert ask(code, environment) == [["no receipt"], [0, 23], [0, 0]]


def test_what_sqs_refuses_is_raised_once_the_rest_is_sent(environment: dict[str, str]) -> None:
    code = """
sent = []

def action(Entries):
    sent.append(len(Entries))
    refused = dict(Id="1", Code="AWS.SimpleQueueService.InternalError", Message="try again")
    return dict(Failed=[refused, dict(Id="2", Code="AWS.SimpleQueueService.MessageNotInflight")])

try:
    get_broker("refusal").in_batches(action, [str(number) for number in range(13)])
except RuntimeError as error:
    answer(sent, str(error))
"""
    sent, sentence = ask(code, environment)
    assert sent == [10, 3]
    assert sentence == "SQS refused 2 of 13 receipts (AWS.SimpleQueueService.InternalError: try again)"


def test_a_delay_is_rounded_up_to_a_second(environment: dict[str, str]) -> None:
    code = """
broker = get_broker("rounding")
broker.enqueue("a task")
broker.release(receipts(take(broker, 1)), delay=0.1)
start = time.monotonic()
again = take(broker, 1)
answer(time.monotonic() - start, again[0].count)
"""
    waited, count = ask(code, environment)
    assert 0.8 < waited < 5
    assert count == 2


def test_a_lease_is_not_longer_for_an_answer_that_took_its_time(environment: dict[str, str]) -> None:
    code = """
broker, asked = get_broker("slow"), []
receive = broker.queue.receive_messages

def slow(**options):
    asked.append(time.monotonic())
    messages = receive(**options)
    time.sleep(0.1)
    return messages

broker.queue.receive_messages = slow
broker.enqueue("a task")
take(broker, 1)
answer(max(broker.leases.values()) <= asked[-1] + LEASE)
"""
    assert ask(code, environment) == [True]


def test_a_process_has_one_client_and_a_fork_its_own(environment: dict[str, str]) -> None:
    code = """
import os

def client():
    return get_broker("forks").queue.meta.client

mine = client()
reader, writer = os.pipe()
if not os.fork():
    os.write(writer, b"another" if client() is not mine else b"the same")
    os._exit(0)
answer(client() is mine, os.read(reader, 100).decode())
"""
    assert ask(code, environment) == [True, "another"]


def test_a_queue_that_was_deleted_is_created_anew(environment: dict[str, str]) -> None:
    code = """
one, two = brokers("deleted")
two.delete_queue()
try:
    one.claim(1)
except one.sqs.meta.client.exceptions.QueueDoesNotExist:
    one.enqueue("a task")
answer(*texts(take(one, 1)))
"""
    assert ask(code, environment) == ["a task"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, "SQS needs the queue's region: set AWS_REGION."),
        ({"AWS_REGION": "eu west"}, "SQS needs the queue's region: set AWS_REGION."),
        ({"AWS_ACCESS_KEY_ID": ""}, "SQS needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "SQS needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
    ids=["no region", "no such region", "no key", "half a key"],
)
def test_what_is_missing_is_named(changes: dict[str, str], sentence: str, environment: dict[str, str]) -> None:
    code = """
from django.core.exceptions import ImproperlyConfigured
try:
    get_broker()
except ImproperlyConfigured as error:
    answer(str(error))
"""
    # Nor does the host of the tests give any.
    host = {"AWS_CONFIG_FILE": "/-", "AWS_SHARED_CREDENTIALS_FILE": "/-", "AWS_EC2_METADATA_DISABLED": "true"}
    assert ask(code, {**environment, **host, **changes})[0].startswith(sentence)


def test_a_poll_for_which_a_stop_could_not_wait_is_refused(environment: dict[str, str]) -> None:
    code = """
from django.core.exceptions import ImproperlyConfigured
Conf.SQS["receive_message_wait_time_seconds"] = 20
try:
    get_broker()
except ImproperlyConfigured as error:
    answer(str(error))
"""
    (sentence,) = ask(code, environment)
    assert "['receive_message_wait_time_seconds'] is 20: write a whole number from 0 to 4" in sentence
