"""What a worker knows of a broker that is out of reach: that it is, and when to try again."""

from __future__ import annotations

from celery.utils.clock import Clock

FIRST, MOST = 0.1, 2.0
"""Seconds until the first further try, and at most between two; each further one doubles them."""


class Outage:
    """One thread."""

    def __init__(self, clock: Clock) -> None:
        self.lasts = False
        self.retry_at = 0.0
        """On the monotonic clock."""
        self._clock = clock
        self._pause = FIRST

    def note(self) -> bool:
        """A try has failed; whether that is news."""
        news, self.lasts = not self.lasts, True
        if news:
            self._pause = FIRST
        self.retry_at = self._clock.monotonic() + self._pause
        self._pause = min(self._pause * 2, MOST)
        return news

    def is_waited_out(self) -> bool:
        """Whether to try (again) now."""
        return not self.lasts or self._clock.monotonic() >= self.retry_at

    def end(self) -> bool:
        """A try has succeeded; whether that is news."""
        news, self.lasts = self.lasts, False
        return news
