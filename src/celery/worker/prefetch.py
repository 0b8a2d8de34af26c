"""How much work a worker holds: measured in time, not in messages. Pure arithmetic; see `Prefetch.target`."""

from __future__ import annotations

HORIZON = 0.1
"""Seconds of work a worker holds while tasks are tiny."""
PATIENCE = 1.0
"""Seconds after which what could not start is given back."""
MOST = 1000
"""Messages held at most, however tiny the tasks."""
WEIGHT = 0.05
"""How much one batch of outcomes moves the measured mean, at least."""


class Prefetch:
    """Says how many messages to hold, running ones included.

    It begins with `multiplier` * slots.  Once durations are known it is what the slots start within `HORIZON`, never
    fewer than they can run at once.  Between those it keeps to `multiplier` * slots, as far as that starts within
    `PATIENCE`: what cannot would only be missing elsewhere.
    """

    def __init__(self, multiplier: int, *, disabled: bool = False) -> None:
        self.multiplier = multiplier
        self.extra = 0
        """Messages more (or fewer) than the multiplier says: what remote control has added."""
        self.disabled = disabled
        self.mean: float | None = None
        self.stalled = False

    def record(self, total: float, count: int) -> None:
        """*count* tasks have ended that ran for *total* seconds together."""
        sample = total / count
        if self.mean is None:
            self.mean = sample
        else:
            weight = max(WEIGHT, min(0.5, count / 100.0))
            self.mean += (sample - self.mean) * weight
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
        if mean <= 0.0:
            return MOST
        soon = slots * HORIZON / mean
        bearable = slots * (1.0 + PATIENCE / mean)
        return int(max(slots, min(MOST, max(soon, min(begin, bearable)))))
