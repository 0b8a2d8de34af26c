"""Rates as distances in time: how far apart things are that happen `100/m`. Pure arithmetic; time is an argument."""

from __future__ import annotations

import math
from typing import NamedTuple

from celery.utils.time import rate

PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0}
FINEST = 0.01
"""Seconds. What is to happen more often than this happens in bursts that come about so often."""


class Pace(NamedTuple):
    """At least `interval` seconds apart, but for `burst` of them in a row after a pause.

    In no period of the rate are there more than it says, and one.
    """

    interval: float
    burst: int = 1

    def at(self, next_at: float, now: float) -> float:
        """When the next one may happen. *next_at*: what the last `after` returned, 0 at the beginning."""
        return max(next_at, now - (self.burst - 1) * self.interval)

    def after(self, next_at: float, now: float, count: int = 1) -> float:
        """What to remember when so many happen now."""
        return self.at(next_at, now) + count * self.interval

    def available(self, next_at: float, now: float) -> int:
        """How many may happen now."""
        ahead = now - self.at(next_at, now)
        return 0 if ahead < 0 else min(self.burst, 1 + math.floor(ahead / self.interval))


def pace_of(limit: str | float | None) -> Pace | None:
    """The pace of a rate such as `10/s`, `100/m`, `1000/h` or a number per second; None for no limit (None, 0, '').

    Raises `ValueError` for text that is no rate.
    """
    per_second = rate(limit)
    if not per_second or per_second < 0:
        return None
    unit = limit.strip()[-1:].lower() if isinstance(limit, str) else ""
    period = PERIODS.get(unit, 1.0)
    interval = 1.0 / per_second
    if interval >= FINEST:
        return Pace(interval)
    count = per_second * period
    burst = min(math.ceil(FINEST / interval), max(1, int(count) // 2))
    return Pace(period / (count - burst + 1), burst)
