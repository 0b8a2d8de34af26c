"""Waking those who wait, in this process and in others, without polling."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable


class Chime:
    """A bell for one waiter, with a descriptor that is readable from `ring` until `clear`.

    `ring` may be called by any thread and by a signal handler; `wait` and `clear` belong to the waiter.
    """

    def __init__(self) -> None:
        self._reader, self._writer = _open_pair()
        self._waiting = threading.Lock()
        self._closed = False
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    @property
    def closed(self) -> bool:
        return self._closed

    def fileno(self) -> int:
        return self._reader

    def ring(self) -> None:
        """Wake the waiter, now or at its next `wait`."""
        writer = self._writer
        if writer >= 0:
            try:
                os.write(writer, b"\1\0\0\0\0\0\0\0")
            except BlockingIOError:
                return  # it is full of rings: readable as it should be

    def clear(self) -> None:
        """Forget the rings so far."""
        try:
            while len(os.read(self._reader, 4096)) == 4096:
                pass
        except BlockingIOError:
            return

    def wait(self, timeout: float | None) -> bool:
        """Block until a ring (True, and the rings are forgotten), the close, or the end of *timeout* seconds."""
        with self._waiting:
            rung = not self._closed and bool(self._poll.poll(_milliseconds(timeout)))
            if self._closed:
                self._shut()
                return False
            if rung:
                self.clear()
            return rung

    def close(self) -> None:
        """End a `wait` that is under way, and give up the descriptor as soon as nobody waits on it. Any thread."""
        self._closed = True
        self.ring()
        if self._waiting.acquire(blocking=False):
            try:
                self._shut()
            finally:
                self._waiting.release()

    def _shut(self) -> None:
        reader, writer = self._reader, self._writer
        self._reader = self._writer = -1
        if reader >= 0:
            os.close(reader)
        if writer not in {-1, reader}:
            os.close(writer)

    def __del__(self) -> None:
        if hasattr(self, "_writer"):
            self._shut()


def wait_until(chime: Chime, ready: Callable[[], bool], timeout: float | None) -> bool:
    """Wait on *chime* until *ready* says yes; False when *timeout* seconds passed or the chime was closed."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        if ready():
            return True
        left = None if end is None else end - time.monotonic()
        if chime.closed or (left is not None and left <= 0):
            return False
        chime.wait(left)


def _open_pair() -> tuple[int, int]:
    """(reading end, writing end), one and the same where the system has event descriptors."""
    if hasattr(os, "eventfd"):
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return descriptor, descriptor
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def _milliseconds(timeout: float | None) -> float | None:
    """For `poll`, rounded up so that a wait does not end early and spin."""
    return None if timeout is None else max(0.0, timeout) * 1000.0
