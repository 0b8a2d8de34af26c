"""Reply queues on brokers whose queues are all alike: each is emptied by a thread."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

from celery.brokers.answers import OnReply, Replies, Reply
from celery.brokers.base import Consumer
from celery.exceptions import BrokerError, DecodeError
from celery.utils.log import get_logger
from celery.wire.message import Settlement
from celery.wire.protocol import decode_envelope

logger = get_logger(__name__)

AT_ONCE = 100
SLICE = 1.0
"""Seconds that one look into a queue waits at most."""
PAUSE = 0.5
"""Seconds before the next look where the broker is away."""


class Source(ABC):
    """One reply queue as its reader sees it. `wake` is for any thread, the others are for the reader's."""

    @abstractmethod
    def look(self, most: int, timeout: float) -> list[bytes]:
        """Up to *most* envelopes, the oldest first; they stay until `done`. Raises `BrokerError`."""

    @abstractmethod
    def done(self) -> None:
        """What `look` gave last has been read. Raises `BrokerError`; then it may come again."""

    @abstractmethod
    def wake(self) -> None:
        """Make a `look` that waits return."""

    @abstractmethod
    def close(self) -> None:
        """The queue is wanted no more: it goes, with what is in it."""


class Consumed(Source):
    """A queue that a consumer of the broker's has as its own, under a lease of so many seconds."""

    def __init__(self, consumer: Consumer, lease: float) -> None:
        self._consumer = consumer
        self._every = lease / 3
        self._renewed = time.monotonic()
        self._ends: list[Settlement] = []

    def look(self, most: int, timeout: float) -> list[bytes]:
        if time.monotonic() - self._renewed > self._every:
            self._renewed = time.monotonic()
            self._consumer.renew()
        deliveries = self._consumer.claim(most, timeout)
        self._ends = [Settlement(delivery) for delivery in deliveries]
        return [delivery.envelope for delivery in deliveries]

    def done(self) -> None:
        self._consumer.settle(self._ends)

    def wake(self) -> None:
        self._consumer.wake()

    def close(self) -> None:
        self._consumer.close()


class QueuedReplies(Replies):
    """*make* makes the source for a name."""

    def __init__(self, make: Callable[[str], Source], on_reply: OnReply) -> None:
        self._make = make
        self._on_reply = on_reply
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Source, threading.Thread]] = {}
        self._closing = threading.Event()

    def open(self, name: str) -> None:
        if self._pid != os.getpid():
            self._begin()
        if name in self._open:
            return
        with self._lock:
            if name not in self._open:
                source = self._make(name)
                read = partial(self._read, source, self._closing)
                thread = threading.Thread(target=read, name="celery-replies", daemon=True)
                self._open[name] = source, thread
                thread.start()

    def _read(self, source: Source, closing: threading.Event) -> None:
        away = False
        while not closing.is_set():
            try:
                came = source.look(AT_ONCE, SLICE)
                for envelope in came:
                    self._tell(envelope)
                if came:
                    source.done()
                away = False
            except BrokerError as error:
                if not away:
                    logger.warning("Results do not come for now: %s", error)
                away = True
                closing.wait(PAUSE)
        try:
            source.close()
        except BrokerError as error:
            logger.warning("A reply queue could not be deleted: %s", error)

    def _tell(self, envelope: bytes) -> None:
        try:
            message = decode_envelope(envelope)
        except DecodeError as error:
            logger.warning("What is no message came to a reply queue, and is dropped: %s", error)
            return
        task_id = str(message.properties.get("correlation_id") or "")
        self._on_reply(Reply(task_id, message.content_type, message.content_encoding, message.body))

    def close(self) -> None:
        with self._lock:
            opened, self._open = self._open, {}
            self._closing.set()
            self._closing = threading.Event()
        for source, thread in opened.values():
            try:
                source.wake()
            except BrokerError:
                continue  # it is away: the reader finds out by itself, and is a daemon
            thread.join(5.0)


def consumed_replies(consume: Callable[[str], Consumer], lease: float, on_reply: OnReply) -> QueuedReplies:
    """Reply queues that consumers read; *consume* makes one for a queue that goes with it."""
    return QueuedReplies(lambda name: Consumed(consume(name), lease), on_reply)


__all__ = ["QueuedReplies", "Source", "consumed_replies"]
