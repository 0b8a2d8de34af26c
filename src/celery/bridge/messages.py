"""Envelopes to kombu's messages and back: body, headers and properties are those that original Celery writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from celery.amqp.messages import COUNT, DEAD, DIED, INNER, PLACE, RAW, REASON, TAG
from celery.exceptions import DecodeError
from celery.utils.digests import sha1
from celery.wire.protocol import Message, decode_envelope, encode_envelope

INTERRUPTED, DUE = "celeriac_interrupted", "celeriac_due"
OURS = frozenset({REASON, PLACE, TAG, DIED, COUNT, INTERRUPTED, DUE})
"""Headers that only drivers see. `celeriac_due` is a Unix time in milliseconds before which a message is held."""
_TRANSPORTS = frozenset({"body_encoding", "delivery_info", "delivery_tag", "DelaySeconds"})
"""Properties that a transport writes, or reads once."""


def take_apart(envelope: bytes, task_id: str = "") -> Message:
    """What *envelope* says; what is no envelope is the body of a message of a type of its own."""
    try:
        found = decode_envelope(envelope)
    except DecodeError:
        properties = {"correlation_id": task_id} if task_id else {}
        return Message({}, {**properties, "delivery_mode": 2}, envelope, RAW, "binary")
    kept = {name: value for name, value in found.properties.items() if name not in _TRANSPORTS}
    return msgspec.structs.replace(found, properties=kept)


def prepare(channel: Any, message: Message, **properties: Any) -> Any:
    """*message* as the transport of *channel* publishes it, with *properties* besides its own."""
    given = {**message.properties, **properties}
    priority = given.pop("priority", None)
    return channel.prepare_message(
        message.body,
        priority=priority,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=message.headers,
        properties=given,
    )


def read(came: Any) -> Message:
    """A message that a transport has brought, with nothing of the transport in it."""
    body = came.body
    return Message(
        dict(came.headers or {}),
        {name: value for name, value in (came.properties or {}).items() if name not in _TRANSPORTS},
        body.encode() if isinstance(body, str) else bytes(body),
        came.content_type or "application/data",
        came.content_encoding or "binary",
    )


def put_together(message: Message, exchange: str, routing_key: str, *, again: bool = False) -> bytes:
    """The envelope of a message that came."""
    if message.content_type == RAW:
        return message.body
    info: dict[str, Any] = {"exchange": exchange, "routing_key": routing_key}
    if again:
        info["redelivered"] = True
    properties = {"priority": 0, **message.properties, "delivery_info": info, "delivery_tag": name_of(message)}
    return encode_envelope(msgspec.structs.replace(message, headers=clean(message.headers), properties=properties))


def clean(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Without what drivers add on the way."""
    return {name: value for name, value in headers.items() if name not in OURS}


def with_headers(message: Message, **headers: Any) -> Message:
    """The same message with these headers of ours and no others. It is kept for as long as it takes."""
    kept = {name: value for name, value in message.properties.items() if name != "expiration"}
    return msgspec.structs.replace(message, headers={**clean(message.headers), **headers}, properties=kept)


def name_of(message: Message) -> str:
    """What this message is called, also when it comes again: the id of its task and which try it is."""
    headers, task = message.headers, task_of(message)
    return f"{task}:{headers.get('retries') or 0}:{headers.get('replays') or 0}" if task else f"#{sha1(message.body)}"


def task_of(message: Message) -> str:
    """The id of its task; empty where there is none."""
    return str(message.headers.get("id") or message.properties.get("correlation_id") or "")


__all__ = [
    "COUNT", "DEAD", "DIED", "DUE", "INNER", "INTERRUPTED", "PLACE", "REASON", "TAG", "clean", "name_of", "prepare",
    "put_together", "read", "take_apart", "task_of", "with_headers",
]  # fmt: skip
