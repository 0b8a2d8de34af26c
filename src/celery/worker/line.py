"""What a worker has claimed and not started, in its order, and what of it starts next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from celery.worker.claimed import Claimed as Request


class Line(deque[Request]):
    """Admitted requests that wait for the pool. One thread."""

    suspects = False
    """Some of them, or of what runs, may be `Request.suspect`."""

    def take(self, free: int, running: Iterable[Request]) -> list[Request]:
        """The first *free* of them, or fewer.

        Of those whose next death is their last, one at a time: if it is the one that takes its worker with it, the
        others, which only happened to run beside it, are not blamed once more.  *running* is what the pool has.
        """
        free = min(free, len(self))
        if not self.suspects:
            return [self.popleft() for _ in range(free)]
        batch: list[Request] = []
        passed: list[Request] = []
        tried = any(request.suspect for request in running)
        while self and len(batch) < free:
            request = self.popleft()
            (passed if request.suspect and tried else batch).append(request)
            tried = tried or request.suspect
        self.extendleft(reversed(passed))
        self.suspects = tried or any(request.suspect for request in self)
        return batch

    def that_can_begin(self, free: int, idle: int) -> int:
        """How many of the first *free* to take where an early acknowledgement is the last that is heard of a task.

        One that waits in the pool behind another would be lost with the worker, although it had not begun.  So if
        there is one that acknowledges early among them, no more than there are *idle* slots.
        """
        for position, request in zip(range(free), self, strict=False):
            if request.facts.acks_early:
                return min(free, max(idle, position))
        return free
