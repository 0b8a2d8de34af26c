"""How much work a worker holds: measured in time, not in messages. Pure arithmetic; see `Prefetch.target`."""

from __future__ import annotations

from collections.abc import Sequence

HORIZON = 0.1
"""Seconds of work a worker holds while tasks are tiny."""
PATIENCE = 1.0
"""Seconds after which what could not start is given back."""
MOST = 1000
"""Messages held at most, however tiny the tasks."""
HEAVY = 32 << 20
"""Bytes held at most, as far as `multiplier` does not ask for more."""
WEIGHT = 0.05
"""How much one batch of outcomes moves the measured mean, at least."""


class Prefetch:
    """Says how many messages to hold, running ones included.

    It begins with `multiplier` * slots.  Once durations are known it is what the slots start within `HORIZON`, as far
    as that is no more than `HEAVY` bytes, and never fewer than they can run at once.  Between those it keeps to
    `multiplier` * slots, as far as that starts within `PATIENCE`: what cannot would only be missing elsewhere.
    """

    def __init__(self, multiplier: int, *, disabled: bool = False) -> None:
        self.multiplier = multiplier
        self.extra = 0
        """Messages more (or fewer) than the multiplier says: what remote control has added."""
        self.disabled = disabled
        self.mean: float | None = None
        self.size = 0.0
        """Mean bytes of a message."""
        self.stalled = False

    def weigh(self, sizes: Sequence[int]) -> None:
        """Messages of so many bytes were claimed."""
        sample = sum(sizes) / len(sizes)
        self.size += (sample - self.size) * (_weight(len(sizes)) if self.size else 1.0)

    def record(self, total: float, count: int) -> None:
        """*count* tasks have ended that ran for *total* seconds together."""
        sample = total / count
        if self.mean is None:
            self.mean = sample
        else:
            self.mean += (sample - self.mean) * _weight(count)
        self.stalled = False

    def stall(self) -> None:
        """Something held has waited for longer than `PATIENCE`: hold only what can run, until a task ends."""
        self.stalled = True

    def begin(self, slots: int) -> int:
        """How many messages are held with *slots* while nothing is known of their durations."""
        if self.multiplier <= 0:
            return MOST
        return max(slots, self.multiplier * slots + self.extra)

    def lent(self, slots: int) -> int:
        """How many messages may be in the hands of strategies: as many as the original would claim in all."""
        return slots if self.disabled else self.begin(slots)

    def target(self, slots: int) -> int:
        """How many messages to hold with *slots* that run one each."""
        if self.disabled or self.stalled:
            return slots
        begin = self.begin(slots)
        mean = self.mean
        if mean is None:
            return max(slots, min(begin, MOST))
        most = max(self.most(), min(begin, MOST) if self.multiplier > 0 else slots)
        if mean <= 0.0:
            return most
        soon = slots * HORIZON / mean
        bearable = slots * (1.0 + PATIENCE / mean)
        return int(max(slots, min(most, max(soon, min(begin, bearable)))))

    def most(self) -> int:
        """How many messages are held at most, however tiny the tasks: fewer where messages are large."""
        return min(MOST, int(HEAVY / self.size)) if self.size else MOST


def _weight(count: int) -> float:
    """How much so many samples move a mean."""
    return max(WEIGHT, min(0.5, count / 100.0))
