"""What other threads ask the worker's loop to do, and the pipe that wakes it for that."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from celery.exceptions import BackendError, BrokerError
from celery.utils.descriptors import pipe, read, write
from celery.utils.log import get_logger

logger = get_logger("celery.worker.consumer")
T = TypeVar("T")


class Calls:
    """A line of calls for the loop's thread. `inbox` is readable when there are some."""

    def __init__(self) -> None:
        self.inbox, self._outbox = pipe()
        self.thread: int | None = None
        """The loop's, once it runs."""
        self._waiting: deque[Callable[[], Any]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def soon(self, call: Callable[[], Any]) -> None:
        """Have the loop call *call* between two of its turns. Any thread, also a signal handler; does not block."""
        self._waiting.append(call)
        try:
            write(self._outbox, b"x")
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EBADF}:  # full of wake-ups already; the loop has ended
                raise

    def ask(self, call: Callable[[], T], timeout: float) -> T:
        """What *call* returns when the loop calls it; raises TimeoutError if the loop is busy for *timeout* seconds."""
        if self.is_here():
            return call()
        future: Future[T] = Future()

        def answer() -> None:
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - it is raised where the answer is read
                future.set_exception(error)

        self.soon(answer)
        return future.result(timeout)

    def is_here(self) -> bool:
        """Whether this is the loop's thread."""
        return self.thread == threading.get_ident()

    def perform(self) -> None:
        """Make the calls. Loop thread. Raises what is about the broker or the result store; anything else is logged."""
        while self._waiting:
            call = self._waiting.popleft()
            try:
                call()
            except (BrokerError, BackendError):
                raise
            except Exception:
                logger.exception("What the loop was asked to do failed: %r", call)

    def drain(self) -> None:
        """Forget the wake-ups that have come."""
        read(self.inbox, 4096)

    def close(self) -> None:
        """Take no more wake-ups."""
        inbox, outbox = self.inbox, self._outbox
        self.inbox = self._outbox = -1  # before other files get their numbers
        os.close(inbox)
        os.close(outbox)
