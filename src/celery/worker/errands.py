"""`pool.apply_async`: functions that strategies and steps run in the worker's pool, beside its tasks.

They wait here for a free slot and are handed out before tasks are.  Everything happens on the loop's thread, callbacks
too; `apply` may be called from any.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import exceptions
from celery.app.einfo import ExceptionInfo
from celery.app.errands import Answer, Errand, answer_of, pack
from celery.concurrency.base import Pool
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery.utils.log import get_logger
from celery.wire.message import Job, Outcome

logger = get_logger(__name__)

Callback = Callable[..., Any]


class ApplyResult:
    """An errand on its way: `get` waits for its value. Do not wait on the loop's thread: the value comes through it."""

    def __init__(self, errand: Errand, options: Mapping[str, Any]) -> None:
        self.errand = errand
        self.callback: Callback | None = options.get("callback")
        self.accept_callback: Callback | None = options.get("accept_callback")
        self.error_callback: Callback | None = options.get("error_callback")
        self.timeout_callback: Callback | None = options.get("timeout_callback")
        self.soft: float | None = options.get("soft_timeout")
        self.hard: float | None = options.get("timeout")
        self.correlation_id: str | None = options.get("correlation_id")
        self.envelope = b""
        self.accepted = False
        self._answer = Answer()
        self._ended = threading.Event()

    def ready(self) -> bool:
        return self._ended.is_set()

    def successful(self) -> bool:
        """Whether it has returned; raises ValueError while it is not over."""
        if not self.ready():
            raise ValueError("The errand has not ended yet.")
        return self._answer.error is None

    def wait(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Its value, or its exception raised; raises TimeoutError when it is not over in *timeout* seconds."""
        if not self._ended.wait(timeout):
            raise exceptions.TimeoutError("The errand has not ended in time.")
        if self._answer.error is not None:
            raise self._answer.error.exception
        return self._answer.value

    def _end(self, answer: Answer) -> None:
        self._answer = answer
        self._ended.set()


class Errands:
    """The errands of one worker: those that wait, and those that are out."""

    def __init__(self, pool: Pool, numbers: itertools.count[int], wake: Callable[[Callable[[], Any]], None]) -> None:
        self.pool = pool
        self.waiting: deque[ApplyResult] = deque()
        self.out: dict[int, ApplyResult] = {}
        """By the tag of their job."""
        self._numbers = numbers
        self._wake = wake
        pool.errands = self

    def __bool__(self) -> bool:
        return bool(self.waiting or self.out)

    def apply(self, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Any) -> Any:
        """Have *target* called in a slot. Returns at once; raises what a target that cannot be pickled raises."""
        result = ApplyResult(Errand(target, tuple(args), dict(kwargs)), options)
        result.envelope = pack(result.errand, elsewhere=self.pool.can.processes)
        self.waiting.append(result)
        self._wake(self.begin)
        return result

    def begin(self) -> None:
        """Hand out what waits, as far as there is room. Loop thread."""
        jobs = []
        for _ in range(min(self.pool.free(), len(self.waiting))):
            result = self.waiting.popleft()
            tag = next(self._numbers)
            self.out[tag] = result
            jobs.append(Job(tag, result.envelope, False, result.soft, result.hard))
        if not jobs:
            return
        # Before they can end: a pool may run them inside `submit`.
        for job in jobs:
            self._accept(self.out[job.tag])
        self.pool.submit(jobs)

    def _accept(self, result: ApplyResult) -> None:
        if not result.accepted:
            result.accepted = True
            self._tell(result.accept_callback, os.getpid(), time.monotonic())

    def end(self, outcome: Outcome) -> None:
        """Tell what came of an errand. Loop thread. Outcomes of others are none of ours."""
        result = self.out.pop(outcome.tag, None)
        if result is None:
            return
        if outcome.state == "RETURNED":
            self.waiting.appendleft(result)
            return
        answer = answer_of(result.envelope, outcome) or Answer(None, ExceptionInfo.of(_loss(result, outcome)))
        result._end(answer)
        if outcome.state == "TIMEOUT":
            self._tell(result.timeout_callback, False, result.hard)
        if answer.error is None:
            self._tell(result.callback, answer.value)
        elif result.error_callback is not None:
            self._tell(result.error_callback, answer.error)
        else:
            logger.error("An errand in the pool failed: %r", answer.error.exception, exc_info=answer.error.exc_info)

    def take_back(self, tag: int) -> None:
        """The pool has not started this one and gives it back."""
        self.end(Outcome(tag, "RETURNED"))

    def give_up(self) -> None:
        """The pool is gone: what has not ended never will."""
        for tag in list(self.out):
            self.end(Outcome(tag, "LOST", detail="The worker stopped before the errand was done."))
        self.waiting.clear()

    @staticmethod
    def _tell(callback: Callback | None, *said: Any) -> None:
        """Errand back. What that raises is logged: one strategy must not end the worker."""
        if callback is None:
            return
        try:
            callback(*said)
        except Exception:
            logger.exception("A callback of an errand raised: %r", callback)


def _loss(result: ApplyResult, outcome: Outcome) -> Exception:
    if outcome.state == "TIMEOUT":
        return TimeLimitExceeded(result.hard)
    if outcome.state == "OVERTIME":
        return SoftTimeLimitExceeded()
    return WorkerLostError(outcome.detail or "The process that ran the errand ended before it was done.")


__all__ = ["ApplyResult", "Errands"]
