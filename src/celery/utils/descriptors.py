"""Reading, writing and watching descriptors, in the same way where gevent or eventlet has taken over the process.

There, whoever waits must wait in their loop, so that other greenlets run: `Poll` and `Gathering` do.  Reading and
writing must not: our descriptors do not block, and eventlet would wait where `BlockingIOError` is expected.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from types import BuiltinFunctionType
from typing import Any, Protocol, cast

try:
    # eventlet replaces the functions of `os`, and leaves the module alone that they come from.
    from posix import read, write
except ImportError:  # pragma: no cover - not a POSIX system
    from os import read, write

POLLIN, POLLOUT = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)


class HasFileno(Protocol):
    """A file, a socket, a bell."""

    def fileno(self) -> int: ...


class Poll(Protocol):
    """What `select.poll` makes. Milliseconds; None waits for ever."""

    def register(self, fd: int | HasFileno, eventmask: int = ..., /) -> Any: ...

    def unregister(self, fd: int | HasFileno, /) -> Any: ...

    def poll(self, timeout: float | None = ..., /) -> list[tuple[int, int]]: ...


def is_green() -> bool:
    """Whether gevent or eventlet has taken over waiting in this process: who never waits keeps all others from it."""
    return not isinstance(getattr(select, "poll", None), BuiltinFunctionType)


def poll() -> Poll:
    """An object like that of `select.poll`, which lets other greenlets run while it waits."""
    make: Callable[[], Poll] | None = getattr(select, "poll", None)
    # eventlet takes poll out of the module, and puts a select there that can do it.
    return SelectPoll() if make is None else make()


class SelectPoll:
    """A `Poll` made of `select.select`, or of another one like it."""

    def __init__(self, select: Callable[..., Any] | None = None) -> None:
        self._select = select
        self._masks: dict[int, int] = {}

    def register(self, fd: int | HasFileno, eventmask: int = POLLIN | POLLOUT, /) -> None:
        self._masks[_number(fd)] = eventmask

    def unregister(self, fd: int | HasFileno, /) -> None:
        del self._masks[_number(fd)]

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        reading = [fd for fd, mask in self._masks.items() if mask & POLLIN]
        writing = [fd for fd, mask in self._masks.items() if mask & POLLOUT]
        seconds = None if timeout is None or timeout < 0 else timeout / 1000.0
        readable, writable, _ = (self._select or select.select)(reading, writing, [], seconds)
        found = dict.fromkeys(readable, POLLIN)
        for fd in writable:
            found[fd] = found.get(fd, 0) | POLLOUT
        return list(found.items())


def _number(fd: int | HasFileno) -> int:
    return fd if isinstance(fd, int) else fd.fileno()


class Gathering:
    """Several descriptors as one, which is readable when one of them is."""

    def __init__(self, *descriptors: int) -> None:
        module = native_select()
        self._linux = sys.platform == "linux"
        self._select = module
        self._events: Any = module.epoll() if self._linux else module.kqueue()
        self._poll: Poll | None = None
        if is_green():
            self._poll = poll()
            self._poll.register(self._events.fileno(), POLLIN)
        for descriptor in descriptors:
            self.add(descriptor)

    def add(self, descriptor: int) -> None:
        """Watch one more."""
        self._change(descriptor, adding=True)

    def remove(self, descriptor: int) -> None:
        """Watch it no longer, should it still be open."""
        with suppress(OSError):
            self._change(descriptor, adding=False)

    def _change(self, descriptor: int, *, adding: bool) -> None:
        if self._linux:
            if adding:
                self._events.register(descriptor, self._select.EPOLLIN)
            else:
                self._events.unregister(descriptor)
            return
        action = self._select.KQ_EV_ADD if adding else self._select.KQ_EV_DELETE
        self._events.control([self._select.kevent(descriptor, self._select.KQ_FILTER_READ, action)], 0)

    def fileno(self) -> int:
        return int(self._events.fileno())

    def wait(self, timeout: float | None) -> bool:
        """Sleep until one is readable (True), at most *timeout* seconds."""
        if timeout is not None:
            timeout = max(0.0, timeout)
        if self._poll is not None:
            return bool(self._poll.poll(None if timeout is None else timeout * 1000.0))
        if self._linux:
            return bool(self._events.poll(timeout, 1))
        return bool(self._events.control(None, 1, timeout))

    def close(self) -> None:
        """Free what it took. The descriptors stay open."""
        self._events.close()


def native_select() -> Any:
    """The module `select` as it is without gevent and eventlet, which take `epoll` and `kqueue` out of it."""
    if not is_green():
        return select
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("select"):
        return _Saved(gevent.get_original)
    return cast("Any", sys.modules["eventlet.patcher"]).original("select")


class _Saved:
    """The module `select` out of what gevent keeps of it."""

    def __init__(self, original: Callable[[str, str], Any]) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return self._original("select", name)


def pipe() -> tuple[int, int]:
    """The reading and the writing end of a pipe, neither of which blocks."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


__all__ = [
    "POLLIN",
    "POLLOUT",
    "Gathering",
    "Poll",
    "SelectPoll",
    "is_green",
    "native_select",
    "pipe",
    "poll",
    "read",
    "write",
]
