"""For result backends of users to which results are sent: a consumer takes them in, whoever waits is told.

The backends of this package do without: `celery.backends.results` waits at a store.  One of your own is a
`class Mine(AsyncBackendMixin, BaseBackend)` with `self.result_consumer = MyConsumer(self, …)`, where `MyConsumer` is a
`BaseResultConsumer` whose `drain_events` hands what came in to `on_state_change`.
"""

from __future__ import annotations

import builtins
import sys
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from celery import states
from celery.exceptions import TimeoutError  # noqa: A004 - the public name
from celery.utils.collections import BufferMap
from celery.utils.descriptors import is_green
from celery.utils.log import get_logger

logger = get_logger(__name__)

E_CELERY_RESTART_REQUIRED = "Results do not arrive any more, for what takes them in has failed: restart this program."
BUFFERED = 8192
"""Results that nobody has asked for yet which are kept, at most."""
EVERY = 1.0
"""Seconds after which whoever waits looks whether its time is over."""


class Ready:
    """What is waited for: `ready` says whether it is there."""

    def __init__(self, is_there: Callable[[], bool]) -> None:
        self._is_there = is_there

    @property
    def ready(self) -> bool:
        return self._is_there()


class Drainer:
    """Has the consumer take results in: in the thread that waits, while it waits."""

    def __init__(self, result_consumer: BaseResultConsumer) -> None:
        self.result_consumer = result_consumer

    def start(self) -> None:
        """Begin to take results in, if that is done beside those who wait."""

    def stop(self) -> None:
        """End it."""

    def drain_events_until(
        self,
        p: Any,
        timeout: float | None = None,
        interval: float = EVERY,
        on_interval: Callable[[], Any] | None = None,
        wait: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """Yield after each round until `p.ready`. Raises the builtin `TimeoutError` after *timeout* seconds."""
        wait = wait or self.result_consumer.drain_events
        deadline = None if timeout is None else time.monotonic() + timeout
        while not p.ready:
            left = interval if deadline is None else min(interval, deadline - time.monotonic())
            if left <= 0:
                raise builtins.TimeoutError
            with suppress(builtins.TimeoutError):
                yield self.wait_for(p, wait, timeout=left)
            if on_interval is not None:
                on_interval()

    def wait_for(self, p: Any, wait: Callable[..., Any], timeout: float | None = None) -> Any:
        return wait(timeout=timeout)


class greenletDrainer(Drainer):  # noqa: N801 - the public name
    """Has one greenlet take results in, for all that wait."""

    def __init__(self, result_consumer: BaseResultConsumer) -> None:
        super().__init__(result_consumer)
        self._changed = threading.Condition()
        self._handle: Any = None
        self._stopped = False
        self._failure: BaseException | None = None

    @abstractmethod
    def spawn(self, func: Callable[[], Any]) -> Any:
        """Run *func* in a greenlet of its own."""

    def start(self) -> None:
        if self._handle is None:
            self._stopped = False
            self._handle = self.spawn(self.run)

    def stop(self) -> None:
        self._stopped, self._handle = True, None

    def run(self) -> None:
        """The life of that greenlet."""
        while not self._stopped:
            try:
                self.result_consumer.drain_events(timeout=EVERY)
            except builtins.TimeoutError:
                continue
            except Exception as error:
                logger.exception("Results cannot be taken in")
                self._failure = error
            with self._changed:
                self._changed.notify_all()
            if self._failure is not None:
                return

    def wait_for(self, p: Any, wait: Callable[..., Any], timeout: float | None = None) -> None:
        self.start()
        with self._changed:
            if self._failure is None and not p.ready:
                self._changed.wait(timeout)
        if self._failure is not None:
            raise RuntimeError(E_CELERY_RESTART_REQUIRED) from self._failure


drainers: dict[str, type[Drainer]] = {"default": Drainer}
"""By what waits in this process: `default`, `gevent`, `eventlet`."""


def register_drainer(name: str) -> Callable[[type[Drainer]], type[Drainer]]:
    """A class decorator: where *name* has taken over waiting, this class is used."""

    def add(cls: type[Drainer]) -> type[Drainer]:
        drainers[name] = cls
        return cls

    return add


@register_drainer("gevent")
class geventDrainer(greenletDrainer):  # noqa: N801 - the public name
    """By gevent."""

    def spawn(self, func: Callable[[], Any]) -> Any:
        return import_module("gevent").spawn(func)


@register_drainer("eventlet")
class eventletDrainer(greenletDrainer):  # noqa: N801 - the public name
    """By eventlet."""

    def spawn(self, func: Callable[[], Any]) -> Any:
        return import_module("eventlet").spawn(func)


EventletAdaptedEvent = threading.Event
"""eventlet takes over the events of threads: they are its own then."""


class BaseResultConsumer:
    """Takes in the results of *backend* and gives them to those who wait."""

    def __init__(self, backend: Any, app: Any, accept: Any, pending_results: Any, pending_messages: Any) -> None:
        self.backend = backend
        self.app = app
        self.accept = accept
        self._pending_results = pending_results
        self._pending_messages = pending_messages
        self.on_message: Callable[[Any], Any] | None = None
        self.buckets: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        environment = "default"
        if is_green():
            environment = "gevent" if "gevent.monkey" in sys.modules else "eventlet"
        self.drainer = drainers[environment](self)

    @abstractmethod
    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Open what results come over, for this task to begin with."""

    def stop(self) -> None:
        """Close it."""

    @abstractmethod
    def drain_events(self, timeout: float | None = None) -> Any:
        """Take in what is there, or comes within *timeout* seconds; else raise the builtin `TimeoutError`."""

    @abstractmethod
    def consume_from(self, task_id: str) -> None:
        """The result of this task is waited for."""

    @abstractmethod
    def cancel_for(self, task_id: str) -> None:
        """The result of this task is not waited for any more."""

    def on_after_fork(self) -> None:
        """This process is a child: what waited in its parent waits there."""
        self.buckets.clear()
        self.buckets = WeakKeyDictionary()
        self.on_message = None

    def on_wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Somebody begins to wait for *result*."""

    def on_out_of_band_result(self, message: Any) -> None:
        """A message with a result has come by another way."""
        self.on_state_change(message.payload, message)

    def on_state_change(self, meta: Any, message: Any) -> None:
        """*meta* has come: if it ends a task, whoever waits for that has it now; else it is kept."""
        if self.on_message is not None:
            self.on_message(meta)
        if meta["status"] not in states.READY_STATES:
            return
        task_id, pending = meta["task_id"], self._pending_results
        with pending.lock:
            result = pending.concrete.get(task_id) or pending.weak.get(task_id)
            if result is None:
                self._pending_messages.put(task_id, meta)
                return
        result._maybe_set_cache(meta)
        bucket = self.buckets.pop(result, None)
        if bucket is not None:
            bucket.append(result)

    def drain_events_until(
        self, p: Any, timeout: float | None = None, on_interval: Callable[[], Any] | None = None
    ) -> Iterator[Any]:
        return self.drainer.drain_events_until(p, timeout=timeout, on_interval=on_interval, wait=self.drain_events)

    def _wait(self, p: Any, on_message: Any = None, **options: Any) -> None:
        before, self.on_message = self.on_message, on_message
        try:
            for _ in self.drain_events_until(p, **options):
                continue
        except builtins.TimeoutError:
            raise TimeoutError("The operation timed out.") from None
        finally:
            self.on_message = before


class Pending:
    """Results that are waited for, by id: those that are kept, and those that somebody else keeps."""

    def __init__(self) -> None:
        self.concrete: dict[str, Any] = {}
        self.weak: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self.lock = threading.Lock()
        """Held by who looks for a result here and keeps it elsewhere if it is not: no other thread comes between."""


class AsyncBackendMixin:
    """What a backend with a `result_consumer` does for those who wait."""

    result_consumer: BaseResultConsumer

    @cached_property
    def _pending_results(self) -> Pending:
        return Pending()

    @cached_property
    def _pending_messages(self) -> BufferMap:
        return BufferMap(BUFFERED)

    @property
    def is_async(self) -> bool:
        """Results arrive by themselves."""
        return True

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:
        """*result* is waited for from now on; *weak*: as long as somebody keeps it."""
        if start_drainer:
            self.result_consumer.drainer.start()
        known = self._pending_results
        with known.lock:
            kept = self._pending_messages.take(result.id, None)
            new = result.id not in known.concrete and result.id not in known.weak
            if new:
                (known.weak if weak else known.concrete)[result.id] = result
        if kept is not None:
            result._maybe_set_cache(kept)
        if new:
            self.result_consumer.consume_from(result.id)
        return result

    def add_pending_results(self, results: Iterable[Any], weak: bool = False) -> list[Any]:
        """All of these are waited for."""
        self.result_consumer.drainer.start()
        return [self.add_pending_result(result, weak=weak, start_drainer=False) for result in results]

    def remove_pending_result(self, result: Any) -> Any:
        """*result* is not waited for any more."""
        self._pending_results.concrete.pop(result.id, None)
        self._pending_results.weak.pop(result.id, None)
        self.on_result_fulfilled(result)
        return result

    def on_result_fulfilled(self, result: Any) -> None:
        self.result_consumer.cancel_for(result.id)

    def wait_for_pending(
        self,
        result: Any,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Any:
        """Block until *result* is there, and give its value or raise its exception."""
        self.add_pending_result(result)
        consumer = self.result_consumer
        consumer.on_wait_for_pending(result, timeout=timeout)
        there = Ready(lambda: result._cache is not None)
        consumer._wait(there, on_message, timeout=timeout, on_interval=on_interval)
        self.remove_pending_result(result)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def iter_native(
        self,
        result: Any,
        no_ack: bool = True,
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield `(task id, meta)` of every result of the set as it is there."""
        deadline = None if timeout is None else time.monotonic() + timeout
        bucket: deque[Any] = deque()
        missing = list(dict.fromkeys(result.results))
        for node in missing:
            self.result_consumer.buckets[node] = bucket  # before its result may come, by another thread
            self.add_pending_result(node)
            if node._cache is not None and self.result_consumer.buckets.pop(node, None) is not None:
                bucket.append(node)
        there = Ready(lambda: bool(bucket))
        for _ in range(len(missing)):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self.result_consumer._wait(there, on_message, timeout=left, on_interval=on_interval)
            node = bucket.popleft()
            self.remove_pending_result(node)
            yield node.id, node._cache


__all__ = [
    "E_CELERY_RESTART_REQUIRED",
    "AsyncBackendMixin",
    "BaseResultConsumer",
    "Drainer",
    "EventletAdaptedEvent",
    "drainers",
    "eventletDrainer",
    "geventDrainer",
    "greenletDrainer",
    "register_drainer",
]
