"""Remote control and events over RabbitMQ, on the exchanges that original Celery has for them.

`<name>.pidbox` is a fanout exchange, one with a routing key after it (`celeryev/worker.online`) a topic exchange, and
boxes are bound to direct ones.  Other topics share the exchange `celeriac.bus`.  Nothing is confirmed here: what nobody
listens to is gone anyway.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from celery.amqp import frames
from celery.amqp.channel import Channel, Refused
from celery.amqp.connection import Connection
from celery.amqp.frames import Delivered, encode_properties
from celery.amqp.link import Link
from celery.amqp.messages import put_together, take_apart
from celery.amqp.tables import encode_table
from celery.brokers.base import NO_SLOT, Box, Bus, Slot, Subscription
from celery.exceptions import BrokerError
from celery.utils.bell import Chime
from celery.utils.uuids import uuid

SHARED = "celeriac.bus"
LOCKED = 405
DURABLE, EXCLUSIVE, AUTO_DELETE, NO_ACK = 2, 4, 8, 2


def _place(topic: str) -> tuple[str, str, str, int]:
    """Exchange, its type, the routing key, and whether it is durable."""
    exchange, slash, key = topic.partition("/")
    if slash:
        return exchange, "topic", key, DURABLE
    if exchange.endswith(".pidbox"):
        return exchange, "fanout", "", 0
    return SHARED, "topic", topic, 0


def _pattern(exchange: str, key: str) -> str:
    """What to bind, so that at least the topics come which *key* matches; patterns of AMQP are made of whole words."""
    if not key.endswith("*"):
        return key
    stem = key[:-1]
    if not stem or stem.endswith("."):
        return f"{stem}#"
    # Events are named after whole words: `worker*` means `worker` and all that begin with `worker.`.
    return "#" if exchange == SHARED else f"{stem}.#"


def _have(channel: Channel, exchange: str, kind: str, bits: int) -> None:
    data = frames.exchange_declare(channel.number, exchange, kind, bits, {})
    channel.call(data, frames.EXCHANGE_DECLARE_OK)


class RabbitBus(Bus):
    """Publishes on a channel of the broker's own connection; each listener has a connection of its own."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def publish(self, topic: str, payload: bytes) -> None:
        exchange, kind, key, bits = _place(topic)
        self._send(exchange, kind, key, bits, payload, None)

    def post(self, exchange: str, key: str, payload: bytes, ttl: float) -> None:
        self._send(exchange, "direct", key, 0, payload, ttl)

    def _send(self, exchange: str, kind: str, key: str, bits: int, payload: bytes, ttl: float | None) -> None:
        properties, body = take_apart(payload)
        if ttl is not None:
            properties.expiration = str(max(1, int(ttl * 1000)))
        raw = encode_properties(properties)

        def work(channel: Channel, known: set[str]) -> None:
            if exchange not in known:
                _have(channel, exchange, kind, bits)
                known.add(exchange)
            channel.send(
                frames.publish(channel.number, exchange, key, raw, body, channel.connection.frame_max, flags=0)
            )

        self._link.cast(work)

    def subscribe(self, topics: Sequence[str], slot: Slot = NO_SLOT) -> RabbitSubscription:
        return RabbitSubscription(self._link, topics, slot)

    def open_box(self, exchange: str, key: str, slot: Slot = NO_SLOT) -> RabbitBox:
        return RabbitBox(self._link, exchange, key, slot)


