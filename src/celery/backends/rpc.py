"""`rpc://`: results come back as messages, to whoever has sent the task and nobody else.

A worker sends every state of a task to the queue that its message names in `reply_to`; the process that sent it listens
there from before the first task it sends.  Nothing is stored: another process that asks for the result learns nothing
(PENDING), and what nobody has asked for is kept here up to `MOST_KEPT` bytes.  Chords are joined in the broker.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from functools import partial
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from celery import states
from celery._state import task_join_will_block
from celery.app.context import request_field
from celery.backends.backend import Meta
from celery.backends.chords import ChordParts
from celery.backends.waiting import WaitsByMany
from celery.brokers.answers import Joins, Replies, Reply
from celery.exceptions import ImproperlyConfigured, TimeoutError  # noqa: A004 - the public name
from celery.utils.log import get_logger
from celery.wire.message import Outgoing
from celery.wire.protocol import Message, encode_envelope
from celery.wire.serialization import dumps, loads

if TYPE_CHECKING:
    import asyncio

    from celery.app.base import Celery

logger = get_logger(__name__)

MOST_KEPT = 64 * 1024 * 1024
"""Bytes of results that nobody has asked for yet; above that, the oldest are dropped."""
TRANSIENT, PERSISTENT = 1, 2
NO_GROUPS = (
    "Results over rpc:// are not stored, so {0} has nowhere to keep a group: use a result store (redis://, sqlite://)."
)
Told = Callable[[str, Meta], None]


class BacklogLimitExceeded(Exception):
    """Kept for programs that catch it: results that nobody has asked for are dropped, not counted."""


class Inbox:
    """What has come, by task. Thread-safe: one thread brings, others ask, or are told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metas: dict[str, tuple[Meta, int]] = {}
        self._told: dict[str, list[Told]] = {}
        self._bytes = 0
        self._dropped = False

    def take(self, task_id: str, meta: Meta, size: int) -> None:
        """A state of the task has come, in so many bytes. Never replaces a success, nor an end by a state before it."""
        with self._lock:
            known = self._metas.get(task_id)
            told = list(self._told.get(task_id, ()))
            if known is None or _comes_after(known[0]["status"], meta["status"]):
                if known is not None:
                    self._bytes -= known[1]
                    del self._metas[task_id]  # the newest stand last
                self._metas[task_id] = meta, size
                self._bytes += size
            warn = self._drop()
        if warn:
            logger.warning(
                "Results that nobody has asked for are dropped: more than %s MiB of them are here. Send tasks whose "
                "results nobody needs with ignore_result.",
                MOST_KEPT >> 20,
            )
        for tell in told:
            tell(task_id, meta)

    def _drop(self) -> bool:
        """Keep within bounds; whether that is to be said, which it is once."""
        gone = False
        for task_id in list(self._metas) if self._bytes > MOST_KEPT else ():
            if self._bytes <= MOST_KEPT:
                break
            if task_id not in self._told:
                self._bytes -= self._metas.pop(task_id)[1]
                gone = True
        warn, self._dropped = gone and not self._dropped, self._dropped or gone
        return warn

    def get(self, task_id: str) -> Meta | None:
        found = self._metas.get(task_id)
        return None if found is None else found[0]

    def forget(self, task_id: str) -> None:
        with self._lock:
            found = self._metas.pop(task_id, None)
            if found is not None:
                self._bytes -= found[1]

    def tell(self, task_ids: Iterable[str], tell: Told) -> None:
        """Call *tell* with each state of these that has come, and with each that will."""
        with self._lock:
            known = []
            for task_id in task_ids:
                self._told.setdefault(task_id, []).append(tell)
                if task_id in self._metas:
                    known.append((task_id, self._metas[task_id][0]))
        for task_id, meta in known:
            tell(task_id, meta)

    def untell(self, task_ids: Iterable[str], tell: Told) -> None:
        with self._lock:
            for task_id in task_ids:
                told = self._told.get(task_id)
                if told is not None and tell in told:
                    told.remove(tell)
                    if not told:
                        del self._told[task_id]


