"""Envelopes to AMQP messages and back.

On the wire a task message is what original Celery sends: body, headers and properties, no JSON around them.  What is no
envelope is sent as it is, under a content type of its own.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec

from celery.amqp.frames import Delivered, Properties, decode_properties, encode_properties
from celery.amqp.publisher import Letter
from celery.utils.digests import sha1

RAW = "application/x-celeriac-raw"
INNER, DEAD = "celeriac.inner.", "celeriac.dead."
REASON, PLACE, TAG, DIED, COUNT = (
    "celeriac_reason", "celeriac_queue", "celeriac_tag", "celeriac_died", "celeriac_deliveries",
)  # fmt: skip
AGAIN, TURN, SENT = "celeriac_again", "celeriac_turn", "celeriac_sent"
"""On a message that may be there more than once: how many times it was put off; how often it was sent back; and, if its
sender did not learn whether it had arrived, when it was sent first (Unix milliseconds)."""
OURS = frozenset({REASON, PLACE, TAG, DIED, COUNT, AGAIN, TURN, SENT})
"""Headers that tasks do not see."""
_DEATHS = [f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")]
_ON_THE_WAY = OURS.union(_DEATHS, ("x-death", "x-delivery-count", "x-acquired-count"))
"""Those, and what servers add."""
PERSISTENT = 2
QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
"""Arguments of a queue of ours of that kind: newer servers would drop what is given back for the twentieth time."""


class _Sent(msgspec.Struct):
    correlation_id: str | None = None
    reply_to: str | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    expiration: str | int | float | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    app_id: str | None = None


class _Envelope(msgspec.Struct):
    body: bytes
    headers: dict[str, Any]
    properties: _Sent
    content_type: str = msgspec.field(default="application/data", name="content-type")
    content_encoding: str = msgspec.field(default="binary", name="content-encoding")


_decode = msgspec.json.Decoder(_Envelope).decode
_encode = msgspec.json.Encoder().encode


def take_apart(envelope: bytes, task_id: str = "") -> tuple[Properties, bytes]:
    """The AMQP message that says what *envelope* says."""
    try:
        found = _decode(envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Properties(RAW, delivery_mode=PERSISTENT, correlation_id=task_id or None), envelope
    sent = found.properties
    expiration = sent.expiration
    return (
        Properties(
            found.content_type,
            found.content_encoding,
            found.headers,
            sent.delivery_mode or PERSISTENT,
            sent.priority,
            sent.correlation_id,
            sent.reply_to,
            None if expiration is None else str(expiration),
            sent.message_id,
            sent.timestamp,
            sent.type,
            None,
            sent.app_id,
        ),
        found.body,
    )


def put_together(came: Delivered, exchange: str, routing_key: str, name: str = "", *, direct: bool = False) -> bytes:
    """The envelope of a message that came; *name*, *direct*: as `name_of` and `is_direct` say, if that is known."""
    given = came.properties
    if given.content_type == RAW:
        return came.body
    headers = given.headers or {}
    if not direct:
        headers = clean(headers)
    properties: dict[str, Any] = {
        "correlation_id": given.correlation_id,
        "reply_to": given.reply_to,
        "delivery_mode": given.delivery_mode or 1,
        "delivery_info": {"exchange": exchange, "routing_key": routing_key},
        "priority": given.priority or 0,
        "body_encoding": "base64",
        "delivery_tag": name or name_of(came),
    }
    if given.expiration is not None:
        properties["expiration"] = given.expiration
    if given.message_id is not None:
        properties["message_id"] = given.message_id
    if given.timestamp is not None:
        properties["timestamp"] = given.timestamp
    if given.type is not None:
        properties["type"] = given.type
    if given.app_id is not None:
        properties["app_id"] = given.app_id
    if came.redelivered:
        properties["delivery_info"]["redelivered"] = True
    return _encode(
        {
            "body": came.body,
            "content-encoding": given.content_encoding or "binary",
            "content-type": given.content_type or "application/data",
            "headers": headers,
            "properties": properties,
        }
    )


def clean(headers: dict[str, Any]) -> dict[str, Any]:
    """Without what servers and we add on the way; nearly always there is nothing of that."""
    if _ON_THE_WAY.isdisjoint(headers):
        return headers
    return {name: value for name, value in headers.items() if name not in _ON_THE_WAY}


def is_direct(came: Delivered) -> bool:
    """Whether it is as its producer sent it, and was never delivered before, as nearly all are."""
    return not came.redelivered and _ON_THE_WAY.isdisjoint(came.properties.headers or ())


def name_of(came: Delivered) -> str:
    """What this message is called, also when it comes again: its task, which try it is, and what it says.

    What it says, because one message can take the place of another under the same id (`Task.replace`).
    """
    headers = came.properties.headers or {}
    task = headers.get("id") or came.properties.correlation_id
    if task:
        kind = headers.get("task")
        what = crc32(came.body, crc32(kind.encode()) if isinstance(kind, str) else 0)
        name = f"{task}:{headers.get('retries') or 0}:{headers.get('replays') or 0}:{what:x}"
    else:
        name = f"#{sha1(came.body)}"
    return f"{name}:{headers[TURN]}" if TURN in headers else name


def comes_again(came: Delivered) -> bool:
    """Whether it may have been delivered, or sent, before."""
    return came.redelivered or AGAIN in (came.properties.headers or ())


def said_again(letter: Letter, sent: float) -> Letter:
    """A letter whose sender does not know whether the broker has it since *sent* (Unix seconds)."""
    properties = decode_properties(letter.properties, 0)
    headers = properties.headers or {}
    if AGAIN in headers:
        return letter
    properties.headers = {**headers, AGAIN: 0, SENT: int(sent * 1000)}
    return msgspec.structs.replace(letter, properties=encode_properties(properties))


def sent_at(came: Delivered) -> float | None:
    """When a message of `said_again` was sent first; None for others."""
    sent = (came.properties.headers or {}).get(SENT)
    return sent / 1000 if isinstance(sent, int) else None


def sent_back(came: Delivered) -> dict[str, Any]:
    """Headers of a message that takes the place of *came*, and is another."""
    return {TURN: int((came.properties.headers or {}).get(TURN) or 0) + 1}


def home_of(came: Delivered, source: str) -> str:
    """The queue that it belongs to, which is not *source* if it was put off."""
    headers = came.properties.headers or {}
    return str(headers.get(PLACE) or source) if AGAIN in headers else source


def task_of(came: Delivered) -> str:
    """The id of its task; empty where there is none."""
    headers = came.properties.headers or {}
    return str(headers.get("id") or came.properties.correlation_id or "")


def copy_of(came: Delivered, queue: str, **headers: Any) -> Letter:
    """The same message, for *queue*, with these headers besides its own. It is kept for as long as it takes."""
    given = came.properties
    before = given.headers or {}
    turn = {TURN: before[TURN]} if TURN in before else {}
    properties = msgspec.structs.replace(
        given, headers={**clean(before), **turn, **headers}, expiration=None, delivery_mode=PERSISTENT
    )
    return Letter("", queue, encode_properties(properties), came.body)
