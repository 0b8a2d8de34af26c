"""What was acknowledged lately: an acknowledgement has no answer, and may be lost with its connection or its node.

A message whose acknowledgement was lost comes again, to anybody.  Its mark in the result store must be there by then,
so marks are cleared only some seconds after the acknowledgement, and if the connection has stood until then.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from celery.amqp.marks import Marks

MOST_REMEMBERED = 10_000
MOST = 500
"""Marks that are cleared at a time, at least."""
RIPE = 5.0
"""Seconds after which, or at the latest after twice that, the server has an acknowledgement and has it on disk: longer
than a watched connection takes to find out that it leads nowhere."""


class Receipts:
    """Names of messages. Thread-safe; *now* is monotonic seconds, *patience* how long a server may be silent."""

    def __init__(self, now: float, patience: float = RIPE) -> None:
        self._patience = max(RIPE, patience)
        self._lock = threading.Lock()
        self._turned = now
        self._young: list[str] = []
        self._old: list[str] = []
        self._ripe: list[str] = []
        self._lost: list[str] = []

    def add(self, names: Sequence[str], now: float) -> None:
        """These are being acknowledged."""
        with self._lock:
            self._turn(now)
            self._young += names

    def miss(self, name: str) -> None:
        """This one cannot be acknowledged: the server has taken it back, and gives it to somebody."""
        with self._lock:
            self._lost.append(name)

    def lose(self) -> list[str]:
        """The connection has ended: the names for which nobody knows whether the server has had them."""
        with self._lock:
            lost = self._old + self._young
            self._lost += lost
            self._old, self._young = [], []
        return lost

    def tidy(self, marks: Marks, now: float, most: int = 0) -> None:
        """Clear marks of what the server knows to have ended, and mark what it may not know.

        Raises what the store raises; it is done the next time then.
        """
        with self._lock:
            self._turn(now)
            most = max(most, MOST)
            ripe, self._ripe = self._ripe[:most], self._ripe[most:]
            lost, self._lost = self._lost, []
        try:
            marks.clear(ripe)
            marks.end(lost)
        except BaseException:
            with self._lock:
                self._ripe += ripe
                self._lost += lost
            raise

    def finish(self) -> None:
        """The server has said goodbye: it has had them all."""
        with self._lock:
            self._ripe += self._old + self._young
            self._old, self._young = [], []

    def _turn(self, now: float) -> None:
        if now - self._turned >= self._patience:
            self._turned = now
            self._ripe += self._old
            self._old, self._young = self._young, []


class Finished:
    """Names of what was settled without a connection to acknowledge it on, or on one that has ended since: the latest
    ones. The caller's lock guards it."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._names)

    def add(self, name: str) -> None:
        self._names[name] = None
        if len(self._names) > MOST_REMEMBERED:
            del self._names[next(iter(self._names))]

    def take(self, name: str) -> bool:
        """Whether it was there; it is not any more."""
        return self._names.pop(name, self) is None
