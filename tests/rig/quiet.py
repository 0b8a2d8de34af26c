"""Whether nothing waits, is on its way or runs any more: also on RabbitMQ, whose figures alone do not say that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery.amqp import frames
from celery.amqp.consumer import RabbitConsumer
from celery.brokers.rabbitmq import RabbitBroker
from celery.exceptions import BrokerError
from celery.worker.consumer import Consumer


def is_quiet(worker: Consumer, queues: Sequence[str]) -> bool:
    """Whether *queues*, of which *worker* serves the first, are empty, and no task of them runs.

    RabbitMQ does not count what it has sent to a consumer and what has not been read there yet, and it is asked queue
    by queue while a worker goes on.  So nothing may be held before it is asked, what it has sent must have come by the
    time of its answer, and nothing may have come, or ended, when all have answered.
    """
    broker: Any = worker.broker
    ended = worker.ledger.committed
    if any(stats.ready + stats.leased + stats.delayed for stats in broker.stats(queues)):
        return False
    if not isinstance(broker, RabbitBroker):
        return True
    consumers = list(broker._consumers)
    return (
        all(_has_all(consumer) for consumer in consumers)
        and not any(consumer._held or consumer._intake.open for consumer in consumers)
        and worker.ledger.committed == ended
    )


def _has_all(consumer: RabbitConsumer) -> bool:
    """Whether its queues are empty. What they have sent before they say so has come: it takes the same way."""
    intake = consumer._intake
    channel = intake.channel
    if channel is None or not channel.usable:
        return consumer._closed
    try:
        for source in intake._sources:
            answer = channel.call(frames.queue_declare(channel.number, source, 1, {}), frames.QUEUE_DECLARE_OK)
            answer.short()
            if answer.number(4):
                return False
    except BrokerError:  # it is being closed, or connects again: who looks once more will know
        return False
    return True
