"""Threads and what belongs to one of them."""

from __future__ import annotations

import contextvars
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import TIMEOUT_MAX, get_ident
from typing import Any, Generic, TypeVar

T = TypeVar("T")

THREAD_TIMEOUT_MAX = TIMEOUT_MAX
wakers: dict[int, Callable[[], object]] = {}
"""What wakes a thread, by its number, that waits outside of Python: kept by whoever waits so that it can be woken."""
USE_FAST_LOCALS = True


class bgThread(threading.Thread):  # noqa: N801 - the public name
    """A daemon thread that calls `body` until `stop`. A crash in `body` is reported and ends the process."""

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or type(self).__name__, daemon=True, **kwargs)
        self._shutdown = threading.Event()
        self._ended = threading.Event()

    def body(self) -> None:
        """One turn of the thread's work; called again and again."""

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Say that `body` raised."""
        sys.stderr.write(msg.format(*fmt) + "\n")
        traceback.print_exc(file=sys.stderr)

    def run(self) -> None:
        try:
            while not self._shutdown.is_set():
                try:
                    self.body()
                except BaseException as exc:  # whatever it is, a service thread that ends silently is worse
                    self.on_crash("{0!r} crashed: {1!r}", self.name, exc)
                    raise
        finally:
            self._ended.set()

    def stop(self) -> None:
        """Ask the thread to end and wait for it. Returns at once if it was never started."""
        self._shutdown.set()
        if self.ident is not None and self is not threading.current_thread():
            self._ended.wait()
            self.join()


class Local:
    """Attributes that every context (thread, greenlet, asyncio task) has for itself."""

    __slots__ = ("_storage",)

    def __init__(self) -> None:
        object.__setattr__(self, "_storage", contextvars.ContextVar("celery.Local"))

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = self._storage.get({})
        return values

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._values().items())

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._storage.set({**self._values(), name: value})

    def __delattr__(self, name: str) -> None:
        values = dict(self._values())
        try:
            del values[name]
        except KeyError:
            raise AttributeError(name) from None
        self._storage.set(values)

    def __release_local__(self) -> None:
        self._storage.set({})


class LocalStack(Generic[T]):
    """A stack that every context (thread, greenlet, asyncio task) has for itself.

    Built on a context variable: an asyncio task sees what was on the stack where it was made and changes only its own.
    """

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: contextvars.ContextVar[tuple[T, ...]] = contextvars.ContextVar("celery.LocalStack", default=())

    def push(self, obj: T) -> list[T]:
        """Put *obj* on top; the whole stack."""
        items = (*self._items.get(), obj)
        self._items.set(items)
        return list(items)

    def pop(self) -> T | None:
        """Take off the top; None if there is nothing."""
        items = self._items.get()
        if not items:
            return None
        self._items.set(items[:-1])
        return items[-1]

    def __len__(self) -> int:
        return len(self._items.get())

    @property
    def stack(self) -> list[T]:
        return list(self._items.get())

    @property
    def top(self) -> T | None:
        items = self._items.get()
        return items[-1] if items else None

    def __release_local__(self) -> None:
        self._items.set(())


_LocalStack = LocalStack
_FastLocalStack = LocalStack


def takes_signals() -> bool:
    """Whether signals can be handled from here: by the main thread of the system, in whatever greenlet."""
    try:
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    except (ValueError, TypeError):  # another thread; a handler that nobody set from Python
        return threading.current_thread() is threading.main_thread()
    return True


@contextmanager
def woken_by(waker: Callable[[], object]) -> Iterator[None]:
    """In this block, *waker* wakes this thread. It may be called by any thread, also a little later."""
    ident = get_ident()
    before = wakers.get(ident)
    wakers[ident] = waker
    try:
        yield
    finally:
        if before is None:
            del wakers[ident]
        else:
            wakers[ident] = before


def release_local(local: Any) -> None:
    """Empty a `Local` or `LocalStack` in this context."""
    local.__release_local__()


class LocalManager:
    """Several locals that are released together."""

    def __init__(self, locals: Iterable[Any] | Any = None, ident_func: Callable[[], Any] | None = None) -> None:
        if locals is None:
            self.locals = []
        elif isinstance(locals, Local | LocalStack):
            self.locals = [locals]
        else:
            self.locals = list(locals)
        self.ident_func = ident_func or get_ident

    def get_ident(self) -> Any:
        return self.ident_func()

    def cleanup(self) -> None:
        """Release all of them in this context."""
        for local in self.locals:
            release_local(local)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} storages: {len(self.locals)}>"


@contextmanager
def default_socket_timeout(timeout: float | None) -> Iterator[None]:
    """The default timeout of new sockets, for a while and for the whole process."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


@contextmanager
def bound_open_broker_sockets(connection: Any, timeout: float) -> Iterator[None]:
    """A timeout on the socket of a kombu connection, for a while; nothing where it has none to set."""
    sock = getattr(getattr(connection, "transport", None), "sock", None) or getattr(connection, "sock", None)
    setter = getattr(sock, "settimeout", None)
    if sock is None or setter is None:
        yield
        return
    previous = sock.gettimeout()
    setter(timeout)
    try:
        yield
    finally:
        setter(previous)


__all__ = [
    "THREAD_TIMEOUT_MAX",
    "USE_FAST_LOCALS",
    "Local",
    "LocalManager",
    "LocalStack",
    "bgThread",
    "bound_open_broker_sockets",
    "default_socket_timeout",
    "get_ident",
    "release_local",
]
