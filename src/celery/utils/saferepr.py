"""A `repr` for values of others: never raises, never endless, never much longer than asked for."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from numbers import Number
from typing import Any

chars_t = (bytes, str)
safe_t = (Number,)
set_t = (frozenset, set)

_ATOMS = frozenset({int, float, bool, type(None), str})
_FAST_ITEMS = 32
_FAST_INNER = 8
_FAST_LEVELS = 2
_DEFAULT = 1 << 20
_LARGE, _DIGITS = 10**18, 20


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: set[int] | None = None) -> str:
    """Text for *o* in about *maxlen* characters, cut text marked by `...`.

    Containers are opened *maxlevels* deep; one that contains itself, and an object whose `__repr__` raises, are named
    instead. Small plain arguments, the usual case, cost one call of the interpreter's own `repr`.
    """
    limit = maxlen or _DEFAULT
    kind = type(o)
    if o is None or kind is bool or kind is float or (kind is str and len(o) <= limit):
        atom = repr(o)
        if kind is str or len(atom) <= limit:
            return atom
    elif kind is int and -_LARGE < o < _LARGE and limit >= _DIGITS:
        return repr(o)
    elif (kind is tuple or kind is list or kind is dict) and len(o) <= _FAST_ITEMS and not seen:
        if not o:
            return repr(o)
        text = _repr_small(o, kind, limit, maxlevels)
        if text is not None:
            return text
    writer = _Writer(limit, maxlevels, set(seen or ()))
    writer.write(o, 0)
    return "".join(writer.parts)


def _repr_small(o: Any, kind: type, limit: int, maxlevels: int) -> str | None:
    """What `repr` says of a container with little in it; None where that could be long, or is not ours to call."""
    levels = min(maxlevels, _FAST_LEVELS)
    try:
        if not _is_small(o, limit, levels) or (kind is dict and not _is_small(o.values(), limit, levels)):
            return None
        text = repr(o)
    except (RuntimeError, ValueError):  # changed by another thread; an int of more digits than the interpreter writes
        return None
    return text if len(text) <= limit else None


def _is_small(items: Any, limit: int, levels: int) -> bool:
    """Whether *items* are atoms, or containers of few atoms, not deeper than *levels*."""
    for item in items:
        kind = type(item)
        if kind is str:
            if len(item) > limit:
                return False
        elif kind not in _ATOMS:
            if not (kind is list or kind is dict or kind is tuple) or not levels or len(item) > _FAST_INNER:
                return False
            if not _is_small(item, limit, levels - 1):
                return False
            if kind is dict and not _is_small(item.values(), limit, levels - 1):
                return False
    return True


class _Writer:
    """Collects parts until the budget is spent; from then on every level closes with `...`."""

    def __init__(self, limit: int, maxlevels: int, seen: set[int]) -> None:
        self.left = limit
        self.maxlevels = maxlevels
        self.open = seen
        self.parts: list[str] = []

    def put(self, text: str) -> None:
        self.parts.append(text)
        self.left -= len(text)

    def write(self, o: Any, level: int) -> None:
        if isinstance(o, dict):
            self.write_container(o, "{", "}", self.pairs(o, level), level)
        elif isinstance(o, list):
            self.write_container(o, "[", "]", self.items(o, level), level)
        elif isinstance(o, tuple):
            self.write_container(o, "(", ",)" if len(o) == 1 else ")", self.items(o, level), level)
        elif isinstance(o, set | frozenset):
            if not o:
                self.put(f"{type(o).__name__}()")
                return
            frozen = isinstance(o, frozenset)
            self.write_container(
                o, "frozenset({" if frozen else "{", "})" if frozen else "}", self.items(o, level), level
            )
        elif isinstance(o, str | bytes):
            self.write_text(o)
        else:
            self.put_cut(_repr_atom(o))

    def write_text(self, o: str | bytes) -> None:
        if len(o) <= max(self.left, 0):
            self.put(repr(o))
        else:
            text = repr(o[: max(self.left, 0)])
            self.put(f"{text[:-1]}...{text[-1]}")

    def put_cut(self, text: str) -> None:
        self.put(text if len(text) <= max(self.left, 0) else f"{text[: max(self.left, 0)]}...")

    def items(self, o: Any, level: int) -> Iterator[Callable[[], None]]:
        for item in o:
            yield lambda item=item: self.write(item, level + 1)  # type: ignore[misc]

    def pairs(self, o: Mapping[Any, Any], level: int) -> Iterator[Callable[[], None]]:
        for key, value in o.items():

            def write_pair(key: Any = key, value: Any = value) -> None:
                self.write(key, level + 1)
                self.put(": ")
                self.write(value, level + 1)

            yield write_pair

    def write_container(self, o: Any, start: str, end: str, contents: Iterator[Callable[[], None]], level: int) -> None:
        if id(o) in self.open:
            self.put(f"<Recursion on {type(o).__name__} with id={id(o)}>")
            return
        if o and level > self.maxlevels:
            self.put(f"{start}...{end.lstrip(',')}")
            return
        self.open.add(id(o))
        self.put(start)
        try:
            for index, write_one in enumerate(contents):
                if index:
                    self.put(", ")
                if self.left <= 0:
                    self.put("...")
                    break
                write_one()
        except RuntimeError as exc:  # another thread changes it while we look
            self.put(f"<{exc}>")
        self.open.discard(id(o))
        self.put(end)


def _repr_atom(o: Any) -> str:
    try:
        return repr(o)
    except Exception as exc:  # noqa: BLE001 - whatever a foreign __repr__ raises, we are asked for text
        where = traceback.extract_tb(exc.__traceback__)[-1]
        return f"<Unrepresentable {type(o)!r}: {type(exc).__name__} at {where.name}:{where.lineno}>"


def reprstream(stack: Any, seen: set[int] | None = None, maxlevels: int = 3, level: int = 0) -> Iterator[str]:
    """The text of each of several values."""
    for value in stack:
        yield saferepr(value, maxlevels=maxlevels - level, seen=seen)


__all__ = ["reprstream", "saferepr"]
