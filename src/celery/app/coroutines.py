"""Running coroutines from threads: every thread that runs tasks has one event loop, made when it is first needed."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from celery.exceptions import SoftTimeLimitExceeded

T = TypeVar("T")


class _Slot(threading.local):
    runner: asyncio.Runner | None = None


_slot = _Slot()


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* to its end on the event loop of this thread.

    Where a loop is running already (a task applied eagerly in a coroutine), another thread runs it while this one
    waits.  A soft time limit that strikes while the coroutine waits is raised in the coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run_here(coroutine)
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(context.run, _run_apart, coroutine).result()


def close_loop() -> None:
    """End the event loop of this thread; a new one is made when it is needed."""
    runner, _slot.runner = _slot.runner, None
    if runner is not None:
        runner.close()


def _run_apart(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return _run_here(coroutine)
    finally:
        close_loop()


def _run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    if _slot.runner is None:
        _slot.runner = asyncio.Runner()
    loop = _slot.runner.get_loop()
    limits: list[BaseException] = []
    task = loop.create_task(_with_limits(coroutine, limits), context=contextvars.copy_context())
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


async def _with_limits(coroutine: Coroutine[Any, Any, T], limits: list[BaseException]) -> T:
    return cast("T", await _Interruptible(coroutine, limits))


class _Interruptible:
    """Awaits a coroutine by hand, so that a cancellation can be raised in it as the time limit that caused it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], limits: list[BaseException]) -> None:
        self.coroutine = coroutine
        self.limits = limits

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self.coroutine
        sent: Any = None
        error: BaseException | None = None
        while True:
            try:
                awaited = coroutine.send(sent) if error is None else coroutine.throw(error)
            except StopIteration as end:
                return end.value
            sent = error = None
            try:
                sent = yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except asyncio.CancelledError as exc:
                error = self.limits.pop() if self.limits else exc
            except BaseException as exc:  # noqa: BLE001 - it is the coroutine's
                error = exc


__all__ = ["close_loop", "run_coroutine"]
