"""Waiting at a store that tells nobody of writes: whoever waits looks again, soon at first and then less often."""

from __future__ import annotations

import threading
import time

from celery.backends.store import Watch

FIRST, MOST = 0.02, 0.5
"""Seconds before the first look, and the most between two."""


class PollingWatch(Watch):
    """Wakes when it is time to look."""

    def __init__(self) -> None:
        self._pause = FIRST
        self._rung = threading.Event()
        self._closed = False

    def wait(self, timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        pause = self._pause if timeout is None else min(self._pause, timeout)
        rung = self._rung.wait(pause)
        if self._closed:
            return False
        self._rung.clear()
        if rung or end is None or time.monotonic() < end:
            self._pause = min(1.5 * self._pause, MOST)
            return True
        return False

    def ring(self) -> None:
        self._rung.set()

    def close(self) -> None:
        self._closed = True
        self._rung.set()
