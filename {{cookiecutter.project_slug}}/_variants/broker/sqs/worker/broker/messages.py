"""Messages of SQS: how large they may be, and when they are due."""

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from worker.delivery import Delivery

BATCH = 10  #: messages in a request, at most
MAX_BYTES = 1_048_576  #: of a message; 256 KiB until August 2025, and still so in queues with that MaximumMessageSize
MAX_DELAY = 900  #: seconds after which a message is there at the latest
MAX_HIDDEN = 43_000  #: seconds for which it is hidden once it was there, at the most: 12 hours, and some for the answer


def size_of(task: str) -> int:
    """Return a task's size in bytes; raise a ValueError if it is larger than SQS takes."""
    size = len(task.encode())
    if size > MAX_BYTES:
        raise ValueError(
            f"The task has {size} bytes with its arguments, and SQS takes {MAX_BYTES}: pass a key, not the data."
        )
    return size


def batches(payloads: list[str]) -> Iterator[list[str]]:
    """Yield tasks, as many as a request takes."""
    batch: list[str] = []
    room = MAX_BYTES  # which holds for a request too
    for payload in payloads:
        size = size_of(payload)
        if size > room or len(batch) == BATCH:
            yield batch
            batch, room = [], MAX_BYTES
        batch.append(payload)
        room -= size
    if batch:
        yield batch


def until(after: datetime | None) -> float:
    return (after.astimezone(UTC) - datetime.now(UTC)).total_seconds() if after else 0.0


def entries(payloads: list[str], delay: float, *, again: bool) -> list[dict[str, Any]]:
    """Return what SQS is sent: a delay that it does not know, and whether a task comes again, beside the payload."""
    told = {"DelaySeconds": max(0, min(math.ceil(delay), MAX_DELAY))}
    known = {"again": again, "delayed": delay > 0, "delay": delay > MAX_DELAY and math.ceil(delay)}
    numbers = {name: int(number) for name, number in known.items() if number}
    attributes = {name: {"DataType": "Number", "StringValue": str(number)} for name, number in numbers.items()}
    return [
        {"Id": str(number), "MessageBody": payload, "MessageAttributes": attributes, **told}
        for number, payload in enumerate(payloads)
    ]


def delay_of(message: Any) -> int:
    """Return the seconds after which a message is to be taken, if SQS does not know them."""
    return int(message.get("MessageAttributes", {}).get("delay", {}).get("StringValue", 0))


def time_left(message: Any, answer: Any) -> float:
    """Return in how many seconds a message is due: by the server's clock, which its answer shows to the second."""
    if not (delay := delay_of(message)):
        return 0.0
    shown = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    now = parsedate_to_datetime(shown).timestamp() if shown else time.time()
    return math.ceil(int(message["Attributes"]["SentTimestamp"]) / 1000 + delay) - now


def hand_outs(message: Any) -> int:
    """Return how often a message was handed out, without those times when it was not due."""
    early = math.ceil(max(0, delay_of(message) - MAX_DELAY) / MAX_HIDDEN)
    return max(1, int(message["Attributes"]["ApproximateReceiveCount"]) - early)


def delivery(message: Any) -> Delivery:
    """Return a task that SQS has handed out."""
    count = hand_outs(message)
    told = message.get("MessageAttributes", {})
    again = count > 1 or "again" in told
    return Delivery(message["ReceiptHandle"], message["Body"], count, again, due=again or bool(told))
