"""The queues of SQS: their names and URLs, and the clients for them."""

import json
import os
import re
from functools import cache
from typing import Any

from botocore.config import Config
from botocore.exceptions import HTTPClientError, NoRegionError
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django_q.brokers.aws_sqs import Sqs
from django_q.conf import Conf

from worker.processes import clusters

MAX_POLL = 4  #: seconds; the agent claims meanwhile, and has five to give tasks back at a stop
KEEP = 1_209_600  #: seconds that a new queue keeps a task, the most there is; by default it would be four days
MAX_RECEIVES = 100  #: hand-outs after which SQS itself sets a task aside, in case no worker gets that far
# An answer must come, or fail to, well before the thread that waits for it is taken for stuck.
TIMEOUTS = {"connect_timeout": 5, "read_timeout": MAX_POLL + 5}


@cache
def clients(pid: int) -> tuple[Any, Any]:
    """Return this process's clients: one that tries again by itself, and one for what may not be done twice.

    They take 0.1 s to make, and cannot be shared over a fork. Threads share them, as they could not share resources.
    """
    session = Sqs.get_connection()
    if not session.region_name:  # empty: botocore would ask for no host at all
        raise NoRegionError
    tries = [{"total_max_attempts": number, "mode": "standard"} for number in (2, 1)]
    twice, once = (session.client("sqs", config=Config(retries=retries, **TIMEOUTS)) for retries in tries)
    for client in twice, once:
        client.meta.events.register("after-call.sqs", refuse_outage)
    return twice, once


class OutageError(HTTPClientError):  # type: ignore[misc]
    """SQS has answered that it cannot, or not so much at once: by botocore an error like any other."""

    fmt = "SQS answers {code}"


def refuse_outage(http_response: Any, parsed: dict[str, Any], **call: Any) -> None:
    """Tell such answers from those about the request."""
    code = parsed.get("Error", {}).get("Code") or ""
    if http_response.status_code >= 500 or "Throttl" in code:
        raise OutageError(code=code or http_response.status_code)


@cache
def queue_url(pid: int, name: str) -> str:
    """Return the URL of a queue, which is created if it is not there, with another for what SQS sets aside."""
    client, _ = clients(pid)
    try:
        return str(client.get_queue_url(QueueName=name)["QueueUrl"])
    except client.exceptions.QueueDoesNotExist:
        attributes = {"MessageRetentionPeriod": str(KEEP)}
        if not name.endswith("-dead"):
            dead = client.get_queue_attributes(QueueUrl=queue_url(pid, f"{name}-dead"), AttributeNames=["QueueArn"])
            policy = {"deadLetterTargetArn": dead["Attributes"]["QueueArn"], "maxReceiveCount": MAX_RECEIVES}
            attributes["RedrivePolicy"] = json.dumps(policy)
        return str(client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])


def queue_name(cluster: str) -> str:
    name = getattr(settings, "SQS_QUEUE_NAME", "") or Conf.PREFIX
    return name if cluster == Conf.PREFIX else f"{name}-{cluster}"


def check_settings() -> None:
    """Look at region and endpoint, and at the names of all queues."""
    if not Sqs.get_connection().region_name:
        raise ImproperlyConfigured("SQS needs the queue's region: set AWS_REGION.")
    if not re.fullmatch(r"(https?://[^\s/]\S*)?", os.environ.get("AWS_ENDPOINT_URL_SQS", "")):
        raise ImproperlyConfigured(
            "AWS_ENDPOINT_URL_SQS is no URL: write http://localhost:5566, or leave it out for Amazon's."
        )
    for cluster in clusters():
        if not re.fullmatch("[A-Za-z0-9_-]{1,75}", name := queue_name(cluster)):
            raise ImproperlyConfigured(
                f"{name!r} is no name for a queue: set SQS_QUEUE_NAME to letters, digits, - and _, with the "
                "cluster's name 75 at most. It is no URL and no ARN, nor ends in .fifo: it is a standard queue."
            )