def _comes_after(known: str, new: str) -> bool:
    if known == states.SUCCESS:
        return False
    return known not in states.READY_STATES or new in states.READY_STATES


class RPCBackend(WaitsByMany, ChordParts):
    """Results as messages. Thread-safe; any thread may wait for what another one has sent."""

    key_t = staticmethod(lambda key: key.decode() if isinstance(key, bytes) else key)
    store = None
    supports_native_join = True
    supports_autoexpire = True
    persistent = False

    def __init__(self, app: Celery, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        if self.url is None:
            self.url = "rpc://"
        self.delivery_mode = PERSISTENT if self.prepare_persistent() else TRANSIENT
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._inbox = Inbox()
        self._replies: Replies | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.app,)

    def as_uri(self, include_password: bool = True) -> str:
        return "rpc://"

    @property
    def oid(self) -> str:
        """The name of the reply queue of this thread."""
        return self.app.thread_oid

    @property
    def joins(self) -> Joins:
        joins = self.app.broker.joins()
        if joins is None:
            raise NotImplementedError(
                "A chord (also a group that is followed by a task) waits for its parts in a result store, and rpc:// is"
                " none: only with RabbitMQ as the broker can it do without. Set `result_backend` to a store."
            )
        return joins

    def ensure_chords_allowed(self) -> None:
        _ = self.joins

    # -- listening -------------------------------------------------------------------------------------------------

    @property
    def inbox(self) -> Inbox:
        """What has come to this process."""
        if self._pid != os.getpid():  # a fork: what the parent waits for is the parent's
            self._begin()
        return self._inbox

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Have the reply queue before the task is sent. In a task, which may not wait for others, there is none."""
        if not task_join_will_block():
            self._listen()

    def _listen(self) -> None:
        inbox = self.inbox
        with self._lock:
            replies = self._replies
            if replies is None:
                came = partial(self._came, inbox)
                replies = self._replies = self.app.broker.replies(came, self.expires)
        if replies is None:
            raise ImproperlyConfigured(
                "Results over rpc:// come through the broker, and this one carries none: set result_backend to a store."
            )
        self.app.publisher.insist(partial(replies.open, self.oid))

    def _came(self, inbox: Inbox, reply: Reply) -> None:
        try:
            meta: Meta = loads(reply.body, reply.content_type, reply.content_encoding, self.accept)
            task_id = meta["task_id"]
            _ = meta["status"]
        except Exception as error:  # noqa: BLE001 - whatever it is that cannot be read, whoever waits for it is told
            task_id = reply.task_id
            meta = {"status": states.FAILURE, "result": error, "traceback": None, "children": [], "task_id": task_id}
        inbox.take(task_id, meta, len(reply.body) + 100)

    def close(self) -> None:
        """Listen no more; the reply queues are deleted."""
        if self._pid == os.getpid() and self._replies is not None:
            self._replies.close()

    # -- sending ---------------------------------------------------------------------------------------------------

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        reply_to = None if request is None else request_field(request, "reply_to")
        if not reply_to:
            return result  # nobody has asked for it
        text = None if traceback is None else str(traceback)
        meta = self._get_result_meta(result, state, text, request)
        meta["task_id"] = task_id
        content_type, content_encoding, body = dumps(meta, self.serializer)
        properties = {
            "correlation_id": request_field(request, "correlation_id") or task_id,
            "delivery_mode": self.delivery_mode,
            "delivery_info": {"exchange": "", "routing_key": reply_to},
            "priority": 0,
            "body_encoding": "base64",
        }
        envelope = encode_envelope(Message({}, properties, body, content_type, content_encoding))
        until = time.time() + self.expires if self.expires else None
        self.app.publisher.publish([Outgoing(envelope, reply_to, expires=until, task_id=task_id, reply=True)])
        return result

    # -- reading ---------------------------------------------------------------------------------------------------

    def _get_task_meta_for(self, task_id: str) -> Meta:
        meta = self.inbox.get(task_id)
        return {"status": states.PENDING, "result": None} if meta is None else self.meta_from_decoded(meta)

    def get_task_meta(self, task_id: str, cache: bool = True) -> Meta:
        return self._get_task_meta_for(task_id)

    def is_cached(self, task_id: str) -> bool:
        return self.inbox.get(task_id) is not None

    def reload_task_result(self, task_id: str) -> NoReturn:
        raise NotImplementedError("A result over rpc:// comes once: there is nothing to read it from again.")

    def _forget(self, task_id: str) -> None:
        self.inbox.forget(task_id)

    def forget_many(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self.inbox.forget(task_id)

    def save_group(self, group_id: str, result: Any) -> NoReturn:
        raise NotImplementedError(NO_GROUPS.format("save()"))

    def restore_group(self, group_id: str, cache: bool = True) -> NoReturn:
        raise NotImplementedError(NO_GROUPS.format("restore()"))

    def delete_group(self, group_id: str) -> NoReturn:
        raise NotImplementedError(NO_GROUPS.format("delete()"))

    # -- waiting ---------------------------------------------------------------------------------------------------

    @property
    def is_async(self) -> bool:
        """Results arrive by themselves."""
        return True

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
        """Yield `(task id, meta)` as the tasks end. Blocks up to *timeout* seconds."""
        missing = dict.fromkeys(task_ids)
        ids, inbox = list(missing), self.inbox
        came: SimpleQueue[tuple[str, Meta]] = SimpleQueue()
        deadline = None if timeout is None else time.monotonic() + timeout

        def tell(task_id: str, meta: Meta) -> None:
            came.put((task_id, meta))

        inbox.tell(ids, tell)
        try:
            while missing:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                pause = interval if on_interval is not None and (left is None or left > interval) else left
                try:
                    task_id, meta = came.get(timeout=pause)
                except Empty:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise TimeoutError(f"{len(missing)} of the results were not there after {timeout} s.") from None
                    if on_interval is not None:
                        on_interval()
                    continue
                meta = self.meta_from_decoded(meta)
                if on_message is not None:
                    on_message(meta)
                if meta["status"] in READY_STATES and task_id in missing:
                    del missing[task_id]
                    yield task_id, meta
        finally:
            inbox.untell(ids, tell)

    async def arrival(self, task_id: str, timeout: float | None = None) -> Meta:  # noqa: ASYNC109 - as in `get`
        """The meta of the task when it has ended, without blocking the event loop."""
        try:
            async for _, meta in self.each_arrival([task_id], timeout):
                return meta
        except TimeoutError:
            raise TimeoutError(f"No result of task {task_id} within {timeout} s.") from None
        raise AssertionError("each_arrival() yields or raises")

    async def each_arrival(
        self,
        task_ids: Sequence[str],
        timeout: float | None = None,  # noqa: ASYNC109 - as in `get`
    ) -> AsyncGenerator[tuple[str, Meta], None]:
        """`(task id, meta)` of each of the tasks as they end, without blocking the event loop."""
        aio = import_module("asyncio")  # not at the top: most programs that send tasks never need it
        loop: asyncio.AbstractEventLoop = aio.get_running_loop()
        came: asyncio.Queue[tuple[str, Meta]] = aio.Queue()
        missing = dict.fromkeys(task_ids)
        ids, inbox = list(missing), self.inbox
        deadline = None if timeout is None else loop.time() + timeout

        def tell(task_id: str, meta: Meta) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(came.put_nowait, (task_id, meta))

        inbox.tell(ids, tell)
        try:
            while missing:
                left = None if deadline is None else max(0.0, deadline - loop.time())
                try:
                    task_id, meta = await aio.wait_for(came.get(), left)
                except aio.TimeoutError:
                    raise TimeoutError(f"{len(missing)} of the results were not there after {timeout} s.") from None
                if meta["status"] in states.READY_STATES and task_id in missing:
                    del missing[task_id]
                    yield task_id, self.meta_from_decoded(meta)
        finally:
            inbox.untell(ids, tell)


def _reopen(app: Celery) -> Any:
    return app.backend


__all__ = ["MOST_KEPT", "BacklogLimitExceeded", "RPCBackend"]
