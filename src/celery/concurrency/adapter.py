"""Has the worker use a pool that was written for Celery before: a subclass of `BasePool`."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from celery.concurrency.base import Boot, Pool, PoolCapabilities, PoolOptions, Runner, Running, close_runner
from celery.concurrency.bell import Bell
from celery.concurrency.classic import BasePool
from celery.concurrency.outcomes import failed
from celery.exceptions import PoolError, TimeLimitExceeded
from celery.utils.descriptors import POLLIN
from celery.wire.message import Job, Outcome

UNANSWERED = "The worker stopped before the pool said what became of the task."


class AdaptedPool(Pool):
    """The port, as an instance of `kind` fills it: jobs are targets, outcomes what its callbacks are told."""

    name = "custom"
    can = PoolCapabilities(limits="a pool of your own holds the limits it is told, or does not")
    kind: ClassVar[type[BasePool]]

    def __init__(self, size: int, boot: Boot, options: PoolOptions | None = None) -> None:
        super().__init__(size, boot, options)
        self._adapted: BasePool | None = None
        self._call: _Call | None = None
        self._out: dict[int, Job] = {}
        self._accepted: dict[int, tuple[int, float]] = {}
        """Process and Unix time, by tag."""
        self._ended: deque[Outcome] = deque()
        self._bell = Bell()

    def start(self) -> None:
        app = next(iter(getattr(self.boot, "args", ())), None)
        try:
            self._call = _Call(self.boot, self.boot())
            self._adapted = self.kind(
                self.size,
                app=app,
                initargs=getattr(self.boot, "args", ()),
                maxtasksperchild=self.options.max_tasks,
                max_memory_per_child=self.options.max_memory,
            )
            self._bell.open()
            self._adapted.start()
        except Exception as exc:
            raise PoolError(f"The pool could not start: {type(exc).__name__}: {exc}") from exc
        if not self._adapted.did_start_ok():
            raise PoolError("The pool could not start: did_start_ok() said so.")

    def free(self) -> int:
        return 0 if self._adapted is None else max(0, self.size - len(self._out))

    def submit(self, jobs: Sequence[Job]) -> None:
        adapted, call = self._adapted, self._call
        if adapted is None or call is None:
            raise PoolError("The pool does not run: call start() before submit().")
        for job in jobs:
            self._out[job.tag] = job
            try:
                adapted.apply_async(
                    call,
                    (job,),
                    {},
                    callback=partial(self._on_value, job),
                    error_callback=partial(self._on_error, job),
                    accept_callback=partial(self._on_accepted, job),
                    timeout_callback=partial(self._on_timeout, job),
                    soft_timeout=job.soft,
                    timeout=job.hard,
                    correlation_id=str(job.tag),
                )
            except Exception as exc:  # noqa: BLE001 - a pool that refuses a job does not end the worker
                self._end(failed(job, exc))

    # -- what the pool tells, in whatever thread -------------------------------------------------------------------

    def _on_accepted(self, job: Job, pid: int, accepted: float, *_: Any) -> None:
        self._accepted[job.tag] = pid, time.time()

    def _on_value(self, job: Job, value: Any, *_: Any) -> None:
        self._end(value if isinstance(value, Outcome) else Outcome(job.tag, "LOST", detail=str(value)))

    def _on_error(self, job: Job, error: Any, *_: Any) -> None:
        self._end(Outcome(job.tag, "LOST", detail=str(getattr(error, "exception", error))))

    def _on_timeout(self, job: Job, soft: Any, timeout: Any, *_: Any) -> None:
        if not soft:
            self._end(Outcome(job.tag, "TIMEOUT", float(timeout or 0.0), detail=repr(TimeLimitExceeded(timeout))))

    def _end(self, outcome: Outcome) -> None:
        self._ended.append(outcome)
        self._bell.ring()

    # -- the rest of the port --------------------------------------------------------------------------------------

    def poll(self) -> list[Outcome]:
        self._bell.hush()
        outcomes = []
        while self._ended:
            outcome = self._ended.popleft()
            # The first word counts: a pool may tell of a time limit, and of the end it led to.
            if self._out.pop(outcome.tag, None) is not None:
                self._accepted.pop(outcome.tag, None)
                outcomes.append(outcome)
        return outcomes

    def filenos(self) -> list[int]:
        return self._bell.filenos() if self._adapted is not None else []

    def wait_hint(self) -> float | None:
        return None

    def running(self) -> list[Running]:
        accepted = self._accepted.copy()
        return [Running(tag, *accepted.get(tag, (0, None))) for tag in list(self._out)]

    def withdraw(self) -> list[int]:
        return []  # what such a pool was handed stays there

    def kill(self, tag: int, signal: int) -> bool:
        pid, _ = self._accepted.get(tag, (0, 0.0))
        if self._adapted is None or not pid:
            return False
        try:
            self._adapted.terminate_job(pid, signal)
        except NotImplementedError:
            return False
        return True

    def resize(self, size: int) -> None:
        change, self.size = size - self.size, size
        method = getattr(self._adapted, "grow" if change > 0 else "shrink", None)
        if change and method is not None:
            method(abs(change))

    def restart(self) -> None:
        if self._adapted is not None:
            try:
                self._adapted.restart()
            except NotImplementedError as error:
                raise PoolError(f"The pool cannot be restarted: {error}.") from error

    def pids(self) -> list[int]:
        processes = None if self._adapted is None else self._adapted.info.get("processes")
        return list(processes) if isinstance(processes, list | tuple | set) else [os.getpid()]

    def stop(self, timeout: float | None = None) -> list[Outcome]:
        if self._adapted is None:
            return []
        until = None if timeout is None else time.monotonic() + timeout
        self._adapted.close()
        poller = self.poller()
        for number in self._bell.filenos():
            poller.register(number, POLLIN)
        outcomes = self.poll()
        while self._out and (until is None or time.monotonic() < until):
            poller.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000.0)
            outcomes += self.poll()
        return [*outcomes, *(self.terminate() if self._out else self._leave(self._adapted.stop))]

    def terminate(self) -> list[Outcome]:
        return [] if self._adapted is None else self._leave(self._adapted.terminate)

    def _leave(self, end: Any) -> list[Outcome]:
        end()
        outcomes = self.poll()
        outcomes += [Outcome(tag, "LOST", detail=UNANSWERED) for tag in self._out]
        self._out.clear()
        self._accepted.clear()
        self._adapted = None
        self._bell.close()
        close_runner(self._call.runner if self._call is not None else None)
        return outcomes


class _Call:
    """The target: runs a job. In another process, should the pool send it there, it boots a runner first."""

    def __init__(self, boot: Boot, runner: Runner | None = None) -> None:
        self.boot = boot
        self.runner = runner

    def __reduce__(self) -> tuple[Any, ...]:
        return _Call, (self.boot,)

    def __call__(self, job: Job) -> Outcome:
        if self.runner is None:
            self.runner = self.boot()
        return self.runner(job)


_adapted: dict[type[BasePool], type[AdaptedPool]] = {}


def adapt(kind: type[BasePool]) -> type[AdaptedPool]:
    """The class of pools that make an instance of *kind* work."""
    found = _adapted.get(kind)
    if found is None:
        found = _adapted[kind] = _make(kind)
    return found


def _make(kind: type[BasePool]) -> type[AdaptedPool]:
    return type(kind.__name__, (AdaptedPool,), {"kind": kind, "__module__": kind.__module__, "__doc__": kind.__doc__})


__all__ = ["AdaptedPool", "adapt"]
