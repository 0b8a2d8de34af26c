"""The thread pool: slots are threads of the worker's process and share one queue."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Any

from celery.concurrency.base import Boot, PoolCapabilities, PoolOptions, Running
from celery.concurrency.inprocess import InProcessPool
from celery.concurrency.outcomes import failed
from celery.concurrency.strike import run_limited
from celery.exceptions import PoolError
from celery.wire.message import Job, Outcome

NOT_KILLED = "The worker stopped before the task ended; a thread cannot be killed, so it may still have run to its end."


class ApplyResult:
    """What was given to a `concurrent.futures` executor, to be waited for. For pools of users; ours tell the loop."""

    def __init__(self, future: Future[Any]) -> None:
        self.f = future
        self.get = future.result

    def wait(self, timeout: float | None = None) -> None:
        """Block until it has ended, for at most *timeout* seconds."""
        wait([self.f], timeout)


class ThreadPool(InProcessPool):
    """Threads that take jobs from one queue, so nothing waits behind a long job while another thread is idle.

    `boot` is called once: the threads share its runner, which must be thread-safe.  Nothing can be killed.
    """

    name = "threads"
    can = PoolCapabilities(
        soft_limits=True,
        windows=True,
        limits="a soft limit reaches a task at its next Python instruction, and a thread cannot be killed",
    )

    def __init__(self, size: int, boot: Boot, options: PoolOptions | None = None) -> None:
        super().__init__(size, boot, options)
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._started: dict[int, float] = {}
        self._made = 0

    def start(self) -> None:
        super().start()
        for _ in range(self.size):
            self._add_thread()

    def submit(self, jobs: Sequence[Job]) -> None:
        if self._runner is None:
            raise PoolError("The pool does not run: call start() before submit().")
        for job in jobs:
            self._out.add(job.tag)
            self._queue.put(job)

    def wait_hint(self) -> float | None:
        return None

    def running(self) -> list[Running]:
        pid = os.getpid()
        started = self._started.copy()
        return [Running(tag, pid, started.get(tag)) for tag in sorted(self._out)]

    def withdraw(self) -> list[int]:
        tags = []
        ends = 0
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                ends += 1
            else:
                tags.append(job.tag)
        for _ in range(ends):
            self._queue.put(None)
        self._out.difference_update(tags)
        return tags

    def kill(self, tag: int, signal: int) -> bool:
        return False

    def resize(self, size: int) -> None:
        if self._runner is not None:
            for _ in range(size - self.size):
                self._add_thread()
            for _ in range(self.size - size):
                self._queue.put(None)
        self.size = size

    def stop(self, timeout: float | None = None) -> list[Outcome]:
        until = None if timeout is None else time.monotonic() + timeout
        returned = self._retire()
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return [*returned, *self._end()]

    def terminate(self) -> list[Outcome]:
        return [*self._retire(), *self._end()]

    def _add_thread(self) -> None:
        self._made += 1
        # Daemonic: a task that never ends must not keep a terminated worker alive.
        thread = threading.Thread(target=self._run, name=f"celery-task-{self._made}", daemon=True)
        thread.start()
        self._threads = [*(old for old in self._threads if old.is_alive()), thread]

    def _run(self) -> None:
        monotonic, started = time.monotonic, self._started
        while (job := self._queue.get()) is not None and (runner := self._runner) is not None:
            began = monotonic()
            started[job.tag] = time.time()
            try:
                outcome = runner(job) if job.soft is None else run_limited(runner, job, job.soft)
            except Exception as exc:  # noqa: BLE001 - a runner does not raise; if it does, the slot lives on
                outcome = failed(job, exc)
            except BaseException as exc:  # noqa: BLE001 - SystemExit ends a job here, not the slot
                outcome = Outcome(job.tag, "LOST", detail=repr(exc))
            del started[job.tag]
            self._ended.append((outcome, monotonic() - began))
            self._bell.ring()

    def _retire(self) -> list[Outcome]:
        returned = [Outcome(tag, "RETURNED") for tag in self.withdraw()]
        for _ in self._threads:
            self._queue.put(None)
        return returned

    def _end(self) -> list[Outcome]:
        alive = [thread for thread in self._threads if thread.is_alive()]
        outcomes = self.poll()
        outcomes += [Outcome(tag, "LOST", detail=NOT_KILLED) for tag in sorted(self._out)]
        self._out.clear()
        self._threads = alive
        self._close()
        return outcomes


TaskPool = ThreadPool
