"""What runs inside a prefork child: take a permit, run its job, send the outcome; one thread, no locks."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from celery.concurrency.base import PoolOptions, Runner
from celery.concurrency.frames import (
    CHUNK,
    END,
    JOB_HEADER,
    LONGEST,
    OUTCOME_HEADER,
    PERMIT,
    Notice,
    decode_job,
    encode,
    notice_frame,
    reading_buffer,
)
from celery.concurrency.outcomes import after_limit, failed
from celery.exceptions import SoftTimeLimitExceeded
from celery.wire.message import Job, Outcome

RESET_SIGNALS = ("SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGALRM")
WORKER_SIGRESET = frozenset({*RESET_SIGNALS, "SIGTERM"})
"""Signals whose handlers a child does not take over from the worker."""


class ParentGone(Exception):
    """The worker's end of the channels is closed."""


def prepare_signals() -> None:
    """A Ctrl-C in the terminal reaches the worker alone. SIGTERM ends this process, and its job as an exit would."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in RESET_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _unwind)


def _unwind(number: int, frame: FrameType | None) -> None:
    """A task that is revoked gets to its `finally`, and whoever listens is told that this process ends."""
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait for that
    raise Unwinding(-(256 - number))


class Unwinding(SystemExit):
    """SIGTERM came."""


def end_as_asked() -> None:
    """After SIGTERM, end by it: that is what the worker is to see, and its log to say. To be called in `finally`."""
    if isinstance(sys.exc_info()[1], Unwinding):
        os.kill(os.getpid(), signal.SIGTERM)


def end_with_parent(lifeline: int) -> None:
    """Let the kernel kill this process when the worker vanishes, also in the middle of a job.

    *lifeline* is the reading end of a pipe whose other end only the worker holds and never writes to: when it closes,
    the kernel signals the owner of this end.  (PR_SET_PDEATHSIG would watch the template, which outlives the worker
    for as long as it has children.)
    """
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    # It may have vanished before the kernel was asked to tell.
    if select.select([lifeline], [], [], 0)[0]:
        raise ParentGone


class Channel:
    """The child's side of its three channels."""

    def __init__(self, voice: int, stream: socket.socket, permits: int) -> None:
        self._voice = voice
        self._stream = stream
        self._permits = permits
        self._waiter = select.poll()
        self._waiter.register(permits, select.POLLIN)
        self._buffer = reading_buffer()
        self._data = memoryview(b"")
        self._at = 0

    def send(self, data: bytes) -> None:
        """Say *data* to the worker. Blocks while the pipe is full; raises BrokenPipeError when nobody listens."""
        sent = os.write(self._voice, data)
        while sent < len(data):
            sent += os.write(self._voice, memoryview(data)[sent:])

    def take(self) -> Job | None:
        """The next job this child may start; None when it is asked to end. Blocks; raises `ParentGone`."""
        while True:
            try:
                # Not blocking: the worker reads the same pipe, and what was there may be gone.
                permit = os.read(self._permits, PERMIT.size)
                break
            except BlockingIOError:
                self._waiter.poll()
        if not permit:
            raise ParentGone
        (number,) = PERMIT.unpack(permit)
        return None if number == END else self._find(number)

    def _find(self, wanted: int) -> Job:
        """The job in the frame of this number. The worker took back those before it."""
        while True:
            start = self._at + JOB_HEADER.size
            if len(self._data) < start:
                self._read(JOB_HEADER.size)
                start = JOB_HEADER.size
            size, number = JOB_HEADER.unpack_from(self._data, self._at)
            end = start + size
            if len(self._data) < end:
                self._read(JOB_HEADER.size + size)
                start, end = JOB_HEADER.size, JOB_HEADER.size + size
            self._at = end
            if number == wanted:
                return decode_job(self._data[start:end])

    def _read(self, needed: int) -> None:
        """Have *needed* bytes, from the first one that was not used yet, at the beginning of what there is."""
        left = self._data[self._at :]
        self._at = 0
        if not left and needed <= JOB_HEADER.size:
            # The usual case, without a copy: nothing is left of the last read.
            count = self._stream.recv_into(self._buffer)
            if not count:
                raise ParentGone
            self._data = self._buffer[:count]
            if count >= needed:
                return
            left = self._data
        data = bytearray(left)
        while len(data) < needed:
            chunk = self._stream.recv(CHUNK)
            if not chunk:
                raise ParentGone
            data += chunk
        self._data = memoryview(data)


