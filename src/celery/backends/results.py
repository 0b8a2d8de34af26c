"""`ResultBackend`: task results in a `Store` of ours: one class for every store.

Keys, JSON and compression are Celery's, so that clients and workers of either kind read each other's results.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery import states
from celery.app.context import Context, request_field
from celery.backends.arrivals import ArrivalWatcher, rest
from celery.backends.backend import Meta
from celery.backends.chords import ChordParts
from celery.backends.compression import compress_payload
from celery.backends.waiting import WaitsByMany
from celery.exceptions import EncodeError, TimeoutError  # noqa: A004 - the public name
from celery.utils import uuid
from celery.utils.saferepr import saferepr
from celery.wire.message import Record
from celery.wire.protocol import encode_plain, is_plain
from celery.wire.serialization import dumps, encode_json, is_replaced

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.backends.store import Store

RECHECK = 5.0
"""Seconds after which a waiting reader looks again although it was not told of a write: a safety net."""


class ResultBackend(WaitsByMany, ChordParts):
    """Results in *store*. Thread-safe. Waiting readers are woken by the store where it can notify."""

    store: Store
    key_t = staticmethod(lambda key: key.decode() if isinstance(key, bytes) else key)
    supports_native_join = True
    supports_autoexpire = True
    supports_failure_expires = True
    supports_result_compression = True

    def __init__(self, store: Store, app: Celery, **kwargs: Any) -> None:
        super().__init__(app, url=kwargs.pop("url", None) or store.url, **kwargs)
        self.store = store
        conf = app.conf
        self.failure_expires: float | None = self.expires
        if conf.result_failure_expires is not None:
            self.failure_expires = self.prepare_expires(conf.result_failure_expires)
        self._extended = bool(conf.result_extended)
        self._is_json = self.serializer == "json" and self.compression is None and not is_replaced("json")
        self._arrivals = ArrivalWatcher(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.app,)

    # -- records --------------------------------------------------------------------------------------------------

    def record(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        traceback: str | None = None,
        request: Any = None,
        writer: str = "",
    ) -> Record:
        """The record that stores *result*; an exception becomes data. Raises `EncodeError` if it does not serialise.

        *writer* names the message that was executed: of two executions of one message, the first terminal state stays.
        """
        data = result
        if isinstance(result, BaseException):
            data = self.prepare_exception(result)
        elif not isinstance(result, _PLAIN):
            data = self.prepare_value(result)
        meta = self._get_result_meta(data, state, traceback, request)
        meta["task_id"] = task_id
        try:
            payload = self._as_json(meta) if self._is_json else self._pack(meta)
        except EncodeError:
            if not self._extended or request is None:
                raise
            # The arguments may have come by another serializer: that must not cost the task its result.
            meta.update(args=saferepr(meta["args"]), kwargs=saferepr(meta["kwargs"]))
            payload = self._pack(meta)
        ttl = self.failure_expires if state == states.FAILURE else self.expires
        return Record(self.task_keyprefix + task_id, payload, state, writer, ttl or None)

    def failure_record(
        self,
        task_id: str,
        exc: BaseException,
        *,
        traceback: str | None = None,
        request: Any = None,
        writer: str = "",
        state: str = states.FAILURE,
    ) -> Record:
        """The record of a failure. What does not serialise of the exception is stored as its repr."""
        return self.record(task_id, exc, state, traceback=traceback, request=request, writer=writer)

    def _as_json(self, meta: Meta) -> bytes:
        """JSON as kombu writes it; by the faster writer where both have the same text for it."""
        result = meta["result"]
        kind = type(result)
        if not self._extended and (kind in _PLAINEST or (kind in _CONTAINERS and is_plain(result))):
            try:
                payload = encode_plain(meta)
            except (TypeError, ValueError, OverflowError, RecursionError):
                return encode_json(meta)
            if payload.isascii():
                return payload
        return encode_json(meta)

    def _pack(self, data: Any) -> bytes:
        payload = dumps(data, self.serializer)[2]
        return payload if self.compression is None else compress_payload(payload, self.compression)

    def _get_result_meta(
        self, result: Any, state: str, traceback: Any, request: Any, format_date: bool = True, encode: bool = False
    ) -> Meta:
        if request.__class__ is not Context or self._extended or not format_date:
            return super()._get_result_meta(result, state, traceback, request, format_date, encode)
        # The same as above for the common case, in few calls: this runs once for every task.
        sent = request._children
        meta: Meta = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": [child.as_tuple() for child in sent] if sent else [],
            "date_done": _now() if state in states.READY_STATES else None,
        }
        if group := request.group:
            meta["group_id"] = group
        if parent := request.parent_id:
            meta["parent_id"] = parent
        return meta

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        text = None if traceback is None else str(traceback)
        collected = None if request is None else request_field(request, "records")
        if collected is not None:
            writer = request_field(request, "writer") or ""
            collected.append(self.record(task_id, result, state, traceback=text, request=request, writer=writer))
            return result
        # What a program stores by its own hand is an execution of its own: it replaces a failure.
        self.store.put([self.record(task_id, result, state, traceback=text, request=request, writer=uuid())])
        return result

    # -- key and value --------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        return self.store.get([key])[0]

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        return self.store.get(keys)

    def set(self, key: str, value: Any) -> None:
        self.store.set(key, value.encode() if isinstance(value, str) else value, self.expires or None)

    def delete(self, key: str) -> int:
        return self.store.delete([key])

    def forget_many(self, task_ids: Sequence[str]) -> None:
        """Delete the results of several tasks in one step."""
        for task_id in task_ids:
            self._cache.pop(task_id, None)
        self.store.delete([self.task_keyprefix + task_id for task_id in task_ids])

    def cleanup(self) -> None:
        """Delete what has expired."""
        while self.store.expire():
            continue

    def read(self, task_ids: Sequence[str], written: Mapping[str, bytes | None] | None = None) -> list[Meta]:
        """The metas of several tasks in one step; PENDING where nothing is known. *written*: see `Watch.written`."""
        keys = [self.task_keyprefix + task_id for task_id in task_ids]
        if written:
            unknown = [key for key in keys if written.get(key) is None]
            read = dict(zip(unknown, self.store.get(unknown), strict=True)) if unknown else {}
            values = [read[key] if key in read else written[key] for key in keys]
        else:
            values = self.store.get(keys)
        return [self.decode_result(value) if value else {"status": states.PENDING, "result": None} for value in values]

    # -- waiting --------------------------------------------------------------------------------------------------

    @property
    def is_async(self) -> bool:
        """Results arrive by notification."""
        return self.store.can.notify

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        max_iterations: int | None = None,
        READY_STATES: Iterable[str] = states.READY_STATES,  # noqa: N803 - the public name
    ) -> Generator[tuple[str, Meta], None, None]:
        """Yield `(task id, meta)` as the tasks end. Blocks up to *timeout* seconds; woken by the store."""
        missing = dict.fromkeys(task_ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = RECHECK if self.store.can.notify else interval
        if on_interval is not None:
            pause = min(pause, interval)
        rounds, start = 0, len(self.task_keyprefix)
        written: Mapping[str, bytes | None] | None = None
        with self.store.watch([self.task_keyprefix + task_id for task_id in missing]) as watch:
            ids = list(missing)
            while True:
                began = time.monotonic()
                metas = self.read(ids, written)
                spent = time.monotonic() - began
                for task_id, meta in zip(ids, metas, strict=True):
                    if meta["status"] in READY_STATES:
                        del missing[task_id]
                        if on_message is not None:
                            on_message(meta)
                        yield task_id, meta
                rounds += 1
                if not missing or (max_iterations is not None and rounds >= max_iterations):
                    return
                left = pause if deadline is None else min(pause, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"{len(missing)} of the results were not there after {timeout} s.")
                # Of thousands, those that were written are read; all of them now and then, to be safe.
                written = watch.written() if watch.wait(left) else None
                if written is None:
                    ids = list(missing)
                    rest(spent, len(ids))
                else:
                    ids = [task_id for key in written if (task_id := key[start:]) in missing]
                if on_interval is not None:
                    on_interval()

    async def arrival(self, task_id: str, timeout: float | None = None) -> Meta:  # noqa: ASYNC109 - as in `get`
        """The meta of the task when it has ended, without blocking the event loop."""
        return await self._arrivals.wait(task_id, timeout)

    def each_arrival(
        self, task_ids: Sequence[str], timeout: float | None = None
    ) -> AsyncGenerator[tuple[str, Meta], None]:
        """`(task id, meta)` of each of the tasks as they end, without blocking the event loop."""
        return self._arrivals.each(task_ids, timeout)


_PLAINEST = frozenset({str, int, bool, type(None)})
_CONTAINERS = frozenset({dict, list})
_PLAIN = (str, int, float, bool, type(None), dict, list, tuple, bytes)


def _reopen(app: Celery) -> Any:
    return app.backend


__all__ = ["RECHECK", "ResultBackend"]


class _Second:
    """The text of the present second: it is the same for thousands of results."""

    def __init__(self) -> None:
        self.known: tuple[int, str] = (0, "")

    def text(self, second: int) -> str:
        known = self.known
        if known[0] != second:
            known = self.known = second, datetime.fromtimestamp(second, UTC).isoformat()[:19]
        return known[1]


_second = _Second()


def _now() -> str:
    """The time as `datetime.now(UTC).isoformat()` has it, microseconds included."""
    micros = time.time_ns() // 1000
    return f"{_second.text(micros // 1_000_000)}.{micros % 1_000_000:06}+00:00"
