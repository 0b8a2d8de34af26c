"""One process of a pool, as its worker sees it: how it is known to have ended, and how it is ended."""

from __future__ import annotations

import os
import select
import signal
import struct
import time

GRACE = 5.0
"""Seconds a process may take to die once it is killed."""
STATUS = struct.Struct("<i")
"""How a process ended: its exit code, or the signal that killed it, negative."""


class Process:
    """A process that was asked for. It has no `pid` until it says that it is there.

    Its parent, which learns how it ended, is this process where it can be (see `nursery.can_adopt`).  Elsewhere it may
    be another one, which writes a `STATUS` to the pipe *reports*.  In any case that pipe closes when it has ended.
    """

    def __init__(self, reports: int | None = None) -> None:
        self.pid = 0
        self.sentinel = reports
        """Turns readable when the process has ended; None where nothing does."""
        self._reports = reports
        self._pidfd: int | None = None

    def known_as(self, pid: int) -> None:
        """It is there, under this number."""
        if not self.pid:
            self.pid = pid
            self._pidfd = _open_pidfd(pid)
            if self.sentinel is None:
                self.sentinel = self._pidfd

    def send_signal(self, number: int) -> None:
        """Signal the process, and never another one that got its number."""
        if self._pidfd is not None or not _readable(self._reports, 0):
            self._signal(number)

    def _signal(self, number: int) -> None:
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.pid:
                os.kill(self.pid, number)
        except ProcessLookupError:
            # It ended by itself just now.
            return

    def finish(self) -> int | None:
        """See that it is dead; its exit code (negative: the signal), None where nobody can tell."""
        code = self._reported(0)
        if code is None and self.pid:
            # Whoever reports its end may be gone: a process of which nothing will be heard must not live on.
            self._signal(signal.SIGKILL)
            _readable(self._pidfd, GRACE)
            code = self._reported(GRACE)
            if code is None:
                code = wait_for(self.pid, GRACE)
        return code

    def _reported(self, timeout: float) -> int | None:
        if self._reports is None or not _readable(self._reports, timeout):
            return None
        status = os.read(self._reports, STATUS.size)
        return int(STATUS.unpack(status)[0]) if status else None

    def close(self) -> None:
        """Free what watching it took."""
        for number in (self._reports, self._pidfd):
            if number is not None:
                os.close(number)
        self.sentinel = self._reports = self._pidfd = None


def wait_for(pid: int, timeout: float) -> int | None:
    """Wait for a child of this process to end, at most *timeout* seconds; its exit code, None where that is unknown."""
    until = time.monotonic() + timeout
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            # It is another's, or this process ignores how its children end.
            return None
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        # It has closed what it had, or was killed: this is a matter of microseconds.
        time.sleep(0.001)


def _open_pidfd(pid: int) -> int | None:
    """A handle of the process, where the system has them."""
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return None
    try:
        return int(opener(pid))
    except OSError:
        return None


def _readable(number: int | None, timeout: float) -> bool:
    if number is None:
        return False
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def describe_exit(code: int | None) -> str:
    """How a process ended, in the words that users of WorkerLostError know."""
    if code is not None and code < 0:
        try:
            name = f" ({signal.Signals(-code).name})"
        except ValueError:
            name = ""
        return f"Worker exited prematurely: signal {-code}{name}."
    return f"Worker exited prematurely: exitcode {code}."
