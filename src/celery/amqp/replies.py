"""Reply queues over RabbitMQ: one for each thread that sends, all on one connection, which is remade when it breaks.

They are called as those of original Celery, and durable; but they do not end with the connection of their reader: that
may break, and results that come meanwhile are wanted.  They end when nobody has listened for ten minutes.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

from celery.amqp import frames
from celery.amqp.channel import Channel
from celery.amqp.connection import Connection
from celery.amqp.frames import Delivered
from celery.amqp.link import Link
from celery.amqp.tables import encode_table
from celery.brokers.answers import OnReply, Replies, Reply
from celery.exceptions import BrokerError
from celery.utils.log import get_logger

logger = get_logger(__name__)

DURABLE, NO_ACK = 2, 2
KEPT = 600.0
"""Seconds for which a queue stays that nobody listens to."""
PAUSES = 0.1, 2.0
"""Seconds before the second attempt to connect again, and the most before any."""


class RabbitReplies(Replies):
    """Hands what comes to *on_reply*. *expires*: seconds after which nobody wants a result; None for never."""

    def __init__(self, link: Link, on_reply: OnReply, expires: float | None) -> None:
        self._link = link
        self._on_reply = on_reply
        self._kept = int(1000 * min(expires or KEPT, KEPT)) or 1
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._names: dict[str, None] = {}
        self._channel: Channel | None = None
        self._closed = False
        self._again: threading.Thread | None = None

    def open(self, name: str) -> None:
        if self._pid != os.getpid():  # a fork: what the parent listens to is the parent's
            self._begin()
        channel = self._channel
        if channel is not None and channel.usable and name in self._names:
            return
        with self._lock:
            self._closed = False
            known = name in self._names
            self._names[name] = None
            try:
                self._link.retried(lambda: self._listen(name))
            except BrokerError:
                if not known:
                    del self._names[name]
                raise

    def _listen(self, name: str) -> None:
        """To *name*; to all of them on a new connection."""
        channel = self._channel
        if channel is not None and channel.usable:
            self._consume(channel, name)
            return
        if channel is not None:
            channel.connection.close()
        connection = self._link.open()
        try:
            channel = connection.channel()
            channel.on_message = self._came
            for each in self._names:
                self._consume(channel, each)
        except BaseException:
            connection.close()
            raise
        self._channel = channel
        connection.on_end = lambda: self._ended(connection)
        if not connection.usable:
            self._ended(connection)

    def _consume(self, channel: Channel, name: str) -> None:
        number = channel.number
        data = frames.queue_declare(number, name, DURABLE, {"x-expires": self._kept})
        channel.call(data, frames.QUEUE_DECLARE_OK)
        args = (b"\0\0", frames.short(name), frames.short(name), bytes((NO_ACK,)), encode_table({}))
        channel.call(frames.method(number, frames.BASIC_CONSUME, *args), frames.BASIC_CONSUME_OK)

    def _came(self, came: Delivered) -> None:
        given = came.properties
        try:
            self._on_reply(
                Reply(given.correlation_id or "", given.content_type or "", given.content_encoding or "", came.body)
            )
        except Exception:
            logger.exception("A result of task %s cannot be taken in", given.correlation_id)

    def _ended(self, connection: Connection) -> None:
        """Called by the thread of the connection, as its last deed."""
        if self._closed or self._pid != os.getpid():
            return
        channel = self._channel
        if channel is None or channel.connection is not connection or self._again is not None:
            return
        logger.warning("Results do not arrive for now: %s", connection.ended)
        self._again = threading.Thread(target=self._listen_again, name="celery-replies", daemon=True)
        self._again.start()

    def _listen_again(self) -> None:
        """Until it is so, or somebody else has done it, or the queues have gone."""
        pause, until = PAUSES[0], time.monotonic() + self._kept / 1000
        while not self._closed:
            with self._lock:
                if self._closed or (self._channel is not None and self._channel.usable):
                    break
                try:
                    self._listen("")
                except BrokerError:
                    if time.monotonic() > until:
                        logger.exception("Results that were to come have gone with their queues")
                        self._again = None
                        return
                else:
                    logger.warning("Results arrive again")
                    break
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])
        self._again = None
        channel = self._channel
        if channel is not None and not channel.usable:  # it has ended while this thread still saw to it
            self._ended(channel.connection)

    def close(self) -> None:
        if self._pid != os.getpid():
            self._begin()
            return
        with self._lock:
            self._closed = True
            channel, self._channel = self._channel, None
            names, self._names = self._names, {}
        if channel is not None:
            channel.connection.on_end = None
            with suppress(BrokerError):
                for name in names:
                    data = frames.method(channel.number, frames.QUEUE_DELETE, b"\0\0", frames.short(name), b"\0")
                    channel.call(data, frames.QUEUE_DELETE_OK)
            channel.connection.close()
        again = self._again
        if again is not None and again is not threading.current_thread():
            again.join(PAUSES[1] + self._link.timeout)
