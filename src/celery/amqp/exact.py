"""Claims that know of everything that was published before them: what tests and tools ask for, at a price."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from celery.amqp import frames
from celery.amqp.channel import Channel
from celery.amqp.frames import Delivered

MOST = 10.0
"""Seconds that this may take, where the server, or this process, is slow."""
QUIET = 0.05
"""Seconds without a message after which none is taken to be on its way."""


def settle_in(
    channel_of: Callable[[], Channel | None],
    buffers: Mapping[str, deque[Delivered]],
    hear: Callable[[float], bool],
    limit: int,
) -> None:
    """Wait until the server has sent what it has for us. *buffers*: by source.

    *hear* reads what comes within so many seconds, and says whether something did.
    """
    until = time.monotonic() + MOST
    for source, buffer in buffers.items():
        while (channel := channel_of()) is not None and channel.usable:
            if not _ready(channel, source) or len(buffer) >= limit or time.monotonic() > until:
                break
            hear(0.01)
    for source in buffers:
        if (channel := channel_of()) is not None and channel.usable:
            _ready(channel, source)  # one of the kind quorum sends after it has answered, but before the next answer
    while hear(QUIET) and time.monotonic() < until:
        pass


def _ready(channel: Channel, queue: str) -> int:
    """How many messages it has that it has sent to nobody."""
    answer = channel.call(frames.queue_declare(channel.number, queue, 1, {}), frames.QUEUE_DECLARE_OK)
    answer.short()
    return int(answer.number(4))
