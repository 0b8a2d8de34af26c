"""Frames of AMQP 0-9-1: methods, content headers and bodies, written and read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from struct import Struct
from typing import Any, TypeVar

import msgspec

from celery.amqp.tables import decode_table, encode_table
from celery.exceptions import EncodeError

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
BEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

HEAD = Struct(">BHI")
"""Before each frame: its kind, its channel, and the length of what follows but for the end octet."""
_METHOD = Struct(">HH")
_CONTENT = Struct(">HHQH")
_TAG = Struct(">Q?").unpack_from
_SHORT, _LONG, _LONGLONG = Struct(">H"), Struct(">I"), Struct(">Q")

# class << 16 | method
CONNECTION_CLOSE, CONNECTION_CLOSE_OK = 0x0A0032, 0x0A0033
BLOCKED, UNBLOCKED = 0x0A003C, 0x0A003D
CHANNEL_OPEN, CHANNEL_OPEN_OK, CHANNEL_FLOW, CHANNEL_FLOW_OK = 0x14000A, 0x14000B, 0x140014, 0x140015
CHANNEL_CLOSE, CHANNEL_CLOSE_OK = 0x140028, 0x140029
EXCHANGE_DECLARE, EXCHANGE_DECLARE_OK, EXCHANGE_BIND, EXCHANGE_BIND_OK = 0x28000A, 0x28000B, 0x28001E, 0x28001F
QUEUE_DECLARE, QUEUE_DECLARE_OK, QUEUE_BIND, QUEUE_BIND_OK = 0x32000A, 0x32000B, 0x320014, 0x320015
QUEUE_PURGE, QUEUE_PURGE_OK, QUEUE_DELETE, QUEUE_DELETE_OK = 0x32001E, 0x32001F, 0x320028, 0x320029
BASIC_QOS, BASIC_QOS_OK, BASIC_CONSUME, BASIC_CONSUME_OK = 0x3C000A, 0x3C000B, 0x3C0014, 0x3C0015
BASIC_CANCEL, BASIC_CANCEL_OK, BASIC_PUBLISH, BASIC_RETURN = 0x3C001E, 0x3C001F, 0x3C0028, 0x3C0032
BASIC_DELIVER, BASIC_GET, BASIC_GET_OK, BASIC_GET_EMPTY = 0x3C003C, 0x3C0046, 0x3C0047, 0x3C0048
BASIC_ACK, BASIC_REJECT, BASIC_NACK = 0x3C0050, 0x3C005A, 0x3C0078
CONFIRM_SELECT, CONFIRM_SELECT_OK = 0x55000A, 0x55000B

MANDATORY = 1
MOST_KNOWN = 500
Found = TypeVar("Found")


class Properties(msgspec.Struct):
    """What stands in a content header."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


class Delivered(msgspec.Struct):
    """A message that came. `tag` numbers it on its channel; `consumer` is empty for the answer to basic.get."""

    consumer: str
    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Properties
    body: bytes
    left: int = 0
    """Of basic.get: how many more there are."""


_BITS = [(1 << (15 - place), name) for place, name in enumerate(Properties.__struct_fields__)]
_SHORT_TEXTS = frozenset(Properties.__struct_fields__) - {"headers", "delivery_mode", "priority", "timestamp"}


def short(text: str) -> bytes:
    """A short string. Raises `EncodeError` for one that is none."""
    raw = text.encode()
    if len(raw) > 255:
        raise EncodeError(f"AMQP has no room for names longer than 255 bytes: {text[:60]!r}…")
    return bytes((len(raw),)) + raw


def encode_properties(properties: Properties) -> bytes:
    """Flags and values, as they stand in a content header."""
    flags, parts = 0, []
    for bit, name in _BITS:
        value = getattr(properties, name)
        if value is None:
            continue
        flags |= bit
        if name in _SHORT_TEXTS:
            parts.append(short(value))
        elif name == "headers":
            parts.append(encode_table(value))
        elif name == "timestamp":
            parts.append(_LONGLONG.pack(value))
        else:
            parts.append(bytes((value & 0xFF,)))
    return _SHORT.pack(flags) + b"".join(parts)


def decode_properties(raw: bytes, at: int) -> Properties:
    """From the flags on. Raises `ValueError` and its kin for what is cut off."""
    flags = _SHORT.unpack_from(raw, at)[0]
    at += 2
    found = Properties()
    for bit, name in _BITS:
        if not flags & bit:
            continue
        if name in _SHORT_TEXTS:
            end = at + 1 + raw[at]
            setattr(found, name, raw[at + 1 : end].decode("utf-8", "surrogateescape"))
            at = end
        elif name == "headers":
            found.headers, at = decode_table(raw, at)
        elif name == "timestamp":
            found.timestamp, at = _LONGLONG.unpack_from(raw, at)[0], at + 8
        else:
            setattr(found, name, raw[at])
            at += 1
    return found


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return HEAD.pack(kind, channel, len(payload)) + payload + END


def method(channel: int, number: int, *parts: bytes) -> bytes:
    """The frame of a method, its arguments in bytes already."""
    return frame(METHOD, channel, _METHOD.pack(number >> 16, number & 0xFFFF) + b"".join(parts))


