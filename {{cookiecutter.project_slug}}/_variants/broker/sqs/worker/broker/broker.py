"""The broker: tasks wait in an Amazon SQS queue, which is created when it is first used.

SQS keeps less than the other brokers do:

- Tasks come in no certain order, and once in a while one comes twice: it is a standard queue.
- It counts every hand-out, also those that ended with the task given back: a task of which attempts fail without end
  (`max_attempts` 0), or that was often given back, is set aside after worker.delivery.MAX_DELIVERIES of them.
- A lease cannot be renewed beyond 12 hours after the hand-out, and a task that runs longer is handed out again.
- It may take the receipt of a hand-out whose lease has run out for that of the next one, so nothing is done with such a
  receipt: by this process's clock, which starts before the server's.
- A task may be queued twice, if the answer did not come and whoever has queued it tries again.
- It keeps a task for at most 14 days, and hides it for 12 hours: what is to wait for longer is queued anew by a worker,
  with another receipt, and twice if the worker dies between that and the deletion. A delay is counted in seconds from
  when a task is queued, and so by no clock but that of the process that queues it.

Limits and behaviour are those of the API reference, https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/.
"""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from multiprocessing.connection import wait
from typing import Any

from botocore import exceptions
from django.core.exceptions import ImproperlyConfigured
from django_q.conf import Conf

from worker.broker import messages, queues
from worker.broker.contents import Contents
from worker.broker.messages import BATCH, MAX_BYTES
from worker.broker.queues import OutageError, check_settings, clients, queue_url
from worker.delivery import MAX_DELIVERIES, Adapter, Delivery

GONE = {"InvalidParameterValue", "MessageNotInflight", "ReceiptHandleIsInvalid"}  #: codes of a lease that is lost

logger = logging.getLogger("django-q")


