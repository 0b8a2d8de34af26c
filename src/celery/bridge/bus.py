"""Remote control and events over kombu, on the exchanges that original Celery has for them.

Only where a transport fans out and keeps its bindings where every process finds them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from celery.bridge.lane import Lane
from celery.bridge.messages import prepare, put_together, read, take_apart
from celery.bridge.way import Line, Way, delete_queue
from celery.brokers.base import NO_SLOT, Box, Bus, Slot, Subscription
from celery.exceptions import BrokerError
from celery.utils.bell import Chime
from celery.utils.routing import matches
from celery.utils.uuids import uuid
from celery.wire.protocol import Message

SHARED = "celeriac.bus"
"""The exchange of topics that are no exchange's."""
ENOUGH = 10_000
"""Messages that wait for their listener; then no more are fetched."""
Came = tuple[str, str, Message]
"""Exchange, routing key and message."""


def _place(topic: str) -> tuple[str, str, str, bool]:
    """Exchange, its type, the routing key, and whether it is durable."""
    exchange, slash, key = topic.partition("/")
    if slash:
        return exchange, "topic", key, True
    if exchange.endswith(".pidbox"):
        return exchange, "fanout", "", False
    return SHARED, "topic", topic, False


def _pattern(key: str) -> str:
    """What to bind for *key*, or for every key that begins with it up to its `*`: a pattern has whole words only."""
    if not key.endswith("*"):
        return key
    words = key[:-1].rpartition(".")[0]
    return f"{words}.#" if words else "#"


def _bind(channel: Any, queue: str, exchange: str, kind: str, key: str, durable: bool) -> None:
    channel.exchange_declare(exchange=exchange, type=kind, durable=durable)
    channel.queue_bind(queue=queue, exchange=exchange, routing_key=key)


class KombuBus(Bus):
    """Publishes on the broker's connection; each listener has a connection of its own."""

    def __init__(self, way: Way, line: Line) -> None:
        self._way = way
        self._line = line

    def _check(self) -> None:
        if not self._way.can.fanout:
            raise BrokerError(
                f"The broker {self._way.scheme}:// carries no remote control and no events: its transport does not fan"
                f" out to other processes."
            )

    def publish(self, topic: str, payload: bytes) -> None:
        exchange, kind, key, durable = _place(topic)
        self._send(exchange, kind, key, durable, take_apart(payload))

    def post(self, exchange: str, key: str, payload: bytes, ttl: float) -> None:
        message = take_apart(payload)
        message.properties["expiration"] = str(max(1, int(ttl * 1000)))
        self._send(exchange, "direct", key, False, message)

    def _send(self, exchange: str, kind: str, key: str, durable: bool, message: Message) -> None:
        self._check()

        def work(channel: Any) -> None:
            channel.exchange_declare(exchange=exchange, type=kind, durable=durable)
            if self._way.virtual and not _reaches(channel, exchange, kind, key):
                return  # kombu would warn of it
            channel.basic_publish(prepare(channel, message), exchange=exchange, routing_key=key)

        self._line.call(work)

    def subscribe(self, topics: Sequence[str], slot: Slot = NO_SLOT) -> KombuSubscription:
        self._check()
        return KombuSubscription(self._way, topics, slot)

    def open_box(self, exchange: str, key: str, slot: Slot = NO_SLOT) -> KombuBox:
        self._check()
        return KombuBox(self._way, exchange, key, slot)


def _reaches(channel: Any, exchange: str, kind: str, key: str) -> bool:
    """Whether any queue gets what is sent to *exchange* as *key*."""
    try:
        table = channel.get_table(exchange)
    except KeyError:
        return False
    return any(matches(kind, _text(bound[0]), key) for bound in table)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


