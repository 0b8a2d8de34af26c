"""What pools have in common that run many jobs beside each other in the worker's own process.

Their slots are a number, not things: a job that is started is a `Run` until it has ended, and the next one is started
by whoever ends.  How a run is started and how something is raised in it is the pool's own (`_launch`, `_throw`).

A run that is to end (at its hard limit, by `kill`, in a cold shutdown) has something raised in it that no task should
catch.  Should it go on all the same, it is given up after `GRACE` seconds: its job ends as if it had died, its slot is
free again, and what it does from then on is nobody's business.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

from celery.concurrency.base import Boot, PoolOptions, Running
from celery.concurrency.inprocess import InProcessPool
from celery.exceptions import PoolError, TimeLimitExceeded
from celery.utils.descriptors import POLLIN
from celery.wire.message import Job, Outcome

logger = logging.getLogger("celery.pool")

GRACE = 5.0
"""Seconds that a run may take to end when it has been told to."""
COLD_GRACE = 2.0
"""The same in a cold shutdown, for all of them together."""
KILLED = "The task was ended by the worker."
LEFT_BEHIND = "The worker stopped before the task ended; it did not end when it was told to, so it may still run."


class Run:
    """A job that was started. Times on the monotonic clock."""

    __slots__ = ("began", "handle", "job", "over", "started", "verdict")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.began = 0.0
        self.started: float | None = None
        """Unix time; None until it really runs."""
        self.handle: Any = None
        """What runs it: a greenlet, a task of an event loop."""
        self.verdict: Outcome | None = None
        """What it ends as, having been told to end."""
        self.over = False


class Crowd(InProcessPool):
    """See the module. `_launch` may be called by any run that ends; all else by the thread that called `start`."""

    def __init__(self, size: int, boot: Boot, options: PoolOptions | None = None) -> None:
        super().__init__(size, boot, options)
        self._waiting: deque[Job] = deque()
        self._runs: dict[int, Run] = {}
        self._looks: list[tuple[float, int, Run]] = []
        """When to look at a run: at its hard limit, and when it was told to end and may not have."""
        self._numbers = itertools.count()

    # -- what a pool says of its runs ------------------------------------------------------------------------------

    @abstractmethod
    def _launch(self, run: Run) -> None:
        """Start *run*: it sets `began` and `started`, and calls `_over` at its end, whatever happens."""

    @abstractmethod
    def _throw(self, run: Run) -> bool:
        """Raise in *run*, soon, what ends it; False where that is not possible."""

    def _fill(self) -> None:
        """Start what waits, as far as there are slots. Where runs are started."""
        runs, waiting = self._runs, self._waiting
        while len(runs) < self.size:
            try:
                job = waiting.popleft()
            except IndexError:
                return
            run = runs[job.tag] = Run(job)
            if job.hard is not None:
                self._look_at(run, time.monotonic() + job.hard)
                self._bell.ring()  # the loop may mean to sleep for longer
            self._launch(run)

    def _over(self, run: Run, outcome: Outcome) -> None:
        """*run* has ended so. Where runs are started."""
        if run.over:
            return
        run.over = True
        del self._runs[run.job.tag]
        duration = time.monotonic() - run.began if run.began else 0.0
        self._ended.append((outcome, duration))
        self._bell.ring()
        if self._waiting:
            self._fill()

    # -- the port --------------------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job]) -> None:
        if self._runner is None:
            raise PoolError("The pool does not run: call start() before submit().")
        self._out.update([job.tag for job in jobs])
        self._waiting.extend(jobs)
        self._have_filled()

    def _have_filled(self) -> None:
        """Have `_fill` called where runs are started."""
        self._fill()

    def poll(self) -> list[Outcome]:
        if self._looks:
            self._keep_up(time.monotonic())
        return super().poll()

    def wait_hint(self) -> float | None:
        looks = self._looks
        while looks and looks[0][2].over:
            heapq.heappop(looks)
        return max(0.0, looks[0][0] - time.monotonic()) if looks else None

    def running(self) -> list[Running]:
        pid, runs = os.getpid(), self._runs.copy()
        return [
            Running(tag, pid, runs[tag].started if tag in runs else None)
            for tag in sorted(self._out.difference([outcome.tag for outcome, _ in list(self._ended)]))
        ]

    def withdraw(self) -> list[int]:
        tags = []
        while self._waiting:
            try:
                tags.append(self._waiting.popleft().tag)
            except IndexError:  # a run that has ended was faster
                break
        self._out.difference_update(tags)
        return tags

    def kill(self, tag: int, signal: int) -> bool:
        run = self._runs.get(tag)
        return run is not None and self._end(run, Outcome(tag, "LOST", detail=KILLED))

    def resize(self, size: int) -> None:
        self.size = size
        if self._runner is not None:
            self._have_filled()

    def stop(self, timeout: float | None = None) -> list[Outcome]:
        if self._runner is None:
            return []
        returned = [Outcome(tag, "RETURNED") for tag in self.withdraw()]
        outcomes = self._wait_for_all(None if timeout is None else time.monotonic() + timeout)
        return [*returned, *outcomes, *self.terminate()]

    def terminate(self) -> list[Outcome]:
        if self._runner is None:
            return []
        returned = [Outcome(tag, "RETURNED") for tag in self.withdraw()]
        for run in list(self._runs.values()):
            self._end(run, Outcome(run.job.tag, "LOST", detail=KILLED))
        outcomes = self._wait_for_all(time.monotonic() + COLD_GRACE, only_told=True)
        outcomes += [Outcome(tag, "LOST", detail=LEFT_BEHIND) for tag in sorted(self._out)]
        self._out.clear()
        self._close()
        return [*returned, *outcomes]

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def _look_at(self, run: Run, when: float) -> None:
        heapq.heappush(self._looks, (when, next(self._numbers), run))

    def _keep_up(self, now: float) -> None:
        """End what is at its hard limit, give up what did not end."""
        looks = self._looks
        while looks and (looks[0][2].over or looks[0][0] <= now):
            _, _, run = heapq.heappop(looks)
            if run.over:
                continue
            if run.verdict is None:
                self._at_hard_limit(run, now)
            else:
                logger.warning("A task did not end within %g s after it was told to, and is left behind.", GRACE)
                self._give_up(run)

    def _at_hard_limit(self, run: Run, now: float) -> None:
        hard = run.job.hard
        assert hard is not None
        left = run.began + hard - now if run.began else hard
        if left > 0:
            self._look_at(run, now + left)
        else:
            self._end(run, Outcome(run.job.tag, "TIMEOUT", now - run.began, detail=repr(TimeLimitExceeded(hard))))

    def _end(self, run: Run, verdict: Outcome) -> bool:
        """Have *run* end as *verdict*; whether it will."""
        if run.over:
            return False
        first, run.verdict = run.verdict is None, verdict
        if not self._throw(run):
            run.verdict = None
            return False
        if first:
            self._look_at(run, time.monotonic() + GRACE)
        return True

    def _give_up(self, run: Run) -> None:
        """*run* has ended, as far as the pool is concerned. Where runs are started."""
        assert run.verdict is not None
        self._over(run, run.verdict)

    def _wait_for_all(self, until: float | None, *, only_told: bool = False) -> list[Outcome]:
        """What ends until *until*; with *only_told* nothing is waited for that cannot be ended."""
        poller = self.poller()
        for number in self._bell.filenos():
            poller.register(number, POLLIN)
        outcomes = self.poll()
        while self._out:
            if only_told and not any(run.verdict is not None for run in list(self._runs.values())) and not self._ended:
                break
            hints = [hint for hint in (self.wait_hint(), until and until - time.monotonic()) if hint is not None]
            left = min(hints, default=None)
            if until is not None and time.monotonic() >= until:
                break
            poller.poll(None if left is None else max(0.0, left) * 1000.0)
            outcomes += self.poll()
        return outcomes
