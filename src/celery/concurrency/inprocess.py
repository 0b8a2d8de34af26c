"""What pools have in common whose jobs run in the worker's own process and share one runner."""

from __future__ import annotations

import os
from collections import deque

from celery.concurrency.base import Boot, Pool, PoolOptions, Runner, close_runner
from celery.concurrency.bell import Bell
from celery.concurrency.window import Pace
from celery.exceptions import PoolError
from celery.wire.message import Outcome


class InProcessPool(Pool):
    """`boot` is called once. Whoever ends a job puts its outcome and its seconds into `_ended`, and rings `_bell`."""

    def __init__(self, size: int, boot: Boot, options: PoolOptions | None = None) -> None:
        super().__init__(size, boot, options)
        self._runner: Runner | None = None
        self._pace = Pace()
        self._ended: deque[tuple[Outcome, float]] = deque()
        self._out: set[int] = set()
        """Tags of what was submitted and is not reported."""
        self._bell = Bell()

    def start(self) -> None:
        try:
            self._runner = self.boot()
        except Exception as exc:
            raise PoolError(f"The pool could not start: {type(exc).__name__}: {exc}") from exc
        self._bell.open()

    def free(self) -> int:
        if self._runner is None:
            return 0
        return max(0, self.size * self._pace.depth(self.options.window) - len(self._out))

    def idle(self) -> int:
        return 0 if self._runner is None else max(0, self.size - len(self._out))

    def poll(self) -> list[Outcome]:
        self._bell.hush()
        outcomes = []
        while self._ended:
            outcome, duration = self._ended.popleft()
            self._pace.learn(duration)
            # A job that stop() or terminate() gave up is not reported a second time.
            if outcome.tag in self._out:
                self._out.remove(outcome.tag)
                outcomes.append(outcome)
        return outcomes

    def filenos(self) -> list[int]:
        return self._bell.filenos() if self._runner is not None else []

    def restart(self) -> None:
        if self._runner is not None:
            before, self._runner = self._runner, self.boot()
            self._booted()
            close_runner(before)

    def _booted(self) -> None:
        """There is another runner."""

    def pids(self) -> list[int]:
        return [os.getpid()]

    def _close(self) -> None:
        """Free what the pool used."""
        runner, self._runner = self._runner, None
        self._bell.close()
        close_runner(runner)
