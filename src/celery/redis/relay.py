"""Fan-out over Redis for a queue that is one listener's own (kombu's `Broadcast`).

kombu sends to a fanout exchange with PUBLISH, and nobody who was not listening gets it.  A relay listens for one queue
and puts what it hears into its list, from where it is claimed under a lease like any other message.  The queue is also
bound in kombu's set, since producers of the original that have not declared the exchange take it for a direct one and
push to the lists that they find there.
"""

from __future__ import annotations

import threading
import time

from celery.exceptions import BrokerError
from celery.redis.bus import KEPT, RedisBus
from celery.redis.link import Link
from celery.redis.scripts import script
from celery.utils.log import get_logger
from celery.wire.message import Queue

logger = get_logger(__name__)

LIFE = 60.0
"""Seconds after which the binding and the list of a relay that died are forgotten."""
SLICE = 1.0
"""Seconds that one look waits at most: so long may closing take."""
PAUSE = 0.5
"""Seconds before the next attempt where the server is away."""


class Relay:
    """Listens from the return of the constructor on, in a thread of its own; raises `BrokerError` if it cannot."""

    def __init__(self, link: Link, bus: RedisBus, queue: Queue, sep: str) -> None:
        self._link = link
        self._list = f"{link.prefix}{queue.name}"
        self._exchange = queue.exchange.name
        self._member = f"{queue.routing_key}{sep}{sep}{queue.name}"
        prefix = link.prefix
        self._keys = (
            f"{prefix}_kombu.binding.{self._exchange}",
            f"{prefix}_kombu.binding_deadlines",
            f"{prefix}celeriac.boxes.{self._exchange}",
            f"{prefix}_kombu.binding_permanent.{self._exchange}",
        )
        self._name = queue.name
        self._closing = threading.Event()
        self._subscription = bus.subscribe([self._exchange, f"{self._exchange}/*"])
        try:
            self._bind()
        except BaseException:
            self._subscription.close()
            raise
        self._thread = threading.Thread(target=self._run, name="celery-fanout", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more; the queue goes, with what is in it."""
        self._closing.set()
        self._subscription.close()
        self._thread.join(5.0)
        self._link.run(script("shutbox"), self._keys[:3], (self._exchange, self._member, self._list))
        self._link.call("SREM", f"{self._link.prefix}celeriac.queues", self._name)

    def _bind(self) -> None:
        args = (self._exchange, self._member, int(LIFE * 1000), int(KEPT * 1000))
        self._link.run(script("openbox"), self._keys, args)
        self._bound = time.monotonic()

    def _run(self) -> None:
        waiting: bytes | None = None
        while not self._closing.is_set():
            try:
                if waiting is None:
                    found = self._subscription.get(SLICE)
                    waiting = None if found is None else found[1]
                if waiting is not None:
                    self._link.calls([["LPUSH", self._list, waiting], ["PEXPIRE", self._list, int(LIFE * 1000)]])
                    waiting = None
                if time.monotonic() - self._bound > LIFE / 4:
                    self._bind()
                    self._link.call("PEXPIRE", self._list, int(LIFE * 1000))
            except BrokerError as error:
                logger.warning("Queue %s gets nothing for now: %s", self._name, error)
                self._closing.wait(PAUSE)


__all__ = ["Relay"]
