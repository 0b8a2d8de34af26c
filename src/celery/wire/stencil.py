"""Envelopes with holes: what is the same in many messages is encoded once, what is not is put in.

A stencil is cut from a message that `encode_envelope` wrote, so that a filled one has the same bytes as a message that
was written as a whole.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from typing import Any

from celery.utils.saferepr import saferepr
from celery.wire.protocol import EMBED, MAX_REPR, Message, encode_envelope, encode_plain, is_plain
from celery.wire.serialization import encode_json

NULL = b"null"

_BODY = b"a body in a hole"
_HOLE = re.compile(rb'"<hole: (\w+)>"')
_NO_EMBED = b",".join(b'"%b":null' % key.encode() for key in EMBED)
TAIL = b",{%b}]" % _NO_EMBED
_PLAIN_ORDER = (
    "body", "id", "root_id", "argsrepr", "kwargsrepr", "correlation_id", "reply_to", "delivery_tag",
)  # fmt: skip
_QUOTED = frozenset({"body", "id", "root_id", "correlation_id", "reply_to", "delivery_tag"})
"""Holes of the usual messages whose values need no care, so that the quotation marks belong to what is around them."""


def tail_with(chord: Any = None, chain: Any = None) -> bytes:
    """What stands behind the arguments in the body of a message that leads to *chord* or *chain* and calls nothing."""
    if chord is None and chain is None:
        return TAIL
    return b",%b]" % encode_json({**dict.fromkeys(EMBED), "chain": chain, "chord": chord})


def hole(name: str) -> str:
    """What stands in a message in the place of a value that is to be put in later."""
    return f"<hole: {name}>"


def _is_plain(message: Message) -> bool:
    """Whether the fast writer wrote it. With one value that it does not take the other writes all, and escapes more."""
    parts = message.headers, message.properties
    try:
        return all(is_plain(part) and encode_plain(part) for part in parts)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False


class Stencil:
    """The envelope of a message in which values of headers and properties are holes, and the body is one."""

    __slots__ = ("_around", "_encode", "_pieces", "names")

    def __init__(self, message: Message) -> None:
        message.body = _BODY
        message.properties["body_encoding"] = "base64"
        message.properties["delivery_tag"] = hole("delivery_tag")
        written = encode_envelope(message).replace(b2a_base64(_BODY, newline=False), hole("body").encode())
        self._encode: Callable[[Any], bytes] = encode_plain if _is_plain(message) else encode_json
        self._pieces = _HOLE.split(written)
        self.names = tuple(name.decode() for name in self._pieces[1::2])
        """The holes, in the order in which they stand in the message."""
        self._around = self._around_plain()

    def _around_plain(self) -> tuple[bytes, ...]:
        """What stands around the holes of `fill_plain`, where the other holes have null."""
        around = [self._pieces[0]]
        for name, after in zip(self.names, self._pieces[2::2], strict=True):
            if name not in _PLAIN_ORDER:
                around[-1] += NULL + after
            elif name in _QUOTED:
                around[-1] += b'"'
                around.append(b'"' + after)
            else:
                around.append(after)
        return tuple(around)

    def fits(self, *more: str) -> bool:
        """Whether it has the holes that `fill_plain` fills, and *more*: each once and no others."""
        return sorted(self.names) == sorted((*_PLAIN_ORDER, *more)) and self._is_in_order()

    def _is_in_order(self) -> bool:
        return tuple(name for name in self.names if name in _PLAIN_ORDER) == _PLAIN_ORDER

    def fill_plain(self, body: bytes, id: bytes, argsrepr: bytes, kwargsrepr: bytes, reply: bytes, tag: bytes) -> bytes:
        """The message of a task that begins a tree of its own and has neither times nor a group.

        *argsrepr* and *kwargsrepr* are JSON, the others text that needs no escapes.
        """
        a, b, c, d, e, f, g, h, i = self._around
        return b"".join((
            a, b2a_base64(body, newline=False), b, id, c, id, d, argsrepr, e, kwargsrepr, f, id, g, reply, h, tag, i,
        ))  # fmt: skip

    def fill(self, body: bytes, argsrepr: bytes, kwargsrepr: bytes, values: Mapping[str, Any]) -> bytes:
        """The message with these *values* for the other holes. Raises what JSON raises."""
        encode, pieces = self._encode, self._pieces.copy()
        known = {
            "body": b'"%b"' % b2a_base64(body, newline=False), "argsrepr": argsrepr, "kwargsrepr": kwargsrepr,
        }  # fmt: skip
        pieces[1::2] = [known[name] if name in known else encode(values[name]) for name in self.names]
        return b"".join(pieces)

    def narrowed(self, values: Mapping[str, Any]) -> Stencil:
        """A stencil in which the holes that *values* names are filled. Raises what JSON raises."""
        pieces = [self._pieces[0]]
        for name, after in zip(self.names, self._pieces[2::2], strict=True):
            if name in values:
                pieces[-1] += self._encode(values[name]) + after
            else:
                pieces += name.encode(), after
        made = object.__new__(Stencil)
        made._encode, made._pieces, made._around = self._encode, pieces, ()
        made.names = tuple(name.decode() for name in pieces[1::2])
        return made

    def fill_encoded(self, body: bytes, values: dict[str, bytes]) -> bytes:
        """The message with these *values*, which are JSON already, and *body*, which is not."""
        values["body"] = b'"%b"' % b2a_base64(body, newline=False)
        pieces = self._pieces.copy()
        pieces[1::2] = [values[name] for name in self.names]
        return b"".join(pieces)

    def pack(self, args: Any, kwargs: dict[str, Any], tail: bytes = TAIL) -> tuple[bytes, bytes, bytes]:
        """(body, argsrepr, kwargsrepr) in JSON, of arguments with *tail* behind them. Raises what JSON raises."""
        if _are_simple(args, kwargs):
            try:
                if not kwargs:
                    body, shown, others = b"[%b,{}%b" % (encode_plain(args), tail), repr(args), "{}"
                else:
                    body, shown, others = encode_plain((args, kwargs))[:-1] + tail, repr(args), repr(kwargs)
            except OverflowError:  # a number of more than 64 bits: the slower writer takes it
                shown = others = ""
            if shown and len(shown) <= MAX_REPR and len(others) <= MAX_REPR:
                return body, encode_plain(shown), encode_plain(others)
        return encode_json((args, kwargs))[:-1] + tail, *self.show(args, kwargs)

    def show(self, args: Any, kwargs: dict[str, Any]) -> tuple[bytes, bytes]:
        """(argsrepr, kwargsrepr) in JSON."""
        return self._encode(saferepr(args, MAX_REPR)), self._encode(saferepr(kwargs, MAX_REPR))


def _are_simple(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether both JSON writers have the same text for them, and `repr` has one that is not too long to be made."""
    for item in args:
        kind = type(item)
        if kind is str:
            if len(item) > MAX_REPR or not item.isascii() or not item.isprintable():
                return False
        elif kind is not int and item is not None and kind is not bool:
            return False
    for key, item in kwargs.items():
        kind = type(item)
        if type(key) is not str or not key.isascii() or not key.isprintable():
            return False
        if kind is str:
            if len(item) > MAX_REPR or not item.isascii() or not item.isprintable():
                return False
        elif kind is not int and item is not None and kind is not bool:
            return False
    return True
