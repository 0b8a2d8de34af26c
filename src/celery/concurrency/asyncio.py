"""The asyncio pool: thousands of coroutines on one event loop, which has a thread of its own.

Jobs that are no coroutines run in a few threads beside it.  What is not local to a run belongs to the thread of the
loop; the queues between the threads are deques, of which each item is taken once.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from celery.concurrency.base import Boot, PoolCapabilities, PoolOptions, Runner
from celery.concurrency.crowd import COLD_GRACE, Crowd, Run
from celery.concurrency.outcomes import after_limit, failed
from celery.concurrency.strike import run_limited
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.loops import LoopThread, interruptible
from celery.wire.message import Job, Outcome

MOST_THREADS = 64
"""Jobs that are no coroutines run in at most so many threads."""

Begin = Callable[[Job, LoopThread], Coroutine[Any, Any, Outcome] | Callable[[], Outcome]]


class AsyncioPool(Crowd):
    """One task of the event loop for each job, `size` of them at most.

    `boot` is called once: all jobs share its runner.  What a runner has as `begin` says which jobs are coroutines;
    without it, none is.
    """

    name = "asyncio"
    can = PoolCapabilities(
        soft_limits=True,
        hard_limits=True,
        cancels=True,
        windows=True,
        limits="they reach coroutines when they await something; other tasks run in threads, which a soft limit reaches"
        " at their next Python instruction and which cannot be killed",
    )

    def __init__(self, size: int, boot: Boot, options: PoolOptions | None = None) -> None:
        super().__init__(size, boot, options)
        self._home = LoopThread("celery-asyncio-pool")
        self._threads = _Threads(self._run_in_thread)
        self._begin: Begin | None = None
        self._clean = contextvars.Context()
        self._filling = False

    # -- the thread of the worker's loop ---------------------------------------------------------------------------

    def start(self) -> None:
        super().start()
        self._booted()
        self._clean = contextvars.copy_context()
        self._home.start()

    def _booted(self) -> None:
        self._begin = getattr(self._runner, "begin", None)

    def _have_filled(self) -> None:
        if not self._filling:
            self._filling = True
            self._home.call(self._fill)

    def withdraw(self) -> list[int]:
        tags = super().withdraw()
        for run in self._threads.take_back():
            run.over = True
            self._runs.pop(run.job.tag, None)
            tags.append(run.job.tag)
        self._out.difference_update(tags)
        return tags

    def _throw(self, run: Run) -> bool:
        if run.started is not None and run.handle is None:
            return False
        return self._home.call(self._cancel, run)

    def _give_up(self, run: Run) -> None:
        self._home.call(super()._give_up, run)

    def _close(self) -> None:
        self._threads.close()
        self._home.stop(COLD_GRACE)
        super()._close()

    # -- the thread of the event loop ------------------------------------------------------------------------------

    def _fill(self) -> None:
        self._filling = False
        super()._fill()

    def _launch(self, run: Run) -> None:
        runner = self._runner
        assert runner is not None
        if self._begin is None:
            self._threads.run(run, lambda: runner(run.job), self.size)
            return
        try:
            # Whatever decides it, what it leaves in the context is nobody else's.
            begun = self._clean.copy().run(self._begin, run.job, self._home)
        except Exception as exc:  # noqa: BLE001 - a runner does not raise; if it does, the loop lives on
            self._over(run, failed(run.job, exc))
            return
        if isinstance(begun, Coroutine):
            run.handle = self._home.loop.create_task(self._live(run, begun), context=self._clean.copy())
        else:
            self._threads.run(run, begun, self.size)

    async def _live(self, run: Run, coroutine: Coroutine[Any, Any, Outcome]) -> None:
        """A coroutine's life, as a task of the loop."""
        job = run.job
        if run.over:
            coroutine.close()
            return
        run.began, run.started = time.monotonic(), time.time()
        reasons: list[BaseException] = []
        limit = None
        if job.soft is not None:
            limit = self._home.loop.call_later(job.soft, self._strike, run, reasons)
        try:
            outcome = await interruptible(coroutine, reasons)
            if limit is not None and limit.when() <= self._home.loop.time():
                outcome = after_limit(job, outcome)
        except SoftTimeLimitExceeded:
            outcome = Outcome(job.tag, "OVERTIME")
        except Exception as exc:  # noqa: BLE001 - a runner does not raise; if it does, the slot lives on
            outcome = failed(job, exc)
        except BaseException as exc:  # noqa: BLE001 - SystemExit ends a job here, not the loop; so does a cancellation
            outcome = run.verdict or Outcome(job.tag, "LOST", detail=repr(exc))
        finally:
            if limit is not None:
                limit.cancel()
        self._over(run, outcome)

    def _strike(self, run: Run, reasons: list[BaseException]) -> None:
        """The soft limit of *run*."""
        if not run.over and run.verdict is None:
            reasons.append(SoftTimeLimitExceeded())
            run.handle.cancel()

    def _cancel(self, run: Run) -> None:
        """*run* is to end."""
        if run.over:
            return
        if run.started is None:
            # It has not begun, and does not when it sees that it is over.
            assert run.verdict is not None
            self._over(run, run.verdict)
        elif run.handle is not None:
            run.handle.cancel()

    # -- the threads beside it -------------------------------------------------------------------------------------

    def _run_in_thread(self, run: Run, call: Callable[[], Outcome]) -> None:
        """Run a job that is no coroutine."""
        job = run.job
        if run.over:
            return
        run.began, run.started = time.monotonic(), time.time()
        runner: Runner = lambda job: call()  # noqa: E731
        try:
            outcome = call() if job.soft is None else run_limited(runner, job, job.soft)
        except Exception as exc:  # noqa: BLE001 - a runner does not raise; if it does, the slot lives on
            outcome = failed(job, exc)
        except BaseException as exc:  # noqa: BLE001 - SystemExit ends a job here, not the slot
            outcome = Outcome(job.tag, "LOST", detail=repr(exc))
        self._home.call(self._over, run, outcome)


class _Threads:
    """Daemonic threads that run what is put into their queue; made as they are needed."""

    def __init__(self, run: Callable[[Run, Callable[[], Outcome]], None]) -> None:
        self._run = run
        self._queue: queue.SimpleQueue[tuple[Run, Callable[[], Outcome]] | None] = queue.SimpleQueue()
        self._made = 0
        self._idle = 0
        """How many are known to have nothing to do; a guess, which only makes one thread too many or too few."""

    def run(self, run: Run, call: Callable[[], Outcome], most: int) -> None:
        """Have *call* run in a thread, of which there are at most *most*."""
        self._queue.put((run, call))
        if self._idle < self._queue.qsize() and self._made < min(most, MOST_THREADS):
            self._made += 1
            threading.Thread(target=self._work, name=f"celery-task-{self._made}", daemon=True).start()

    def take_back(self) -> list[Run]:
        """What no thread has begun."""
        runs, ends = [], 0
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                ends += 1
            else:
                runs.append(item[0])
        for _ in range(ends):
            self._queue.put(None)
        return runs

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        for _ in range(self._made):
            self._queue.put(None)

    def _work(self) -> None:
        while True:
            self._idle += 1
            item = self._queue.get()
            self._idle -= 1
            if item is None:
                return
            self._run(*item)


TaskPool = AsyncioPool
