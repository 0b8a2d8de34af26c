"""Control messages and events: what travels on a bus, in kombu's envelope.

Body, headers and properties are those of any kombu message, so that original workers, clients and monitors read what
is written here, and the other way round. A *topic* of a bus is an exchange, and its routing key where there is one:
`celery.pidbox`, `celeryev/worker.heartbeat`, `celeryev/task.multi`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from celery.exceptions import DecodeError, EncodeError
from celery.utils.uuids import uuid
from celery.wire.protocol import Message, decode_envelope, encode_envelope, load_body
from celery.wire.serialization import dumps

_quote = msgspec.json.Encoder().encode
"""Bytes as base64 in quotes, in half the time that binascii takes."""
TRANSIENT, PERSISTENT = 1, 2
"""Delivery modes: replies and events are not worth a disk, requests are."""


class Notice(NamedTuple):
    """A message of a bus, read. `body` is a map, or for events of type `task.multi` a list of maps."""

    body: Any
    headers: dict[str, Any]
    exchange: str
    routing_key: str


def topic(exchange: str, routing_key: str = "") -> str:
    """Where a message for *exchange* goes on a bus."""
    return f"{exchange}/{routing_key}" if routing_key else exchange


def encode(
    body: Any,
    *,
    exchange: str,
    routing_key: str = "",
    headers: Mapping[str, Any] | None = None,
    delivery_mode: int = TRANSIENT,
    serializer: str | None = "json",
) -> bytes:
    """The envelope of a message. What the serializer has no word for is sent as its repr.

    Raises `EncodeError` for a body that contains itself, and where there is no such serializer.
    """
    try:
        content = dumps(body, serializer)
    except EncodeError:
        content = dumps(_plain_or_refuse(body), serializer)
    return seal(content, exchange=exchange, routing_key=routing_key, headers=headers, delivery_mode=delivery_mode)


def seal(
    content: tuple[str, str, bytes],
    *,
    exchange: str,
    routing_key: str = "",
    headers: Mapping[str, Any] | None = None,
    delivery_mode: int = TRANSIENT,
) -> bytes:
    """The envelope of a body that is serialised already: *content* is type, encoding and bytes, as of `dumps`."""
    properties = {
        "delivery_mode": delivery_mode,
        "delivery_info": {"exchange": exchange, "routing_key": routing_key},
        "priority": 0,
        "delivery_tag": uuid(),
    }
    content_type, content_encoding, data = content
    # The body, which may be large, is put into its place in the end: nothing has to look for what to escape in it.
    empty = encode_envelope(Message(dict(headers or {}), properties, b"", content_type, content_encoding))
    before, _, after = empty.partition(b'""')
    return b"%b%b%b" % (before, _quote(data), after)


def decode(raw: bytes, accept: frozenset[str] | None = None) -> Notice:
    """Read an envelope; raises `DecodeError`, or its subclass `ContentDisallowed` for a type not in *accept*.

    *accept* holds content types, see `serialization.accept_types`.
    """
    message = decode_envelope(raw)
    info = message.properties.get("delivery_info")
    info = info if isinstance(info, dict) else {}
    body = load_body(message, accept)
    return Notice(body, message.headers, str(info.get("exchange") or ""), str(info.get("routing_key") or ""))


def mapping(notice: Notice) -> dict[str, Any]:
    """The body of *notice*, if it is a map; raises `DecodeError`."""
    if isinstance(notice.body, dict):
        return notice.body
    raise DecodeError(f"The body of the message is a {type(notice.body).__name__}, not a map.")


def clock_of(notice: Notice) -> int:
    """The sender's logical clock; 0 where it has none."""
    value = notice.headers.get("clock")
    return value if isinstance(value, int) else 0


def _plain_or_refuse(body: Any) -> Any:
    try:
        return plain(body)
    except RecursionError:
        raise EncodeError("The message contains itself, or is nested too deeply.") from None


def plain(value: Any) -> Any:
    """*value* in words that every serializer has: maps, lists, text, numbers; the repr of everything else."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return repr(value)
