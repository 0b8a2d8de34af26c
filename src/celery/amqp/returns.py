"""Messages that come back often, and what keeps a server from dropping them.

Queues of the kind quorum count how often a message comes back (`x-delivery-count`): because its worker died, or gave it
back, or because the connection ended.  At a limit the server drops it, or sends it to the queue's dead-letter exchange:
a queue may have one among its arguments (`x-delivery-limit`), and from RabbitMQ 4 on every other one has 20.  That is
meant for messages that kill whoever gets them, which `task_max_deliveries` sees to.  One that was never started has
failed nowhere; it is sent anew in good time, and is counted from 0.

Source: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling.  From 4.3 on what basic.nack gives back is
not counted, and this finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping

from celery.amqp.frames import Delivered
from celery.amqp.marks import Mark
from celery.amqp.messages import AGAIN, COUNT, INNER, SENT, copy_of, sent_back
from celery.amqp.publisher import Letter

MANY = 10
"""Half of the limit that queues have without being asked."""


class Returns:
    """*limits*: those that the arguments of queues name, by queue. *marked*: whether it is known what was started."""

    def __init__(self, limits: Mapping[str, int], *, marked: bool) -> None:
        self._limits = limits
        self._marked = marked

    def are_many(self, came: Delivered, source: str) -> bool:
        """Whether a message from the queue *source* cannot be given back for much longer."""
        count = (came.properties.headers or {}).get("x-delivery-count")
        if not isinstance(count, int) or source.startswith(INNER):
            return False
        limit = self._limits.get(source, 2 * MANY)
        return limit >= 0 and count >= max(1, min(MANY, limit // 2))

    def is_worn(self, came: Delivered, source: str, mark: Mark) -> bool:
        """Whether it is to be sent anew: nobody has started it.

        Where that is not known, a limit that somebody has set is left to do what it is for.
        """
        return self.are_many(came, source) and not mark.count and (self._marked or source not in self._limits)


def anew(came: Delivered, source: str) -> Letter:
    """The same message for the queue that it came from, as one that has never come back."""
    headers = came.properties.headers or {}
    kept = {name: headers[name] for name in (AGAIN, COUNT, SENT) if name in headers}
    return copy_of(came, source, **{**kept, **sent_back(came)})
