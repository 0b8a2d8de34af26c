"""Identifiers, made cheaply: random ones, and ones that say when they were made."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import time_ns

_BLOCK = 256
_WIDTH = 37  # an identifier and the line break behind it
_FORM = b"00000000-0000-4000-8000-000000000000\n" * _BLOCK
_PLACES = [place for place in range(36) if place not in {8, 13, 18, 23}]
_VERSION, _VARIANT = 12, 16
"""Which of the 32 digits say the version and the variant (RFC 9562, version 4)."""
_VARIANTS = bytes.maketrans(b"0123456789abcdef", b"89ab" * 4)
_ready: list[str] = []
_stamp = (0, "")


def _refill() -> list[str]:
    """One system call for many identifiers, which are written column by column."""
    digits, form = os.urandom(16 * _BLOCK).hex().encode(), bytearray(_FORM)
    for digit, place in enumerate(_PLACES):
        if digit != _VERSION:
            column = digits[digit::32]
            form[place::_WIDTH] = column.translate(_VARIANTS) if digit == _VARIANT else column
    return form.decode().split()


def uuid(_make: Callable[[], object] | None = None) -> str:
    """A random UUID (version 4) as text. Any thread; a forked child never repeats its parent's."""
    if _make is not None:
        return str(_make())
    while True:
        try:
            return _ready.pop()  # one step under the interpreter's lock: no two threads get the same
        except IndexError:
            _ready.extend(_refill())


def uuid7() -> str:
    """A UUID of version 7 as text: the first 48 bits are Unix milliseconds, the rest is random. As `uuid` otherwise."""
    global _stamp
    now, stamp = time_ns() // 1_000_000, _stamp
    if stamp[0] != now:
        digits = f"{now:012x}"
        stamp = _stamp = now, f"{digits[:8]}-{digits[8:]}-7"
    try:
        return stamp[1] + _ready.pop()[15:]
    except IndexError:
        return stamp[1] + uuid()[15:]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ready.clear)

__all__ = ["uuid", "uuid7"]
