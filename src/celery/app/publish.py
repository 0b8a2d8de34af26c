"""Handing messages to the broker: retries under one deadline, bulk, outboxes, and without blocking an event loop."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celery.exceptions import BrokerError
from celery.wire.message import Outgoing

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

    from celery.app.base import Celery

T = TypeVar("T")

BATCH = 500
"""Messages a bulk hands to the broker in one step."""


class _Outbox:
    """Where the messages of one thread go while it is open, instead of to the broker."""

    __slots__ = ("messages", "open", "thread")

    def __init__(self, messages: list[Outgoing]) -> None:
        self.messages = messages
        self.thread = get_ident()
        self.open = True

    def take(self, messages: Sequence[Outgoing]) -> bool:
        """Whether it took *messages*: a coroutine or thread that was started in its block may outlive it."""
        if self.open and self.thread == get_ident():
            self.messages.extend(messages)
            return True
        return False


class Publisher:
    """Publishes for one app. Every thread may use it."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._outbox: ContextVar[_Outbox | None] = ContextVar("celery.outbox", default=None)
        self._waiting: deque[tuple[list[Outgoing], AbstractEventLoop, Future[None]]] = deque()
        self._flushing = False
        self._lock = threading.Lock()

    def publish(
        self,
        messages: Sequence[Outgoing],
        *,
        retry: bool | None = None,
        policy: Mapping[str, Any] | None = None,
        eventer: Any = None,
    ) -> None:
        """Hand *messages* to the broker, or to the outbox that is open here.

        Tries again as `task_publish_retry` and `task_publish_retry_policy` say, for `broker_publish_timeout` seconds
        in all; then raises kombu's `OperationalError`.  With `task_send_sent_event` events tell of what was sent, by
        *eventer* if a dispatcher is given.
        """
        outbox = self._outbox.get()
        if outbox is not None and outbox.take(messages):
            return
        began = time.monotonic()
        try:
            self.app.broker.publish(messages)
        except BrokerError as error:
            self._try_again(lambda: self.app.broker.publish(messages), error, began, retry=retry, policy=policy)
        settings = self.app._settings
        if settings is not None and settings.task_send_sent_event:
            self.app.events.announce(messages, eventer=eventer)

    def insist(self, call: Callable[[], T], *, retry: bool | None = None, policy: Mapping[str, Any] | None = None) -> T:
        """Make a call to the broker, and make it again as `publish` does; raises what that raises."""
        began = time.monotonic()
        try:
            return call()
        except BrokerError as error:
            return self._try_again(call, error, began, retry=retry, policy=policy)

    def _try_again(
        self,
        call: Callable[[], T],
        error: BrokerError,
        began: float,
        *,
        retry: bool | None,
        policy: Mapping[str, Any] | None,
    ) -> T:
        conf = self.app.conf
        if not (conf.task_publish_retry if retry is None else retry):
            raise _gave_up(error) from error
        rules = {**(conf.task_publish_retry_policy or {}), **(policy or {})}
        most = rules.get("max_retries", 3)
        pause = float(rules.get("interval_start") or 0)
        step = float(rules.get("interval_step") or 0)
        longest = float(rules.get("interval_max") or 0)
        deadline = began + float(conf.broker_publish_timeout)
        tries = 0
        while most is None or tries < most:
            tries += 1
            now = time.monotonic()
            # The next try may take as long as the last one: no try is begun that may end too late.
            if now + pause + (now - began) >= deadline:
                break
            time.sleep(pause)
            pause = min(pause + step, longest)
            began = time.monotonic()
            try:
                return call()
            except BrokerError as another:
                error = another
        raise _gave_up(error) from error

    @contextmanager
    def collect(self, into: list[Outgoing] | None = None) -> Iterator[list[Outgoing]]:
        """What this thread sends in the block goes into the list, and nowhere else."""
        outbox = _Outbox([] if into is None else into)
        token = self._outbox.set(outbox)
        try:
            yield outbox.messages
        finally:
            outbox.open = False
            self._outbox.reset(token)

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Send in batches, at the end of the block, what this thread sends in it; nothing if the block raises."""
        with self.collect() as messages:
            yield
        for start in range(0, len(messages), BATCH):
            self.publish(messages[start : start + BATCH])

    async def apublish(self, messages: Sequence[Outgoing]) -> None:
        """`publish` for coroutines: a broker that does I/O is called in another thread.

        What several coroutines send while that thread is busy goes to the broker in its next step, all at once.
        """
        outbox = self._outbox.get()
        if not messages or (outbox is not None and outbox.take(messages)):
            return
        can = self.app.broker.can
        if not can.shared and not can.durable:
            self.publish(messages)
            return
        loop = import_module("asyncio").get_running_loop()
        sent = loop.create_future()
        with self._lock:
            self._waiting.append((list(messages), loop, sent))
            start, self._flushing = not self._flushing, True
        if start:
            loop.run_in_executor(None, self._flush)
        await sent

    def _flush(self) -> None:
        """Publish what coroutines wait for until nothing is left."""
        while True:
            with self._lock:
                batch = list(self._waiting)
                self._waiting.clear()
                if not batch:
                    self._flushing = False
                    return
            error: Exception | None = None
            try:
                self.publish([message for messages, _, _ in batch for message in messages])
            except Exception as exc:  # noqa: BLE001 - it is raised where the messages came from
                error = exc
            for _, loop, sent in batch:
                loop.call_soon_threadsafe(_settle, sent, error)


def _settle(sent: Future[None], error: Exception | None) -> None:
    if sent.done():
        return
    if error is None:
        sent.set_result(None)
    else:
        sent.set_exception(error)


def _gave_up(error: BrokerError) -> Exception:
    """*error* as users catch it."""
    return cast("Exception", import_module("kombu.exceptions").OperationalError(str(error)))
