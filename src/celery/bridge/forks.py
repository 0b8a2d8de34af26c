"""Forks between transactions: what SQLite had locked in a process when it forked is locked in the child for good.

Whoever works on such a database does so inside of a `Still`; a fork waits until nobody does.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType


class Still:
    """A context in which this process does not fork, except in the thread that is in it. Reentrant."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()


class _Held(threading.local):
    """What the thread that forks holds."""

    def __init__(self) -> None:
        self.stills: list[Still] = []


_all: weakref.WeakSet[Still] = weakref.WeakSet()
_held = _Held()


def _hold() -> None:
    _held.stills = sorted(_all, key=id)  # two threads that fork take them in one order
    for still in _held.stills:
        still.__enter__()


def _let_go() -> None:
    for still in _held.stills:
        still.__exit__(None, None, None)
    _held.stills = []


os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)

__all__ = ["Still"]
