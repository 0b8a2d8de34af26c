"""Time as an argument: the system's clock, and one that a test moves by hand."""

from __future__ import annotations

import threading
import time as _time
from typing import Protocol


class Clock(Protocol):
    """What a part needs to know of time. Both methods return seconds and never block."""

    def time(self) -> float:
        """Unix time in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""


class SystemClock:
    """The machine's own clock."""

    time = staticmethod(_time.time)
    monotonic = staticmethod(_time.monotonic)


class FakeClock:
    """A clock that stands still until it is told to advance; thread-safe."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._start = now
        self._lock = threading.Lock()

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now - self._start

    def advance(self, seconds: float) -> float:
        """Move the clock by *seconds* and return the new Unix time."""
        with self._lock:
            self._now += seconds
            return self._now


SYSTEM = SystemClock()
