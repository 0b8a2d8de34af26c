"""Coroutines that are interrupted from outside, and an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import Any, TypeVar, cast

from celery.utils.bell import Chime
from celery.utils.descriptors import POLLIN, POLLOUT, is_green, poll
from celery.utils.threads import woken_by

T = TypeVar("T")


async def interruptible(coroutine: Coroutine[Any, Any, T], reasons: list[BaseException]) -> T:
    """Await *coroutine*. Who cancels this raises in it the last of *reasons*, or CancelledError where there is none.

    A coroutine that ends cancelled although nobody has cancelled this has failed: that is raised as a RuntimeError.
    """
    return cast("T", await _Interruptible(coroutine, reasons))


class _Interruptible:
    """Awaits a coroutine by hand, so that a cancellation can be raised in it as what has caused it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], reasons: list[BaseException]) -> None:
        self.coroutine = coroutine
        self.reasons = reasons

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self.coroutine
        sent: Any = None
        error: BaseException | None = None
        cancelled = False
        while True:
            try:
                awaited = coroutine.send(sent) if error is None else coroutine.throw(error)
            except StopIteration as end:
                return end.value
            except asyncio.CancelledError as exc:
                if cancelled:
                    raise
                raise RuntimeError("The coroutine was cancelled, and not by who runs it.") from exc
            sent = error = None
            try:
                sent = yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except asyncio.CancelledError as exc:
                if self.reasons:
                    error = self.reasons.pop()
                    task = asyncio.current_task()
                    if task is not None:
                        task.uncancel()
                else:
                    # It may be the end of something that the coroutine itself has cancelled.
                    error = exc
                    task = asyncio.current_task()
                    cancelled = cancelled or (task is not None and task.cancelling() > 0)
            except BaseException as exc:  # noqa: BLE001 - it is the coroutine's
                error = exc


class LoopThread:
    """An event loop that runs in a thread of its own: a greenlet, where threads have become greenlets."""

    loop: asyncio.AbstractEventLoop
    """There is one from `start` on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._ended = Chime()
        self._selector: _GreenSelector | None = None

    def start(self) -> None:
        """Run the loop until `stop`."""
        if is_green():
            self._selector = selector = _GreenSelector()
            self.loop = selector.loop = asyncio.SelectorEventLoop(selector)
        else:
            self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        """Have the loop call *function*; False once it has ended. Any thread."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def stop(self, timeout: float) -> bool:
        """Cancel what runs and end the loop; whether it ended within *timeout* seconds. Not from its own thread."""
        self.call(self.loop.stop)
        return self._ended.wait(timeout)

    def _run(self) -> None:
        loop = self.loop
        try:
            asyncio.set_event_loop(loop)
            self._drive(loop.run_forever)
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._drive(lambda: loop.run_until_complete(asyncio.wait(tasks, timeout=1.0)))
            self._drive(lambda: loop.run_until_complete(loop.shutdown_asyncgens()))
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            self._ended.ring()

    def _drive(self, step: Callable[[], object]) -> None:
        """Run the loop, which would refuse if it found that of another greenlet running."""
        if self._selector is None:
            step()
            return
        self._selector.hide()
        try:
            step()
        finally:
            self._selector.show()


def run_at(loop: LoopThread, coroutine: Coroutine[Any, Any, T], *, soft: type[BaseException]) -> T:
    """Run *coroutine* on *loop* while this thread, or greenlet, waits for it.

    What is raised here meanwhile ends the coroutine: an exception of the kind *soft* is raised in it, and it may go on;
    after any other one it is cancelled, and this raises at once.
    """
    chime = Chime()
    reasons: list[BaseException] = []
    made: list[asyncio.Task[T]] = []
    context = contextvars.copy_context()

    def begin() -> None:
        made.append(loop.loop.create_task(interruptible(coroutine, reasons), context=context))
        made[0].add_done_callback(lambda task: chime.ring())

    def cancel() -> None:
        made[0].cancel()

    if not loop.call(begin):
        coroutine.close()
        raise RuntimeError("The event loop has ended.")
    with woken_by(chime.ring):
        while True:
            try:
                while not (made and made[0].done()):
                    chime.wait(None)
                return made[0].result()
            except soft as exc:
                if made and made[0].done():
                    raise
                reasons.append(exc)
                loop.call(cancel)
            except BaseException:
                if not (made and made[0].done()):
                    loop.call(cancel)
                raise


class _GreenSelector(selectors.BaseSelector):
    """Lets other greenlets run while it waits, and hides its loop from them.

    The running loop is one of the whole thread of the system: a greenlet that has a loop of its own finds that one.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._others: asyncio.AbstractEventLoop | None = None
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._poll = poll()

    def hide(self) -> None:
        """Just before the loop of this one runs: that of another greenlet steps aside."""
        self._others = asyncio._get_running_loop()
        asyncio._set_running_loop(None)

    def show(self) -> None:
        """Just after it has run."""
        asyncio._set_running_loop(self._others)
        self._others = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        mask = (POLLIN if events & selectors.EVENT_READ else 0) | (POLLOUT if events & selectors.EVENT_WRITE else 0)
        self._poll.register(fd, mask)
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self.get_key(fileobj)
        del self._keys[key.fd]
        self._poll.unregister(key.fd)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        asyncio._set_running_loop(self._others)
        try:
            ready = self._poll.poll(None if timeout is None else max(0.0, timeout) * 1000.0)
        finally:
            self._others = asyncio._get_running_loop()
            asyncio._set_running_loop(self.loop)
        found = []
        for fd, mask in ready:
            events = (selectors.EVENT_READ if mask & ~POLLOUT else 0) | (selectors.EVENT_WRITE if mask & ~POLLIN else 0)
            key = self._keys.get(fd)
            if key is not None and events & key.events:
                found.append((key, events & key.events))
        return found

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {key.fileobj: key for key in self._keys.values()} | self._keys


__all__ = ["LoopThread", "interruptible", "run_at"]
