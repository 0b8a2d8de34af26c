"""What `then` of a result registers: functions to call once, when it is known how it ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

Function = Callable[[Any], Any]


class Callbacks:
    """Pairs of functions, each of which is called at most once: one of a pair, with what it is given here."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], Function | None], Callable[[], Function | None]]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, callback: Function, on_error: Function | None = None, weak: bool = False) -> None:
        """Call *callback* after a success, *on_error* after a failure; *weak*: only while somebody else holds them."""
        self._waiting.append((_hold(callback, weak), _hold(on_error, weak)))

    def succeeded(self, value: Any) -> None:
        """It has succeeded."""
        waiting, self._waiting = self._waiting, []
        for callback, _ in waiting:
            _call(callback(), value)

    def failed(self, error: BaseException) -> None:
        """It has failed with *error*."""
        waiting, self._waiting = self._waiting, []
        for _, on_error in waiting:
            _call(on_error(), error)


def _hold(function: Function | None, weak: bool) -> Callable[[], Function | None]:
    if function is None or not weak:
        return lambda: function
    if isinstance(function, MethodType):
        return weakref.WeakMethod(function)
    return weakref.ref(function)


def _call(function: Function | None, value: Any) -> None:
    if function is not None:
        function(value)


__all__ = ["Callbacks"]
