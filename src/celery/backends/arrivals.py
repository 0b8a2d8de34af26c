"""Waiting for results from asyncio: one thread per backend watches for all of them and wakes the event loops."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
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
MANY = 100
"""Results that are read again without a pause."""
LONGEST_REST = 0.1


class Reader(Protocol):
    """What the watcher needs of a backend."""

    store: Store

    def read(self, task_ids: Sequence[str], written: Mapping[str, bytes | None] | None = None) -> list[Meta]: ...
    def get_key_for_task(self, task_id: Any, key: Any = "") -> Any: ...


class ArrivalWatcher:
    """Resolves futures when tasks end. The thread lives only while somebody waits."""

    def __init__(self, backend: Reader) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Waiter]] = {}
        self._new: set[str] = set()
        """Those that somebody has begun to wait for since the thread last looked: what it has heard of them is old."""
        self._thread: threading.Thread | None = None
        self._watch: Watch | None = None
        self._changed = False
        self._checked = 0.0
        self._spent = 0.0

    async def wait(self, task_id: str, timeout: float | None = None) -> Meta:  # noqa: ASYNC109 - as in `get`
        """The meta of the task when it has ended; raises `TimeoutError` after *timeout* seconds."""
        aio = import_module("asyncio")  # not at the top: most programs that send tasks never need it
        loop: asyncio.AbstractEventLoop = aio.get_running_loop()
        future: asyncio.Future[Meta] = loop.create_future()
        waiter = (loop, future)
        self._add({task_id: waiter})
        try:
            return cast("Meta", await aio.wait_for(future, timeout))
        except builtins.TimeoutError:
            raise TimeoutError(f"No result of task {task_id} within {timeout} s.") from None
        finally:
            self._discard({task_id: waiter})

    async def each(
        self,
        task_ids: Sequence[str],
        timeout: float | None = None,  # noqa: ASYNC109 - as in `get`
    ) -> AsyncGenerator[tuple[str, Meta], None]:
        """`(id, meta)` of each of the tasks as they end; raises `TimeoutError` after *timeout* seconds."""
        aio = import_module("asyncio")
        loop: asyncio.AbstractEventLoop = aio.get_running_loop()
        ended: asyncio.Queue[tuple[str, asyncio.Future[Meta]]] = aio.Queue()
        waiters: dict[str, Waiter] = {}
        for task_id in dict.fromkeys(task_ids):
            future: asyncio.Future[Meta] = loop.create_future()
            future.add_done_callback(partial(_tell, ended, task_id))
            waiters[task_id] = (loop, future)
        deadline = None if timeout is None else loop.time() + timeout
        self._add(waiters)
        try:
            while waiters:
                left = None if deadline is None else max(0.0, deadline - loop.time())
                task_id, future = await aio.wait_for(ended.get(), left)
                del waiters[task_id]
                yield task_id, future.result()
        except builtins.TimeoutError:
            raise TimeoutError(f"{len(waiters)} of the results were not there after {timeout} s.") from None
        finally:
            self._discard(waiters)

    def _add(self, waiters: Mapping[str, Waiter]) -> None:
        with self._lock:
            for task_id, waiter in waiters.items():
                self._waiting.setdefault(task_id, []).append(waiter)
                self._new.add(task_id)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="celery-results", daemon=True)
                self._thread.start()
            self._interrupt()

    def _discard(self, gone: Mapping[str, Waiter]) -> None:
        with self._lock:
            for task_id, waiter in gone.items():
                waiters = self._waiting.get(task_id)
                if waiters and waiter in waiters:
                    waiters.remove(waiter)
                    if not waiters:
                        del self._waiting[task_id]
            if not self._waiting:
                self._interrupt()

    def _interrupt(self) -> None:
        """Make the thread look at who waits. Called with the lock held."""
        self._changed = True
        if self._watch is not None:
            self._watch.ring()

    def _run(self) -> None:
        last: Watch | None = None
        while True:
            ids, new = self._begin()
            if not ids:
                break
            try:
                last = self._serve(ids, new, last)
            except Exception as exc:  # noqa: BLE001 - whatever the store raises belongs to those who wait
                self._fail(ids, exc)
                last = None
        if last is not None:
            last.close()

    def _begin(self) -> tuple[list[str], set[str]]:
        """Who waits now, and which of them have to be read; if nobody does, the thread ends."""
        with self._lock:
            self._changed = False
            if not self._waiting:
                self._thread = None
            new, self._new = self._new, set()
            return list(self._waiting), new

    def _serve(self, ids: list[str], new: set[str], last: Watch | None) -> Watch:
        """Resolve the futures of those that end until somebody joins or all have gone. Returns the watch, still open.

        *last* watched those that are not *new* until now: they need not be read again unless they were written.
        """
        keys = {self._backend.get_key_for_task(task_id): task_id for task_id in ids}
        try:
            watch = self._backend.store.watch(list(keys))
        finally:
            if last is not None:
                last.close()
        try:
            with self._lock:
                self._watch = watch
            written: Mapping[str, bytes | None] | None = None
            if last is None or time.monotonic() - self._checked > RECHECK:
                unread = ids
            else:
                known = {key: task_id for key, task_id in keys.items() if task_id not in new}
                written = _among(known, last.written())
                unread = [*(task_id for task_id in ids if task_id in new), *(known[key] for key in written)]
            while True:
                self._read(unread, written, every=len(unread) >= len(ids))
                if self._changed or not self._waiting:
                    return watch
                written = watch.written() if watch.wait(RECHECK) else None
                if written is None and self._changed:
                    return watch  # all are read by the next turn
                if written is None:
                    rest(self._spent, len(ids))
                unread = [keys[key] for key in _among(keys, written) if keys[key] in self._waiting]
        except BaseException:
            watch.close()
            raise
        finally:
            with self._lock:
                self._watch = None

    def _read(self, ids: Sequence[str], written: Mapping[str, bytes | None] | None, *, every: bool) -> None:
        if every:
            self._checked = time.monotonic()
        began = time.monotonic()
        metas = self._backend.read(ids, written)
        self._spent = time.monotonic() - began
        for task_id, meta in zip(ids, metas, strict=True):
            if meta["status"] in states.READY_STATES:
                self._resolve(task_id, meta)

    def _resolve(self, task_id: str, meta: Meta) -> None:
        with self._lock:
            waiters = () if task_id in self._new else self._waiting.pop(task_id, ())
        for loop, future in waiters:
            _call(loop, _set_result, future, meta)

    def _fail(self, ids: list[str], exc: Exception) -> None:
        with self._lock:
            waiters = [waiter for task_id in ids for waiter in self._waiting.pop(task_id, ())]
        for loop, future in waiters:
            _call(loop, _set_exception, future, exc)


def rest(spent: float, count: int) -> None:
    """Pause before *count* results are read again, which took *spent* seconds.

    A store that cannot say what was written is read through at every write; with thousands of writes to thousands of
    results, that would cost more than the tasks did.  So no more than half of the time goes into reading.
    """
    if count > MANY:
        time.sleep(min(spent, LONGEST_REST))


def _among(keys: Mapping[str, str], written: Mapping[str, bytes | None] | None) -> Mapping[str, bytes | None]:
    """What of *written* is one of *keys*; any of these where that is not known."""
    return dict.fromkeys(keys) if written is None else {key: written[key] for key in written if key in keys}


def _call(loop: asyncio.AbstractEventLoop, function: Any, *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _tell(ended: asyncio.Queue[tuple[str, asyncio.Future[Meta]]], task_id: str, future: asyncio.Future[Meta]) -> None:
    ended.put_nowait((task_id, future))


def _set_result(future: asyncio.Future[Meta], meta: Meta) -> None:
    if not future.done():
        future.set_result(meta)


def _set_exception(future: asyncio.Future[Meta], exc: Exception) -> None:
    if not future.done():
        future.set_exception(exc)


__all__ = ["ArrivalWatcher", "rest"]