class SoftLimit:
    """Raises `SoftTimeLimitExceeded` in a job that runs for too long, and in nothing else.

    It strikes wherever the job is at that moment, which may be just before the task begins, or when it has returned
    and its result is being packed.  That is no defect of the runner's: the task has exceeded its limit all the same.
    """

    def __init__(self) -> None:
        self._armed = self._struck = False

    def run(self, runner: Runner, job: Job, seconds: float) -> Outcome:
        outcome: Outcome | None = None
        self._struck = False
        # A task may have put its own handler there.
        signal.signal(signal.SIGALRM, self._expire)
        try:
            try:
                self._armed = True
                signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
                outcome = runner(job)
            finally:
                self._armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except SoftTimeLimitExceeded:
            # Between the end of the job and the disarming it strikes nothing: the job had ended in time.
            if outcome is None:
                outcome = Outcome(job.tag, "OVERTIME")
        return after_limit(job, outcome) if self._struck else outcome

    def _expire(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed, self._struck = False, True
            raise SoftTimeLimitExceeded


def serve(runner: Runner, channel: Channel, options: PoolOptions) -> str:
    """Run jobs until the worker says so, or this process has reached one of its limits; says why it ended."""
    limit, monotonic, pack = SoftLimit(), time.monotonic, OUTCOME_HEADER.pack
    take, send = channel.take, channel.send
    left, most = options.max_tasks, options.max_memory
    resident = memory_gauge() if most is not None else int
    forked = _notice_forks()
    while (job := take()) is not None:
        began = monotonic()
        try:
            outcome = runner(job) if job.soft is None else limit.run(runner, job, job.soft)
        except Exception as exc:  # noqa: BLE001 - a runner does not raise; if it does, the job has an outcome all the same
            outcome = failed(job, exc)
        finally:
            if forked:
                # The task has forked, and this is the copy: it must neither answer for the job nor take the next one.
                os._exit(0)
        micros = min(int((monotonic() - began) * 1e6), LONGEST)
        try:
            payload = encode(outcome)
        except Exception as exc:  # noqa: BLE001 - see above
            payload = encode(failed(job, exc))
        # At once, one by one: the next job may be a long one.
        send(pack(len(payload), micros) + payload)
        if left is not None:
            left -= 1
            if left <= 0:
                return f"it ran {options.max_tasks} tasks"
        if most is not None and (held := resident()) > most:
            return f"it holds {held} KiB of memory, more than {most} KiB"
    return "it was asked to"


def _notice_forks() -> list[bool]:
    """A list that has something in it where this is a copy of the process that asked."""
    copied: list[bool] = []
    os.register_at_fork(after_in_child=lambda: copied.append(True))
    return copied


def leave(channel: Channel, reason: str) -> None:
    """Tell the worker that no more jobs are taken here."""
    channel.send(notice_frame(Notice("leaving", reason)))


def memory_gauge() -> Callable[[], int]:
    """A function that says how many KiB this process holds now (where the system does not say: at most held)."""
    page = resource.getpagesize()
    if sys.platform == "linux":
        statm = os.open("/proc/self/statm", os.O_RDONLY)
        return lambda: int(os.pread(statm, 128, 0).split(maxsplit=2)[1]) * page // 1024
    unit = 1024 if sys.platform == "darwin" else 1
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
