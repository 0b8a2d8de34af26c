"""Messages that are not to be delivered yet: the topology of native delayed delivery, as original Celery declares it.

28 queues, one for each bit of the delay in whole seconds; what waits 2**n seconds in queue n is dead-lettered to the
exchange of level n - 1, and either waits there, if the next word of its routing key is `1`, or goes on.  Below level 0
it comes to the exchange `celery_delayed_delivery` with the routing key `<28 bits>.<target>`.

From there it has to find its queue.  A queue that is addressed by its name is bound with exactly 28 words before the
name.  Any other exchange gets a queue in between, bound the same way, which lets nothing wait and dead-letters to that
exchange under the real routing key: so direct, fanout and topic exchanges route as they always do.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from celery.amqp import frames
from celery.amqp.channel import Channel, Refused
from celery.wire.message import Queue

LEVELS = 28
LAST = "celery_delayed_delivery"
LONGEST = 2**LEVELS - 1
"""Seconds, eight and a half years; what is due later goes through once more."""
THROUGH = "celeriac.due."
HORIZONS = 3600, 86_400, 48 * 86_400
"""Seconds; RabbitMQ has no room for 50 days."""
PRECONDITION_FAILED = 406


def level(number: int) -> str:
    return f"celery_delayed_{number}"


def route(delay: float, target: str) -> tuple[str, str]:
    """Exchange and routing key of a message that is to arrive at *target* in *delay* seconds, or up to one later."""
    seconds = min(LONGEST, max(0, math.ceil(delay)))
    return level(LEVELS - 1), ".".join(f"{seconds:0{LEVELS}b}") + f".{target}"


def arrived_from(routing_key: str) -> str:
    """The target in a routing key of `route`."""
    return routing_key[2 * LEVELS :]


def horizon(delay: float) -> int:
    """Seconds for which the queue in between stays that a message with this delay passes; 0 for ever.

    A queue expires that is not declared anew: few kinds of horizons, each at least twice as long as the delay, so that
    whoever publishes declares it again after a quarter of it and no message finds it gone.
    """
    return next((seconds for seconds in HORIZONS if 2 * delay <= seconds), 0)


def target_of(exchange: str, routing_key: str, stays: int = 0) -> str:
    """What a message for *exchange* under *routing_key* is delayed as. *stays*: its `horizon`."""
    if not exchange:
        return routing_key
    name = THROUGH + hashlib.sha256(f"{exchange}\n{routing_key}".encode()).hexdigest()[:32]
    return f"{name}.{stays}" if stays else name


def level_arguments(number: int, queue_type: str) -> dict[str, Any]:
    """Arguments of the queue of one level."""
    found: dict[str, Any] = {
        "x-queue-type": queue_type,
        "x-overflow": "reject-publish",
        "x-message-ttl": 2**number * 1000,
        "x-dead-letter-exchange": level(number - 1) if number else LAST,
    }
    if queue_type == "quorum":
        found["x-dead-letter-strategy"] = "at-least-once"
    return found


def declare_levels(channel: Channel, queue_type: str) -> Channel:
    """Idempotent; levels that somebody has declared otherwise are used as they are. The channel to go on with."""
    number = channel.number
    for name in [*map(level, reversed(range(LEVELS))), LAST]:
        channel.call(frames.exchange_declare(number, name, "topic", 2, {}), frames.EXCHANGE_DECLARE_OK)
    for n in reversed(range(LEVELS)):
        data = frames.queue_declare(channel.number, level(n), 2, level_arguments(n, queue_type))
        try:
            channel.call(data, frames.QUEUE_DECLARE_OK)
        except Refused as error:
            if error.code != PRECONDITION_FAILED:
                raise
            channel = channel.connection.channel()
        stars = "*." * (LEVELS - 1 - n)
        channel.call(frames.queue_bind(channel.number, level(n), level(n), f"{stars}1.#", {}), frames.QUEUE_BIND_OK)
        below = level(n - 1) if n else LAST
        channel.call(frames.exchange_bind(channel.number, below, level(n), f"{stars}0.#"), frames.EXCHANGE_BIND_OK)
    return channel


def see_levels(channel: Channel) -> None:
    """Raises `Refused` unless all levels are there. Needs no rights, and finds no bindings: who declares makes both."""
    for name in (*map(level, range(LEVELS)), LAST):
        channel.call(frames.exchange_declare(channel.number, name, "topic", 1, {}), frames.EXCHANGE_DECLARE_OK)
    for n in range(LEVELS):
        channel.call(frames.queue_declare(channel.number, level(n), 1, {}), frames.QUEUE_DECLARE_OK)


def bind_target(channel: Channel, exchange: str, routing_key: str, stays: int = 0) -> None:
    """Have delayed messages for this target find it. Raises `Refused` where there is no such queue or exchange."""
    number, target = channel.number, target_of(exchange, routing_key, stays)
    if exchange:
        arguments = {
            "x-message-ttl": 0,
            "x-dead-letter-exchange": exchange,
            "x-dead-letter-routing-key": routing_key,
        }
        if stays:
            arguments["x-expires"] = stays * 1000
        channel.call(frames.queue_declare(number, target, 2, arguments), frames.QUEUE_DECLARE_OK)
    channel.call(frames.queue_bind(number, target, LAST, "*." * LEVELS + target, {}), frames.QUEUE_BIND_OK)


def bind_queue(channel: Channel, queue: Queue) -> None:
    """Have delayed messages for the exchange of *queue* find both, as original Celery publishes and binds them."""
    number, name, key = channel.number, queue.exchange.name, f"#.{queue.routing_key}"
    channel.call(frames.exchange_bind(number, name, LAST, key), frames.EXCHANGE_BIND_OK)
    channel.call(frames.queue_bind(number, queue.name, name, key, {}), frames.QUEUE_BIND_OK)


def bind_made(channel: Channel, queue: str) -> None:
    """Have what is delayed already find a queue that was just made, maybe in place of one that is gone."""
    channel.call(frames.exchange_declare(channel.number, LAST, "topic", 2, {}), frames.EXCHANGE_DECLARE_OK)
    bind_target(channel, "", queue)
