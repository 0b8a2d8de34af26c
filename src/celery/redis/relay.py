"""Fan-out over Redis for a queue that is one listener's own (kombu's `Broadcast`).

kombu sends to a fanout exchange with PUBLISH, and nobody who was not listening gets it.  A relay listens for one queue
and puts what it hears into its list, from where it is claimed under a lease like any other message.  The queue is also
bound in kombu's set, since producers of the original that have not declared the exchange take it for a direct one and
push to the lists that they find there.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from celery.exceptions import BrokerError
from celery.redis.bus import KEPT, RedisBus
from celery.redis.link import Link
from celery.redis.scripts import script
from celery.utils.log import get_logger
from celery.wire.message import Queue

logger = get_logger(__name__)

LIFE = 60.0
"""Seconds after which the binding and the list of a relay that died are forgotten where nobody sweeps; or a lease."""
SLICE = 1.0
"""Seconds that one look waits at most: so long may closing take."""
PAUSE = 0.5
"""Seconds before the next attempt where the server is away."""


class Relay:
    """Listens from the return of the constructor on, in a thread of its own; raises `BrokerError` if it cannot."""

    def __init__(self, link: Link, bus: RedisBus, queue: Queue, sep: str, life: float = LIFE) -> None:
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
        self._life = int(max(life, LIFE) * 1000)
        self.own = [queue.name, self._exchange, self._member]
        """What goes with the last consumer, as `leaving.lua` has it."""
        self._closing = threading.Event()
        self._subscription = bus.subscribe([self._exchange, f"{self._exchange}/*"])
        try:
            self.bind()
        except BaseException:
            self._subscription.close()
            raise
        self._thread = threading.Thread(target=self._run, name="celery-fanout", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more; the list and its binding go. The rest of the queue goes with its last consumer."""
        self._closing.set()
        self._subscription.close()
        self._thread.join(5.0)
        self._link.run(script("shutbox"), self._keys[:3], (self._exchange, self._member, self._list))

    def bind(self) -> None:
        """Have the queue bound, and kept for its time. Any thread."""
        args = (self._exchange, self._member, self._life, int(KEPT * 1000))
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
                    self._link.calls([["LPUSH", self._list, waiting], ["PEXPIRE", self._list, self._life]])
                    waiting = None
                if time.monotonic() - self._bound > LIFE / 4:
                    self.bind()
                    self._link.call("PEXPIRE", self._list, self._life)
            except BrokerError as error:
                logger.warning("Queue %s gets nothing for now: %s", self._name, error)
                self._closing.wait(PAUSE)


class Relays:
    """The relays of one broker: one for each queue, however many of its consumers listen. Thread-safe.

    A worker whose queues change has two consumers for a while, and would get everything twice.
    """

    def __init__(self, make: Callable[[Queue], Relay]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Relay, list[object]]] = {}

    def join(self, queue: Queue, who: object) -> Relay:
        """The relay of *queue*, which listens until everybody who joined has left."""
        with self._lock:
            found = self._open.get(queue.name)
            if found is None:
                found = self._open[queue.name] = self._make(queue), []
            found[1].append(who)
            return found[0]

    def leave(self, name: str, who: object) -> None:
        with self._lock:
            relay, users = self._open[name]
            users.remove(who)
            if not users:
                del self._open[name]
                relay.close()


class Listening:
    """What one consumer listens to by relays, from the return of the constructor on until `close`."""

    def __init__(self, relays: Relays, queues: Sequence[Queue]) -> None:
        self._relays: list[Relay] = []
        with ExitStack() as stack:
            for queue in queues:
                self._relays.append(relays.join(queue, self))
                stack.callback(relays.leave, queue.name, self)
            self._ends = stack.pop_all()

    @property
    def own(self) -> str:
        """The queues that are to go with this consumer, for `register.lua`."""
        return json.dumps([relay.own for relay in self._relays]) if self._relays else ""

    def bind(self) -> None:
        """Again: the queues may have been forgotten, as those of a listener whose lease had ended."""
        for relay in self._relays:
            relay.bind()

    def close(self) -> None:
        """Idempotent."""
        self._ends.close()


__all__ = ["Listening", "Relay", "Relays"]
