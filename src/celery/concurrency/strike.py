"""Soft time limits in threads: the interpreter raises an exception in another thread, at its next Python instruction.

A thread that waits outside of Python (in a lock, in `time.sleep`, in a system call) sees it when it returns.  One that
waits for coroutines is woken, see `wakers`.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING

from celery.concurrency.base import Runner
from celery.concurrency.outcomes import after_limit
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.deferred import deferred
from celery.utils.threads import wakers
from celery.wire.message import Job, Outcome

if TYPE_CHECKING:
    import ctypes
else:
    ctypes = deferred("ctypes")

MOST_ENDED = 256
"""Marks of ended jobs that are kept although nobody needs them."""


def run_limited(runner: Runner, job: Job, seconds: float) -> Outcome:
    """Run *job* in this thread; after *seconds* `SoftTimeLimitExceeded` is raised in it, and in nothing else."""
    outcome: Outcome | None = None
    mark = _Mark(threading.get_ident())
    _watchdog.watch(mark, time.monotonic() + seconds)
    try:
        try:
            outcome = runner(job)
        finally:
            mark.disarm()
    except SoftTimeLimitExceeded:
        # Between the end of the job and the disarming it strikes nothing: the job had ended in time.
        if outcome is None:
            outcome = Outcome(job.tag, "OVERTIME")
    _watchdog.forget()
    return after_limit(job, outcome) if mark.struck else outcome


class _Mark:
    """One job in one thread, that may be struck once."""

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._lock = threading.Lock()
        self.armed = True
        self.struck = False

    def strike(self) -> None:
        """Raise the exception in the thread. The watchdog's thread."""
        with self._lock:
            if not self.armed:
                return
            self.armed, self.struck = False, True
            _raise_in(self._thread, SoftTimeLimitExceeded)
        waker = wakers.get(self._thread)
        if waker is not None:
            waker()

    def disarm(self) -> None:
        """The job has ended: what was raised in vain is taken back. The job's thread, in which it may still arrive."""
        with self._lock:
            self.armed = False
        if self.struck:
            _clear(self._thread)


class _Cleared(BaseException):
    """Takes the place of an exception that is no longer wanted."""


def _clear(thread: int) -> None:
    """Take back what has not been raised yet in *thread*, which is the calling one.

    The interpreter knows a call for that (raise nothing), but before 3.13 it then looks for the exception before every
    function for ever: slowly, and without end under a profiler, a debugger or coverage. What is raised ends the search.
    """
    try:
        while _raise_in(thread, _Cleared):  # it arrives at the latest when the loop turns
            pass
    except _Cleared:
        pass


def _raise_in(thread: int, kind: type[BaseException]) -> bool:
    """Have the interpreter raise *kind* in *thread*, in the place of what it should raise there and has not yet.

    False if the interpreter has no such thread, as when gevent's patches number them.
    """
    return bool(ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind)))


class _Watchdog:
    """A thread that strikes when the time has come. It is there while there is something to watch."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int, _Mark]] = []
        self._numbers = itertools.count()
        self._ended = 0
        """How many of the marks, at most, are those of jobs that have ended."""
        self._changed = threading.Condition()
        self._runs = False

    def watch(self, mark: _Mark, until: float) -> None:
        """Strike *mark* at *until* on the monotonic clock. Any thread."""
        with self._changed:
            heapq.heappush(self._marks, (until, next(self._numbers), mark))
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="celery-limits", daemon=True).start()
            elif self._marks[0][0] == until:
                self._changed.notify()

    def forget(self) -> None:
        """A job has ended. Most end long before their limit: their marks must not pile up. Any thread."""
        with self._changed:
            self._ended += 1
            if self._ended > MOST_ENDED and self._ended > len(self._marks) // 2:
                self._marks = [entry for entry in self._marks if entry[2].armed]
                heapq.heapify(self._marks)
                self._ended = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._marks:
                    self._runs, self._ended = False, 0
                    return
                until, _, mark = self._marks[0]
                left = until - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                heapq.heappop(self._marks)
            mark.strike()


_watchdog = _Watchdog()