class _Listener:
    """A queue of one reader, which is there from the moment this is made until it is closed."""

    def __init__(self, way: Way, name: str, slot: Slot, bind: Callable[[Any, str], None]) -> None:
        self._name, self._slot, self._bind = name, slot, bind
        self.chime = Chime()
        self._lock = threading.Lock()
        """For the chime, which says whether something has come, and what has."""
        self._came: deque[Came] = deque()
        self._timeout = way.timeout + way.patience
        self._lane = Lane(
            way,
            [name],
            self._arrived,
            self._room,
            heard=lambda: None,
            ready=self._ready,
            leaving=self._leave,
            no_ack=True,
            pace=lambda: way.often,
        )
        # On return whatever is sent is heard.
        if not self._lane.flush(self._timeout):
            error = self._lane.error
            self.close()
            raise error or BrokerError(f"The broker {way.scheme}:// does not answer.")

    def _ready(self, channel: Any) -> None:
        slot = self._slot
        channel.queue_declare(
            queue=self._name, durable=slot.durable, exclusive=slot.exclusive, auto_delete=True,
            arguments=_arguments(slot),
        )  # fmt: skip
        self._bind(channel, self._name)
        channel.queue_purge(self._name)  # of whoever had this name and did not say good-bye

    def _leave(self, channel: Any) -> None:
        delete_queue(channel, self._name)  # where the transport deletes none: it is empty, and purged by its heir

    def _room(self, lane: Lane) -> int:
        return 0 if self.chime.closed else ENOUGH - len(self._came)

    def _arrived(self, lane: Lane, source: str, came: Any) -> None:
        info = came.delivery_info
        message = str(info.get("exchange") or ""), str(info.get("routing_key") or ""), read(came)
        with self._lock:
            self._came.append(message)
            self.chime.ring()

    def get(self, timeout: float | None) -> Came | None:
        end = None if timeout is None else time.monotonic() + timeout
        first = True
        while True:
            with self._lock:
                came = self._came.popleft() if self._came else None
                if not self._came and not self.chime.closed:
                    self.chime.clear()
            if came is not None or self.chime.closed:
                return came
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0 and not first:
                return None
            asked = self._lane.ask()
            if first and left is not None and left <= 0:
                self._look(asked)
            else:
                self.chime.wait(left)
            first = False

    def _look(self, asked: int) -> None:
        """Wait until a poll has been made; a moment at most."""
        until = time.monotonic() + self._timeout
        while self._lane.answered < asked and not self._came and time.monotonic() < until and not self.chime.closed:
            self.chime.wait(0.01)

    def close(self) -> None:
        if not self.chime.closed:
            self.chime.close()
            self._lane.stop()
            self._lane.join(self._timeout)
            self._came.clear()


def _arguments(slot: Slot) -> dict[str, Any]:
    given = {"x-expires": slot.expires, "x-message-ttl": slot.ttl}
    return {name: int(value * 1000) for name, value in given.items() if value is not None}


class KombuSubscription(Subscription):
    """What is sent while its connection is being remade is not heard."""

    def __init__(self, way: Way, topics: Sequence[str], slot: Slot) -> None:
        self._topics = tuple(topics)
        self._listener = _Listener(way, slot.name or f"celeriac.{uuid()}", slot, self._bind)

    def _bind(self, channel: Any, queue: str) -> None:
        for topic in self._topics:
            exchange, kind, key, durable = _place(topic)
            _bind(channel, queue, exchange, kind, _pattern(key), durable)

    def get(self, timeout: float | None = None) -> tuple[str, bytes] | None:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            came = self._listener.get(None if end is None else max(0.0, end - time.monotonic()))
            if came is None:
                return None
            exchange, key, message = came
            topic = _topic(exchange, key)
            if any(topic.startswith(t[:-1]) if t.endswith("*") else topic == t for t in self._topics):
                return topic, put_together(message, exchange, key)

    def fileno(self) -> int:
        return self._listener.chime.fileno()

    def close(self) -> None:
        self._listener.close()


def _topic(exchange: str, key: str) -> str:
    if exchange == SHARED:
        return key
    return exchange if exchange.endswith(".pidbox") else f"{exchange}/{key}"


class KombuBox(Box):
    """A queue that one reader has under its key."""

    def __init__(self, way: Way, exchange: str, key: str, slot: Slot) -> None:
        def bind(channel: Any, queue: str) -> None:
            _bind(channel, queue, exchange, "direct", key, False)

        self._listener = _Listener(way, slot.name or f"{key}.{exchange}", slot, bind)

    def get(self, timeout: float) -> bytes | None:
        if self._listener.chime.closed:
            raise BrokerError("The box is closed.")
        came = self._listener.get(timeout)
        return None if came is None else put_together(came[2], came[0], came[1])

    def close(self) -> None:
        self._listener.close()
