"""How many jobs a slot may hold: arithmetic on durations, nothing else.

A slot that holds one job costs a wake-up of both sides for each; one that holds many makes the last of them wait.
So a slot holds what it will have done within `BUDGET`: dozens of tiny jobs, exactly one long one.
"""

from __future__ import annotations

from collections.abc import Sequence

BUDGET = 0.005
"""Seconds of work that a slot holds."""
PATIENCE = 0.005
"""Seconds after which a running job is longer than its window was made for: what waits behind it is taken back."""
WEIGHT = 0.2
"""Share of the newest duration in the mean."""
SURPRISE = 8.0
"""A job counts as at most so many times as long as the mean. On a busy machine any tiny job can be interrupted for
milliseconds; it takes a few long ones in a row to close the window (what waits behind the first is taken back)."""
LAST = 12
"""Jobs of one batch that are looked at."""


class Pace:
    """The exponentially weighted mean of a slot's recent durations, in seconds; None as long as nothing is known."""

    __slots__ = ("mean",)

    def __init__(self, mean: float | None = None) -> None:
        self.mean = mean

    def learn(self, duration: float) -> None:
        """Count a job that took *duration* seconds."""
        mean = self.mean
        if mean is None:
            self.mean = duration
        else:
            self.mean = mean + (min(duration, mean * SURPRISE + 1e-6) - mean) * WEIGHT

    def learn_all(self, micros: Sequence[int]) -> None:
        """Count jobs that took so many microseconds. Of many the last dozen is nearly all that the mean would keep."""
        for duration in micros[-LAST:]:
            self.learn(duration * 1e-6)

    def depth(self, most: int, elapsed: float = 0.0) -> int:
        """Jobs the slot may hold now, the running one included: from 1 to *most*.

        *elapsed* is how long the running job has been at it: a job that takes longer than the mean says so itself.
        """
        mean = self.mean
        if mean is None:
            return 1
        mean = max(mean, elapsed)
        if mean * most <= BUDGET:
            return most
        return max(1, int(BUDGET / mean))


def share(jobs: int, rooms: Sequence[int]) -> list[int]:
    """How many of *jobs* each slot gets: even shares, none above its room; what is left over goes to earlier slots."""
    shares = [0] * len(rooms)
    left = min(jobs, sum(rooms))
    while left:
        open_slots = [index for index, room in enumerate(rooms) if room > shares[index]]
        even = max(1, left // len(open_slots))
        for index in open_slots:
            extra = min(even, rooms[index] - shares[index], left)
            shares[index] += extra
            left -= extra
    return shares
