"""Reply queues in this process: queues like all others, each emptied by a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial

from celery.brokers.answers import OnReply, Replies, Reply
from celery.brokers.base import Consumer
from celery.wire.message import Settlement
from celery.wire.protocol import decode_envelope

AT_ONCE = 100


class MemoryReplies(Replies):
    """*consume* makes a consumer of some queues."""

    def __init__(self, consume: Callable[[Sequence[str]], Consumer], on_reply: OnReply) -> None:
        self._consume = consume
        self._on_reply = on_reply
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Consumer, threading.Thread]] = {}
        self._closing = threading.Event()

    def open(self, name: str) -> None:
        if self._pid != os.getpid():
            self._begin()
        if name in self._open:
            return
        with self._lock:
            if name not in self._open:
                consumer = self._consume([name])
                read = partial(self._read, consumer, self._closing)
                thread = threading.Thread(target=read, name="celery-replies", daemon=True)
                self._open[name] = consumer, thread
                thread.start()

    def _read(self, consumer: Consumer, closing: threading.Event) -> None:
        while not closing.is_set():
            deliveries = consumer.claim(AT_ONCE, 1.0)
            for delivery in deliveries:
                message = decode_envelope(delivery.envelope)
                task_id = str(message.properties.get("correlation_id") or "")
                self._on_reply(Reply(task_id, message.content_type, message.content_encoding, message.body))
            if deliveries:
                consumer.settle([Settlement(delivery) for delivery in deliveries])
        consumer.close()

    def close(self) -> None:
        with self._lock:
            opened, self._open = self._open, {}
            self._closing.set()
            self._closing = threading.Event()
        for consumer, thread in opened.values():
            consumer.wake()
            thread.join(5.0)
