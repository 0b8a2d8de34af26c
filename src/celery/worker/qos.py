"""The prefetch count, as commands of users read and change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery.concurrency.base import Pool
    from celery.worker.prefetch import Prefetch


class QoS:
    """How many messages the worker holds while tasks are long: what `worker_prefetch_multiplier` says, and changes.

    Tiny tasks are held in greater numbers than that, see `Prefetch`.  Any thread.
    """

    def __init__(self, prefetch: Prefetch, pool: Pool) -> None:
        self._prefetch = prefetch
        self._pool = pool
        self.prev = self.value

    @property
    def value(self) -> int:
        """Messages."""
        return self._prefetch.begin(self._pool.size)

    def increment_eventually(self, n: int = 1) -> int:
        """Hold *n* more from the next claim on; how many then."""
        return self._change(max(0, n))

    def decrement_eventually(self, n: int = 1) -> int:
        """Hold *n* fewer from the next claim on, but as many as can run at once; how many then."""
        return self._change(-max(0, n))

    def set(self, pcount: int) -> int:
        """Hold *pcount*; how many that is."""
        return self._change(pcount - self.value)

    def update(self) -> int:
        """How many; a change takes effect by itself."""
        return self.value

    def _change(self, by: int) -> int:
        self.prev = self.value
        self._prefetch.extra += by
        return self.value
