"""The solo pool: jobs run on the thread that submits them, one after the other."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence

from celery.concurrency.base import Boot, Pool, PoolCapabilities, PoolOptions, Runner, Running, close_runner
from celery.concurrency.child import SoftLimit
from celery.concurrency.outcomes import failed
from celery.concurrency.strike import run_limited
from celery.concurrency.window import BUDGET, Pace
from celery.exceptions import PoolError
from celery.wire.message import Job, Outcome


class SoloPool(Pool):
    """One slot in the worker's own thread.

    `submit` runs jobs until the budget of a window is used up (always at least one); what is left runs in `poll`, so
    that the loop looks at its signals and its broker between long jobs, and can withdraw what waits.  Nothing can be
    killed.  What a runner raises (SystemExit, KeyboardInterrupt) passes through; its job is LOST.
    """

    name = "solo"
    can = PoolCapabilities(
        soft_limits=True, windows=True, limits="the worker's own thread runs the tasks, and cannot be killed"
    )

    def __init__(self, size: int, boot: Boot, options: PoolOptions | None = None) -> None:
        super().__init__(1, boot, options)
        self._runner: Runner | None = None
        self._pace = Pace()
        self._waiting: deque[Job] = deque()
        self._ended: list[Outcome] = []
        self._current: tuple[Job, float] | None = None
        self._limit = SoftLimit()

    def start(self) -> None:
        try:
            self._runner = self.boot()
        except Exception as exc:
            raise PoolError(f"The pool could not start: {type(exc).__name__}: {exc}") from exc

    def free(self) -> int:
        if self._runner is None:
            return 0
        return max(0, self._pace.depth(self.options.window) - len(self._waiting) - len(self._ended))

    def idle(self) -> int:
        return min(1, self.free()) if self._current is None and not self._waiting else 0

    def submit(self, jobs: Sequence[Job]) -> None:
        self._waiting.extend(jobs)
        if self._current is None:
            self._work()

    def poll(self) -> list[Outcome]:
        if self._waiting and not self._ended and self._current is None:
            self._work()
        ended, self._ended = self._ended, []
        return ended

    def filenos(self) -> list[int]:
        return []

    def wait_hint(self) -> float | None:
        return 0.0 if self._ended or self._waiting else None

    def running(self) -> list[Running]:
        pid = os.getpid()
        current = self._current  # asked for by another thread while it ends
        running = [Running(current[0].tag, pid, current[1])] if current else []
        return [*running, *(Running(job.tag, pid, None) for job in list(self._waiting))]

    def withdraw(self) -> list[int]:
        tags = [job.tag for job in self._waiting]
        self._waiting.clear()
        return tags

    def kill(self, tag: int, signal: int) -> bool:
        return False

    def resize(self, size: int) -> None:
        """The solo pool has one slot, whatever *size* is asked for."""

    def restart(self) -> None:
        before = self._runner
        if before is not None:
            self._runner = self.boot()
            close_runner(before)

    def pids(self) -> list[int]:
        return [os.getpid()]

    def stop(self, timeout: float | None = None) -> list[Outcome]:
        return self._end()

    def terminate(self) -> list[Outcome]:
        return self._end()

    def _work(self) -> None:
        runner = self._runner
        if runner is None:
            raise PoolError("The pool does not run: call start() before submit().")
        until = time.monotonic() + BUDGET
        while self._waiting:
            began = time.monotonic()
            job = self._waiting.popleft()
            self._current = job, time.time()
            try:
                outcome = runner(job) if job.soft is None else self._run_limited(runner, job, job.soft)
            except Exception as exc:  # noqa: BLE001 - a runner does not raise; if it does, the worker lives on
                outcome = failed(job, exc)
            except BaseException as exc:
                outcome = Outcome(job.tag, "LOST", detail=repr(exc))
                raise
            finally:
                self._current = None
                self._ended.append(outcome)
            now = time.monotonic()
            self._pace.learn(now - began)
            if now >= until:
                break

    def _run_limited(self, runner: Runner, job: Job, seconds: float) -> Outcome:
        # A signal also interrupts what waits in the system, but only the main thread has them.
        if threading.current_thread() is threading.main_thread():
            return self._limit.run(runner, job, seconds)
        return run_limited(runner, job, seconds)

    def _end(self) -> list[Outcome]:
        outcomes = [*self._ended, *(Outcome(tag, "RETURNED") for tag in self.withdraw())]
        self._ended = []
        runner, self._runner = self._runner, None
        close_runner(runner)
        return outcomes


TaskPool = SoloPool