class Broker(Adapter, Contents):
    """django-q2's, with leases, in a queue whose name holds the project's. Errors are those of botocore.

    Upstream, 1.11.1, makes its boto3 resource anew for each task that is queued, shares its connection over forks, and
    keeps the first answer about the queue's size for ever.
    """

    can_peek = forgets_returned = transactional = False
    away: tuple[type[Exception], ...] = (exceptions.ConnectionError, exceptions.HTTPClientError)
    errors: tuple[type[Exception], ...] = (exceptions.BotoCoreError, exceptions.ClientError)
    check_settings = staticmethod(check_settings)

    def __init__(self, list_key: str | None = None) -> None:
        self.cluster = list_key or Conf.CLUSTER_NAME
        name = queues.queue_name(self.cluster)
        self.leases: dict[str, float] = {}  #: when they run out, by the monotonic clock
        self.bodies: dict[str, str] = {}  #: of what is held
        self.keep = queues.KEEP  #: seconds for which the queue keeps a task
        self.turn = threading.Lock()  #: of whoever gives back: a renewal after it would hide the task
        self.looked = False
        poll = Conf.SQS.get("receive_message_wait_time_seconds", 0)
        if poll not in range(queues.MAX_POLL + 1):
            raise ImproperlyConfigured(
                f"Q_CLUSTER['sqs']['receive_message_wait_time_seconds'] is {poll!r}: write a whole number from 0 "
                f"to {queues.MAX_POLL}, since a worker that is told to stop waits for the poll under way."
            )
        self.poll = min(poll, Conf.RETRY // 4)  # no lease is renewed meanwhile
        try:
            super().__init__(name)
        except (exceptions.NoRegionError, exceptions.InvalidRegionError) as error:
            raise ImproperlyConfigured(f"SQS needs the queue's region: set AWS_REGION. {error}") from error
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise ImproperlyConfigured(
                "SQS needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                f"or give the host a role. {error}"
            ) from error

    def send(self, payloads: list[str], delay: float = 0.0, *, again: bool = False) -> list[str]:
        """Add tasks, in one request that is never repeated, and return their ids."""
        answer = clients(os.getpid())[1].send_message_batch(
            QueueUrl=self.queue, Entries=messages.entries(payloads, delay, again=again)
        )
        if failures := answer.get("Failed"):
            code, message = failures[0]["Code"], failures[0].get("Message", "")
            if not failures[0]["SenderFault"]:
                raise OutageError(code=code)
            raise RuntimeError(f"SQS refused {len(failures)} of {len(payloads)} tasks ({code}: {message})")
        return [message["MessageId"] for message in answer["Successful"]]

    def enqueue(self, task: str, after: datetime | None = None) -> str:
        messages.size_of(task)
        return self.send([task], messages.until(after))[0]

    def enqueue_all(self, payloads: list[str], after: datetime | None = None) -> None:
        """Add tasks, ten in a request; those of earlier requests stay if a later one fails.

        If one is larger than SQS takes, none is added.
        """
        for batch in list(messages.batches(payloads)):
            self.send(batch, messages.until(after))

    def claim(self, limit: int, size: int) -> list[Delivery]:
        """Take tasks, ten at most, and as many as `size` holds of the largest; wait for one as long as a poll lasts."""
        asked = time.monotonic()  # the server's lease begins before its answer is here
        try:
            if not self.looked:
                self.look()
            answer = self.client.receive_message(
                QueueUrl=self.queue,
                MaxNumberOfMessages=min(limit, BATCH, max(1, size // MAX_BYTES)),
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
                MessageAttributeNames=["All"],
                VisibilityTimeout=Conf.RETRY,
                WaitTimeSeconds=self.poll,
            )
        except self.client.exceptions.QueueDoesNotExist:
            queue_url.cache_clear()  # somebody has deleted it, or a server for tests was started anew
            self.queue = self.get_queue()
            raise
        found = {message["ReceiptHandle"]: message for message in answer.get("Messages", [])}
        self.leases.update(dict.fromkeys(found, asked + Conf.RETRY))
        self.bodies.update({receipt: message["Body"] for receipt, message in found.items()})
        left = {receipt: messages.time_left(message, answer) for receipt, message in found.items()}
        for receipt, message in found.items():
            if left[receipt] > 0:
                self.keep_on(receipt, left[receipt], messages.delay_of(message) - left[receipt])
        return [messages.delivery(message) for receipt, message in found.items() if left[receipt] <= 0]

    def keep_on(self, receipt: str, delay: float, waited: float) -> None:
        """Hide again what is not due; what its queue would forget meanwhile is queued anew."""
        if waited + min(delay, messages.MAX_HIDDEN) + messages.MAX_HIDDEN < self.keep:
            self.hide([receipt], min(delay, messages.MAX_HIDDEN))
        else:
            self.queue_anew(receipt, delay, again=False)

    def look(self) -> None:
        """Log that somebody's own redrive policy takes tasks away unseen; no error: its owner has asked for it."""
        attributes = self.attributes()
        self.keep = int(attributes.get("MessageRetentionPeriod", queues.KEEP))
        receives = int(json.loads(attributes.get("RedrivePolicy", "{}")).get("maxReceiveCount", queues.MAX_RECEIVES))
        if receives <= MAX_DELIVERIES:
            warning = "The redrive policy of the queue %s sets a task aside after %s hand-outs, unrecorded: make its "
            logger.warning(f"{warning}maxReceiveCount higher than %s.", self.list_key, receives, MAX_DELIVERIES)
        self.looked = True

    def idle(self, timeout: float, others: list[Any]) -> None:
        """Return at once: claim() has waited. Without long polls, wait for `poll` seconds."""
        if not self.poll:
            wait(others, min(timeout, Conf.POLL))

    def renew(self, receipts: Iterable[str]) -> set[str]:
        receipts = set(receipts)
        with self.turn:
            asked = time.monotonic()
            lost = self.in_batches(self.client.change_message_visibility_batch, receipts, VisibilityTimeout=Conf.RETRY)
            self.leases.update(dict.fromkeys(filter(self.leases.get, receipts - lost), asked + Conf.RETRY))
        self.forget(lost)
        return lost

    def release(self, delays: Mapping[str, float]) -> None:
        """Give tasks back, each to be taken after so many seconds, rounded up to whole ones."""
        whole = {receipt: max(0, math.ceil(delay)) for receipt, delay in delays.items()}
        for delay in set(whole.values()):
            receipts = [receipt for receipt in whole if whole[receipt] == delay]
            if delay <= messages.MAX_HIDDEN:
                self.hide(receipts, delay)
            else:
                for receipt in receipts:
                    self.queue_anew(receipt, delay, again=True)

    def hide(self, receipts: list[str], delay: float) -> None:
        """Give tasks back that SQS can hide for so many seconds."""
        with self.turn:
            self.in_batches(self.client.change_message_visibility_batch, receipts, VisibilityTimeout=math.ceil(delay))
            self.forget(receipts)

    def queue_anew(self, receipt: str, delay: float, *, again: bool) -> None:
        """Give a task back that SQS cannot hide for so long, unless it is another's by now."""
        if self.leases.get(receipt, 0.0) > time.monotonic():
            self.send([self.bodies[receipt]], delay, again=again)
            self.acknowledge_all([receipt])

    def acknowledge_all(self, receipts: Iterable[str]) -> None:
        receipts = list(receipts)
        self.in_batches(self.client.delete_message_batch, receipts)
        self.forget(receipts)

    def forget(self, receipts: Iterable[str]) -> None:
        for receipt in receipts:
            self.leases.pop(receipt, None)
            self.bodies.pop(receipt, None)

    def in_batches(self, action: Callable[..., Any], receipts: Iterable[str], **more: Any) -> set[str]:
        """Send a request for each ten receipts that are not late, and return those for which it was in vain."""
        receipts, lost, refused = list(receipts), set(receipts), []
        for start in range(0, len(receipts), BATCH):
            now = time.monotonic()
            batch = [receipt for receipt in receipts[start : start + BATCH] if self.leases.get(receipt, now) > now]
            entries = [{"Id": str(number), "ReceiptHandle": receipt, **more} for number, receipt in enumerate(batch)]
            failures = action(QueueUrl=self.queue, Entries=entries).get("Failed", []) if batch else []
            lost -= set(batch) - {batch[int(failure["Id"])] for failure in failures}
            refused += [failure for failure in failures if failure["Code"].rpartition(".")[2] not in GONE]
        if refused:
            reason = f"{refused[0]['Code']}: {refused[0].get('Message', '')}"
            raise RuntimeError(f"SQS refused {len(refused)} of {len(receipts)} receipts ({reason})")
        return lost

    # A word of django-q2's

    def delete(self, task_id: str) -> None:
        self.acknowledge_all([task_id])
