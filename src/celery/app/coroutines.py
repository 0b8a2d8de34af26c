"""Running coroutines from threads: every thread that runs tasks has one event loop, made when it is first needed.

Greenlets cannot have one each: of the event loops in a thread only one may run at a time.  Theirs run beside each other
on one loop, in a greenlet of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import socket
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.descriptors import is_green, write
from celery.utils.loops import LoopThread, interruptible, run_at
from celery.utils.threads import woken_by

T = TypeVar("T")


class _Loop:
    """The event loop of one thread, and what signals wake it by. Closed with the thread, if not before."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)
        self.writer.setblocking(False)

    def close(self) -> None:
        """Cancel what still runs, and close."""
        self.runner.close()
        self.reader.close()
        self.writer.close()

    def __del__(self) -> None:
        if not self.loop.is_closed():
            self.loop.close()
            self.reader.close()
            self.writer.close()


class _Slot(threading.local):
    loop: _Loop | None = None
    home: LoopThread | None = None
    """Where coroutines run instead, if anywhere."""


_slot = _Slot()
_home: LoopThread | None = None


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* to its end on the event loop of this thread.

    Where a loop is running already (a task applied eagerly in a coroutine), another thread runs it while this one
    waits.  A soft time limit that strikes while the coroutine waits is raised in the coroutine.
    """
    home = _slot.home or (_greenlets_home() if is_green() else None)
    if home is not None:
        return run_at(home, coroutine, soft=SoftTimeLimitExceeded)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run_here(coroutine)
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(context.run, _run_apart, coroutine).result()


@contextmanager
def running_at(home: LoopThread) -> Iterator[None]:
    """In this block, coroutines of this thread run on the loop *home*."""
    before, _slot.home = _slot.home, home
    try:
        yield
    finally:
        _slot.home = before


def _greenlets_home() -> LoopThread:
    """The loop that the coroutines of all greenlets run on. There is one, once it is needed."""
    global _home
    if _home is None:
        _home = LoopThread("celery-coroutines")
        _home.start()
    return _home


def close_loop() -> None:
    """End the event loop of this thread; a new one is made when it is needed."""
    ours, _slot.loop = _slot.loop, None
    if ours is not None:
        ours.close()


def _run_apart(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return _run_here(coroutine)
    finally:
        close_loop()


def _run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    ours = _slot.loop
    if ours is None:
        ours = _slot.loop = _Loop()
    loop = ours.loop
    limits: list[BaseException] = []
    task = loop.create_task(interruptible(coroutine, limits), context=contextvars.copy_context())

    def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # The limit struck in a callback of the loop, which would only log it.
        exc = context.get("exception")
        if isinstance(exc, SoftTimeLimitExceeded) and not task.done():
            limits.append(exc)
            task.cancel()
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(on_loop_error)
    with _woken_by_signals(ours), woken_by(partial(_wake, loop)):
        while True:
            try:
                return loop.run_until_complete(task)
            except SoftTimeLimitExceeded as exc:
                if task.done():
                    raise
                limits.append(exc)
                task.cancel()
            except BaseException:
                if not task.done():
                    close_loop()  # cancels what is left of it
                raise


def _wake(loop: asyncio.AbstractEventLoop) -> None:
    with suppress(RuntimeError):  # it has just been closed
        loop.call_soon_threadsafe(_wake_up)


def _wake_up() -> None:
    """Nothing: a loop that calls it is awake."""


@contextmanager
def _woken_by_signals(ours: _Loop) -> Iterator[None]:
    """A signal wakes the loop in this block, also one that comes just before the loop begins to wait."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, reader = ours.loop, ours.reader
    before = signal.set_wakeup_fd(ours.writer.fileno(), warn_on_full_buffer=False)

    def pass_on() -> None:
        numbers = reader.recv(4096)
        if before != -1:
            with suppress(BlockingIOError):
                write(before, numbers)

    loop.add_reader(reader, pass_on)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        if not loop.is_closed():
            loop.remove_reader(reader)


__all__ = ["close_loop", "interruptible", "run_coroutine", "running_at"]
