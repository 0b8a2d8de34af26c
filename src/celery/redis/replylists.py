"""Reply queues on Redis: lists named as their client is, which workers of either kind of Celery push results to."""

from __future__ import annotations

import threading
import time
from typing import Any

from celery.brokers.replies import Source
from celery.redis.link import Lane, Link
from celery.redis.wire import pack


class ReplyList(Source):
    """On a connection of its own. What was looked at stays in the list until it has been read."""

    def __init__(self, link: Link, name: str) -> None:
        self._link = link
        self._key = f"{link.prefix}{name}"
        self._lane = Lane(link)
        self._seen: list[bytes] = []
        self._ending = threading.Lock()
        self._ended = False
        self._link.call("LLEN", self._key)  # whoever sends the task is told now if the server is away

    def look(self, most: int, timeout: float) -> list[bytes]:
        look = pack(("LRANGE", self._key, -most, -1))
        [found] = self._ask(look)
        if not found and timeout > 0:
            # Waits for the oldest, which goes to where it was. Well before a silent server is given up.
            wait = min(timeout, self._link.patience(float("inf")) / 2)
            self._ask(pack(("BLMOVE", self._key, self._key, "RIGHT", "RIGHT", f"{wait:.3f}")), wait=wait)
            [found] = self._ask(look)
        self._seen = [bytes(entry) for entry in reversed(found)]
        return [entry for entry in self._seen if entry]

    def done(self) -> None:
        removals = [pack(("LREM", self._key, -1, entry)) for entry in self._seen]
        self._ask(*removals)

    def wake(self) -> None:
        with self._ending:
            if not self._ended:  # else the list would be there again
                self._link.calls([["LPUSH", self._key, b""], ["PEXPIRE", self._key, 60_000]])

    def close(self) -> None:
        with self._ending:
            self._ended = True
            try:
                self._ask(pack(("DEL", self._key)))
            finally:
                self._lane.close()

    def _ask(self, *packed: bytes, wait: float = 0.0) -> list[Any]:
        deadline = time.monotonic() + max(self._link.timeout, 3 * wait)
        with self._lane.lock:
            return self._link.exchange(self._lane, b"".join(packed), len(packed), deadline=deadline)


__all__ = ["ReplyList"]