class _Listener:
    """A queue of one reader, on a connection of its own, which is remade when somebody reads."""

    def __init__(self, link: Link, name: str, slot: Slot, bind: Callable[[Channel, str], None]) -> None:
        self._link, self._name, self._slot, self._bind = link, name, slot, bind
        self.chime = Chime()
        self._lock = threading.Lock()
        """For the chime, which says whether something has come, and what has."""
        self._came: deque[Delivered] = deque()
        self._connection: Connection | None = None
        link.retried(self._open)

    def _open(self) -> None:
        former = self._connection
        if former is not None:
            former.close()
        connection = self._connection = self._link.open()
        connection.on_end = self.chime.ring  # first: it may end as soon as it is there
        try:
            self._listen(connection.channel())
        except Refused as error:
            connection.close()
            error.temporary = error.code == LOCKED  # whoever had this name may be on its way out
            raise

    def _listen(self, channel: Channel) -> None:
        slot, number = self._slot, channel.number
        arguments = {}
        if slot.expires is not None:
            arguments["x-expires"] = int(slot.expires * 1000)
        if slot.ttl is not None:
            arguments["x-message-ttl"] = int(slot.ttl * 1000)
        exclusive = slot.exclusive or not slot.name
        bits = AUTO_DELETE | (EXCLUSIVE if exclusive else 0) | (DURABLE if slot.durable else 0)
        channel.on_message = self._arrived
        channel.call(frames.queue_declare(number, self._name, bits, arguments), frames.QUEUE_DECLARE_OK)
        self._bind(channel, self._name)
        args = (b"\0\0", frames.short(self._name), frames.short(""), bytes((NO_ACK,)), encode_table({}))
        channel.call(frames.method(number, frames.BASIC_CONSUME, *args), frames.BASIC_CONSUME_OK)

    def _arrived(self, came: Delivered) -> None:
        with self._lock:
            self._came.append(came)
            self.chime.ring()

    def get(self, timeout: float | None) -> Delivered | None:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                came = self._came.popleft() if self._came else None
                if not self._came and not self.chime.closed:
                    self.chime.clear()
            if came is not None or self.chime.closed:
                return came
            connection = self._connection
            if connection is None or not connection.usable:
                self._open()
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return None
            self.chime.wait(left)

    def close(self) -> None:
        self.chime.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.on_end = None
            connection.close()
        self._came.clear()


class RabbitSubscription(Subscription):
    """What is sent while its connection is being remade is not heard."""

    def __init__(self, link: Link, topics: Sequence[str], slot: Slot) -> None:
        self._topics = tuple(topics)
        self._listener = _Listener(link, slot.name or f"celeriac.{uuid()}", slot, self._bind)

    def _bind(self, channel: Channel, queue: str) -> None:
        for topic in self._topics:
            exchange, kind, key, bits = _place(topic)
            _have(channel, exchange, kind, bits)
            data = frames.queue_bind(channel.number, queue, exchange, _pattern(exchange, key), {})
            channel.call(data, frames.QUEUE_BIND_OK)

    def get(self, timeout: float | None = None) -> tuple[str, bytes] | None:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            came = self._listener.get(None if end is None else max(0.0, end - time.monotonic()))
            if came is None:
                return None
            topic = self._topic_of(came)
            if any(topic.startswith(t[:-1]) if t.endswith("*") else topic == t for t in self._topics):
                return topic, put_together(came, came.exchange, came.routing_key)

    @staticmethod
    def _topic_of(came: Delivered) -> str:
        if came.exchange == SHARED:
            return came.routing_key
        if came.exchange.endswith(".pidbox"):
            return came.exchange
        return f"{came.exchange}/{came.routing_key}"

    def fileno(self) -> int:
        return self._listener.chime.fileno()

    def close(self) -> None:
        self._listener.close()


class RabbitBox(Box):
    """A queue that one reader has under its key."""

    def __init__(self, link: Link, exchange: str, key: str, slot: Slot) -> None:
        def bind(channel: Channel, queue: str) -> None:
            _have(channel, exchange, "direct", 0)
            channel.call(frames.queue_bind(channel.number, queue, exchange, key, {}), frames.QUEUE_BIND_OK)

        self._listener = _Listener(link, slot.name or f"{key}.{exchange}", slot, bind)

    def get(self, timeout: float) -> bytes | None:
        if self._listener.chime.closed:
            raise BrokerError("The box is closed.")
        came = self._listener.get(timeout)
        return None if came is None else put_together(came, came.exchange, came.routing_key)

    def close(self) -> None:
        self._listener.close()