def publish(
    channel: int, exchange: str, key: str, properties: bytes, body: bytes, frame_max: int, flags: int = MANDATORY
) -> bytes:
    """basic.publish with its content: all the frames of one message."""
    first = b"\x00<\x00(\x00\x00" + short(exchange) + short(key) + bytes((flags,))
    header = b"\x00<\x00\x00" + _LONGLONG.pack(len(body)) + properties
    parts = [HEAD.pack(METHOD, channel, len(first)), first, END, HEAD.pack(HEADER, channel, len(header)), header, END]
    room = frame_max - 8
    for start in range(0, len(body), room):
        piece = body[start : start + room]
        parts += (HEAD.pack(BODY, channel, len(piece)), piece, END)
    return b"".join(parts)


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    return method(channel, BASIC_ACK, _LONGLONG.pack(tag), b"\x01" if multiple else b"\x00")


def acks(channel: int, open: Iterable[int], wanted: Collection[int]) -> bytes:
    """Of all that are *wanted*: one frame for those that *open*, in its order, begins with, and one for each other."""
    last = 0
    for tag in open:
        if tag not in wanted:
            break
        last = tag
    data = [ack(channel, last, multiple=True)] if last else []
    return b"".join(data + [ack(channel, tag) for tag in sorted(wanted) if tag > last])


def nack(channel: int, tag: int, *, requeue: bool = True) -> bytes:
    return method(channel, BASIC_NACK, _LONGLONG.pack(tag), b"\x02" if requeue else b"\x00")


def queue_declare(channel: int, name: str, bits: int, arguments: Mapping[str, Any]) -> bytes:
    """*bits*: 1 passive, 2 durable, 4 exclusive, 8 auto-delete."""
    return method(channel, QUEUE_DECLARE, b"\0\0", short(name), bytes((bits,)), encode_table(arguments))


def exchange_declare(channel: int, name: str, kind: str, bits: int, arguments: Mapping[str, Any]) -> bytes:
    """*bits*: 1 passive, 2 durable, 4 auto-delete, 8 internal."""
    return method(channel, EXCHANGE_DECLARE, b"\0\0", short(name), short(kind), bytes((bits,)), encode_table(arguments))


def queue_bind(channel: int, queue: str, exchange: str, key: str, arguments: Mapping[str, Any]) -> bytes:
    return method(
        channel, QUEUE_BIND, b"\0\0", short(queue), short(exchange), short(key), b"\0", encode_table(arguments)
    )


def exchange_bind(channel: int, to: str, source: str, key: str) -> bytes:
    return method(channel, EXCHANGE_BIND, b"\0\0", short(to), short(source), short(key), b"\0", encode_table({}))


class Args:
    """Reads the arguments of a method one after the other."""

    __slots__ = ("at", "raw")

    def __init__(self, raw: bytes, at: int = 4) -> None:
        self.raw = raw
        self.at = at

    def short(self) -> str:
        end = self.at + 1 + self.raw[self.at]
        text = self.raw[self.at + 1 : end].decode("utf-8", "replace")
        self.at = end
        return text

    def number(self, size: int) -> int:
        start, self.at = self.at, self.at + size
        return int.from_bytes(self.raw[start : self.at], "big")


class _Known(dict[bytes, Found]):
    """What *read* makes of some bytes; that of the first few hundred is kept."""

    def __init__(self, read: Callable[[bytes], Found]) -> None:
        self._read = read

    def __missing__(self, raw: bytes) -> Found:
        found = self._read(raw)
        if len(self) < MOST_KNOWN:
            self[raw] = found
        return found


def _two_texts(raw: bytes) -> tuple[str, str]:
    args = Args(raw, 0)
    return args.short(), args.short()


_consumers = _Known(lambda raw: raw.decode("utf-8", "replace"))
_places = _Known(_two_texts)


def delivered(method: bytes, properties: Properties, body: bytes) -> Delivered:
    """The message that the method basic.deliver announced."""
    end = 5 + method[4]
    tag = _TAG(method, end)
    exchange, key = _places[method[end + 9 :]]
    return Delivered(_consumers[method[5:end]], tag[0], tag[1], exchange, key, properties, body)


def content_size(payload: bytes) -> int:
    return int(_CONTENT.unpack_from(payload)[2])


def content_properties(payload: bytes) -> Properties:
    return decode_properties(payload, 12)


def consume(channel: int, queue: str, tag: str, credit: int, before: str = "") -> bytes:
    """Take up to *credit* messages at a time from *queue*, instead of as the consumer *before*. One answer: qos-ok.

    The new one is there before the other goes: some queues go with their last consumer.
    """
    args = (b"\0\0", short(queue), short(tag), b"\x08", encode_table({}))
    return qos(channel, credit) + method(channel, BASIC_CONSUME, *args) + (cancel(channel, before) if before else b"")


def qos(channel: int, credit: int) -> bytes:
    return method(channel, BASIC_QOS, b"\0\0\0\0", _SHORT.pack(min(credit, 65_535)), b"\0")


def cancel(channel: int, tag: str) -> bytes:
    """End a consumer; no answer."""
    return method(channel, BASIC_CANCEL, short(tag), b"\x01")
