"""Reply queues over kombu: one for each thread that sends, read by one lane.

Where a poll blocks at the server, each has a lane of its own.  What kombu has no server for is not told of clients that
come and go, so a queue goes with `close`; where the transport lets queues expire, also some minutes after its process.
"""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import Any

from celery.bridge.lane import Lane
from celery.bridge.messages import read, task_of
from celery.bridge.way import Line, Way, delete_queue
from celery.brokers.answers import OnReply, Replies, Reply
from celery.exceptions import BrokerError
from celery.utils.log import get_logger

logger = get_logger(__name__)

KEPT = 600.0
"""Seconds for which a queue stays that nobody listens to, where the transport counts them."""
RECENT = 30.0
"""Seconds after the last task was sent, or the last state has come, in which queues are looked at often."""
AT_ONCE = 100
"""Messages that are fetched before the first of them is acknowledged."""


class KombuReplies(Replies):
    """Hands what comes to *on_reply*. *expires*: seconds after which nobody wants a result; None for never."""

    def __init__(self, way: Way, line: Line, on_reply: OnReply, expires: float | None) -> None:
        self._way = way
        self._line = line
        self._on_reply = on_reply
        self._kept = int(1000 * min(expires or KEPT, KEPT)) or 1
        self._former: list[object] = []
        """What belongs to the process that this one was forked from: not ours to end, nor to have ended for us."""
        self._names: dict[str, Lane] = {}
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._former.append(self._names)
        self._names = {}
        self._used = float("-inf")

    def open(self, name: str) -> None:
        if self._pid != os.getpid():
            self._begin()
        now = time.monotonic()
        idle, self._used = now - self._used > RECENT, now
        lane = self._names.get(name)
        if lane is None:
            lane = self._listen(name)
        if idle:
            lane.ask()  # it may be in the middle of a long pause

    def _listen(self, name: str) -> Lane:
        with self._lock:
            lane = self._names.get(name)
            if lane is None:
                # Whoever sends the task is told now if the broker is away.
                self._line.call(partial(self._declare, name))
                others = [] if self._way.waits else list(self._names.values())
                if others:
                    lane = others[0]
                    lane.listen(name)
                else:
                    lane = self._lane(name)
                self._names[name] = lane
        return lane

    def _lane(self, name: str) -> Lane:
        return Lane(
            self._way,
            [name],
            self._arrived,
            lambda lane: AT_ONCE,
            heard=lambda: None,
            greet=self._declare,
            no_ack=not self._way.leases,
            pace=self._pace,
        )

    def _declare(self, name: str, channel: Any) -> None:
        arguments = {"x-expires": self._kept}
        # Not exclusive: the connection may break, and results that come meanwhile are wanted.
        channel.queue_declare(queue=name, durable=False, exclusive=False, auto_delete=False, arguments=arguments)

    def _pace(self) -> float:
        """Seconds between two looks for what may have come."""
        return self._way.often if time.monotonic() - self._used < RECENT else self._way.interval

    def _arrived(self, lane: Lane, source: str, came: Any) -> None:
        self._used = time.monotonic()
        try:
            message = read(came)
            task_id = task_of(message)
            self._on_reply(Reply(task_id, message.content_type, message.content_encoding, message.body))
        except Exception:
            logger.exception("What has come to the reply queue %s cannot be taken in, and is dropped", source)
        if self._way.leases:
            lane.ack([came])

    def close(self) -> None:
        if self._pid != os.getpid():
            self._begin()
            return
        with self._lock:
            names, self._names = self._names, {}
            self._used = float("-inf")
        lanes = set(names.values())
        for lane in lanes:
            lane.stop()
        until = time.monotonic() + self._way.timeout + self._way.patience
        for lane in lanes:
            lane.join(max(0.0, until - time.monotonic()))
        try:
            for name in names:
                self._line.call(partial(delete_queue, name=name))
        except BrokerError as error:
            logger.warning("Reply queues could not be deleted: %s", error)


__all__ = ["KombuReplies"]
