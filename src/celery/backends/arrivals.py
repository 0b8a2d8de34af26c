"""Waiting for results from asyncio: one thread per backend watches for all of them and wakes the event loops."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from celery import states
from celery.exceptions import TimeoutError  # noqa: A004 - the public name

if TYPE_CHECKING:
    import asyncio

    from celery.backends.store import Store, Watch

Meta = dict[str, Any]
Waiter = tuple["asyncio.AbstractEventLoop", "asyncio.Future[Meta]"]

RECHECK = 5.0


class Reader(Protocol):
    """What the watcher needs of a backend."""

    store: Store

    def read(self, task_ids: Sequence[str]) -> list[Meta]: ...
    def get_key_for_task(self, task_id: Any, key: Any = "") -> Any: ...


class ArrivalWatcher:
    """Resolves futures when tasks end. The thread lives only while somebody waits."""

    def __init__(self, backend: Reader) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Waiter]] = {}
        self._thread: threading.Thread | None = None
        self._watch: Watch | None = None

    async def wait(self, task_id: str, timeout: float | None = None) -> Meta:  # noqa: ASYNC109 - as in `get`
        """The meta of the task when it has ended; raises `TimeoutError` after *timeout* seconds."""
        aio = import_module("asyncio")  # not at the top: most programs that send tasks never need it
        loop: asyncio.AbstractEventLoop = aio.get_running_loop()
        future: asyncio.Future[Meta] = loop.create_future()
        waiter = (loop, future)
        self._add(task_id, waiter)
        try:
            return cast("Meta", await aio.wait_for(future, timeout))
        except builtins.TimeoutError:
            raise TimeoutError(f"No result of task {task_id} within {timeout} s.") from None
        finally:
            self._discard(task_id, waiter)

    def _add(self, task_id: str, waiter: Waiter) -> None:
        with self._lock:
            self._waiting.setdefault(task_id, []).append(waiter)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="celery-results", daemon=True)
                self._thread.start()
            self._interrupt()

    def _discard(self, task_id: str, waiter: Waiter) -> None:
        with self._lock:
            waiters = self._waiting.get(task_id)
            if waiters and waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiting[task_id]
            if not self._waiting:
                self._interrupt()

    def _interrupt(self) -> None:
        """Make the thread look at who waits. Called with the lock held."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _run(self) -> None:
        while True:
            with self._lock:
                ids = list(self._waiting)
                if not ids:
                    self._thread = None
                    return
                keys = [self._backend.get_key_for_task(task_id) for task_id in ids]
                watch = self._watch = self._backend.store.watch(keys)
            try:
                self._serve(ids, watch)
            except Exception as exc:  # noqa: BLE001 - whatever the store raises belongs to those who wait
                self._fail(ids, exc)
            finally:
                watch.close()

    def _serve(self, ids: list[str], watch: Watch) -> None:
        while True:
            arrived = False
            for task_id, meta in zip(ids, self._backend.read(ids), strict=True):
                if meta["status"] in states.READY_STATES:
                    arrived = True
                    self._resolve(task_id, meta)
            with self._lock:
                if arrived or self._watch is not watch:
                    return
            watch.wait(RECHECK)

    def _resolve(self, task_id: str, meta: Meta) -> None:
        with self._lock:
            waiters = self._waiting.pop(task_id, ())
        for loop, future in waiters:
            _call(loop, _set_result, future, meta)

    def _fail(self, ids: list[str], exc: Exception) -> None:
        with self._lock:
            waiters = [waiter for task_id in ids for waiter in self._waiting.pop(task_id, ())]
        for loop, future in waiters:
            _call(loop, _set_exception, future, exc)


def _call(loop: asyncio.AbstractEventLoop, function: Any, *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _set_result(future: asyncio.Future[Meta], meta: Meta) -> None:
    if not future.done():
        future.set_result(meta)


def _set_exception(future: asyncio.Future[Meta], exc: Exception) -> None:
    if not future.done():
        future.set_exception(exc)


__all__ = ["ArrivalWatcher"]
