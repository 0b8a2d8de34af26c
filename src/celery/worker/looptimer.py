"""`worker.timer`: calls at a later time, made by the worker's loop between two of its turns.

Strategies and steps use it, so what they do in it needs no locks.  A call should be short: nothing is claimed and
nothing is settled while it lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery.utils.timer2 import AnyEntry, Schedule


class LoopTimer(Schedule):
    """A schedule whose entries the loop calls. Entries may be made in any thread.

    An error of an entry is logged; SystemExit passes, and ends the worker as it does everywhere in its loop.
    """

    wake: Callable[[], Any] | None = None
    """Has the loop look at its timer; set when there is a loop."""

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._queue)

    def enter_at(
        self, entry: AnyEntry, eta: Any = None, priority: int = 0, time: Callable[[], float] = time.monotonic
    ) -> AnyEntry:
        entry = super().enter_at(entry, eta, priority, time)
        if self.wake is not None:
            self.wake()
        return entry

    def tick(self) -> None:
        """Make the calls that are due."""
        for _ in range(len(self)):  # those that are made now wait for the next turn
            _, entry = self.due()
            if entry is None:
                return
            self.apply_entry(entry)

    def wait(self) -> float | None:
        """Seconds until the next call, None where there is none."""
        with self._lock:
            return max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else None
