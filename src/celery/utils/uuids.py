"""Random identifiers, made cheaply."""

from __future__ import annotations

import os
from collections.abc import Callable

_BLOCK = 128
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_ready: list[str] = []


def _refill() -> list[str]:
    """One system call for many identifiers; the layout is RFC 9562's version 4."""
    digits, variant = os.urandom(16 * _BLOCK).hex(), _VARIANT
    return [
        f"{digits[i : i + 8]}-{digits[i + 8 : i + 12]}-4{digits[i + 13 : i + 16]}"
        f"-{variant[digits[i + 16]]}{digits[i + 17 : i + 20]}-{digits[i + 20 : i + 32]}"
        for i in range(0, 32 * _BLOCK, 32)
    ]


def uuid(_make: Callable[[], object] | None = None) -> str:
    """A random UUID (version 4) as text. Any thread; a forked child never repeats its parent's."""
    if _make is not None:
        return str(_make())
    while True:
        try:
            return _ready.pop()  # one step under the interpreter's lock: no two threads get the same
        except IndexError:
            _ready.extend(_refill())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ready.clear)

__all__ = ["uuid"]
