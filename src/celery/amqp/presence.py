"""Which queues can be consumed from: a queue of the kind classic is away for as long as the node is that keeps it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from celery.amqp.channel import Refused
from celery.utils.log import get_logger

logger = get_logger(__name__)

NOT_FOUND = 404
AGAIN = 2.0
"""Seconds after which a queue that is away is looked for again."""


class Presence:
    """Of *queues*. *declare* has queues declared. One thread; *now* is monotonic seconds."""

    def __init__(self, queues: Collection[str], declare: Callable[[Sequence[str]], object]) -> None:
        self._most = len(queues)
        self._declare = declare
        self._away: dict[str, float] = {}

    def see_to(self, queues: Sequence[str], now: float) -> None:
        """Have these queues; those that are away are looked for again later. Raises `BrokerError` if all are."""
        refusal: Refused | None = None
        for queue in queues:
            try:
                self._declare([queue])
            except Refused as error:
                if error.code != NOT_FOUND:
                    raise
                refusal = error
                if queue not in self._away:
                    logger.warning("The queue %s is away, others are served meanwhile: %s", queue, error)
                self._away[queue] = now + AGAIN
            else:
                if self._away.pop(queue, None) is not None:
                    logger.warning("The queue %s is there again", queue)
        if refusal is not None and len(self._away) == self._most:
            raise refusal

    def of(self, queues: Sequence[str], now: float) -> list[str]:
        """Those that are there."""
        if not self._away:
            return list(queues)
        self.see_to([queue for queue in queues if self._away.get(queue, now + AGAIN) <= now], now)
        return [queue for queue in queues if queue not in self._away]
