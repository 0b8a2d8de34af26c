"""Pools of greenlets: what those of gevent and eventlet have in common.

Everything runs in one thread, the worker's loop too: whoever waits lets the others run, whoever computes keeps them
from it.  So a limit reaches a task when it waits for something.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from celery.concurrency.base import PoolCapabilities, Runner
from celery.concurrency.crowd import KILLED, Crowd, Run
from celery.concurrency.outcomes import after_limit, failed
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.descriptors import is_green
from celery.wire.message import Job, Outcome

logger = logging.getLogger("celery.pool")

GREEN = PoolCapabilities(
    soft_limits=True,
    hard_limits=True,
    cancels=True,
    windows=True,
    limits="they reach a task when it waits for something, and none that only computes",
)


class GreenPool(Crowd):
    """One greenlet a job, `size` of them at most. `boot` is called once: they share its runner."""

    can = GREEN

    @abstractmethod
    def _spawn(self, run: Run) -> Any:
        """A greenlet that will call `self._run(run)`."""

    @abstractmethod
    def _kill(self, greenlet: Any) -> None:
        """Raise GreenletExit in *greenlet*, which has begun, soon. Does not wait for its end."""

    @abstractmethod
    def _soft_limit(self, seconds: float) -> AbstractContextManager[Any]:
        """After *seconds* in this block, `SoftTimeLimitExceeded` is raised in this greenlet."""

    def start(self) -> None:
        if not is_green():
            logger.warning(
                "The pool %s runs in a process that %s has not taken over: tasks hold up each other wherever they wait."
                " Use -P %s on the command line, or call celery.maybe_patch_concurrency() before anything is imported.",
                *(self.name,) * 3,
            )
        super().start()

    def _launch(self, run: Run) -> None:
        run.handle = self._spawn(run)

    def _throw(self, run: Run) -> bool:
        if run.started is None:
            # It has not begun, and does not when it sees that it is over.
            assert run.verdict is not None
            self._over(run, run.verdict)
        else:
            self._kill(run.handle)
        return True

    def _run(self, run: Run) -> None:
        """The life of a greenlet."""
        runner, job = self._runner, run.job
        if run.over or runner is None:
            return
        run.began, run.started = time.monotonic(), time.time()
        try:
            outcome = runner(job) if job.soft is None else self._run_limited(runner, job, job.soft)
        except Exception as exc:  # noqa: BLE001 - a runner does not raise; if it does, the slot lives on
            outcome = failed(job, exc)
        except BaseException as exc:  # noqa: BLE001 - SystemExit ends a job here, not the worker; so does GreenletExit
            outcome = run.verdict or Outcome(job.tag, "LOST", detail=repr(exc) or KILLED)
        self._over(run, outcome)

    def _run_limited(self, runner: Runner, job: Job, seconds: float) -> Outcome:
        began = time.monotonic()
        outcome: Outcome | None = None
        try:
            with self._soft_limit(seconds):
                outcome = runner(job)
        except SoftTimeLimitExceeded:
            if outcome is None:
                return Outcome(job.tag, "OVERTIME")
        return after_limit(job, outcome) if time.monotonic() - began >= seconds else outcome
