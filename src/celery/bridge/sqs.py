"""What Amazon SQS can do beyond kombu's idea of a transport: count deliveries, delay, and keep what is held invisible.

kombu's channel says where the client library is (`sqs(queue)`), and its messages where they came from (`sqs_queue`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LONGEST_DELAY = 900
"""Seconds: what SQS takes at most."""
DEFAULT_VISIBILITY = 30
BATCH = 10


def has(channel: Any, queue: str) -> bool:
    """Whether there is this queue. kombu does not ask, but makes it."""
    client = channel.sqs(queue=queue)
    try:
        client.get_queue_url(QueueName=channel.canonical_queue_name(queue))
    except client.exceptions.QueueDoesNotExist:
        return False
    return True


def received(message: Any) -> int:
    """How often this message has been handed out, this time included; 0 where it is not said."""
    attributes = (message.delivery_info.get("sqs_message") or {}).get("Attributes") or {}
    return int(attributes.get("ApproximateReceiveCount") or 0)


def visibility(channel: Any, queue: str, messages: Iterable[Any]) -> int:
    """Seconds for which a message of *queue* is invisible once it has been handed out."""
    wanted = int(channel.visibility_timeout)
    for message in messages:
        url = message.delivery_info["sqs_queue"]
        answer = channel.sqs(queue=queue).get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])
        # A queue that was made with another value, or by somebody else, keeps that.
        return min(wanted, int(answer.get("Attributes", {}).get("VisibilityTimeout") or DEFAULT_VISIBILITY))
    return wanted


def extend(channel: Any, queue: str, messages: Iterable[Any], seconds: int) -> None:
    """Keep these messages of *queue* invisible for so many seconds from now on."""
    found = list(messages)
    for start in range(0, len(found), BATCH):
        batch = found[start : start + BATCH]
        entries = [
            {"Id": str(number), "ReceiptHandle": message.delivery_tag, "VisibilityTimeout": seconds}
            for number, message in enumerate(batch)
        ]
        url = batch[0].delivery_info["sqs_queue"]
        channel.sqs(queue=queue).change_message_visibility_batch(QueueUrl=url, Entries=entries)
