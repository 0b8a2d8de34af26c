"""Task messages: the envelope and protocols 2 (written and read) and 1 (the same).

An *envelope* is the JSON text that kombu keeps in Redis lists: body in base64, headers, properties. The worker's parent
reads only the head of it (`peek`), its children all of it (`decode_envelope`, `split_body`).
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, TypedDict, Unpack

import msgspec

from celery.exceptions import DecodeError
from celery.utils.saferepr import saferepr
from celery.utils.uuids import uuid7
from celery.wire import compression, serialization
from celery.wire.serialization import decode_json, encode_json

MAX_REPR = 1024
"""Characters of `argsrepr` and `kwargsrepr`."""
PERSISTENT = 2
LIMIT, UNIQUE = "celeriac_limit", "celeriac_unique"
"""Headers of ours: [key, how many of it may run], and the unique key that the end of the task frees."""

Number = int | float
Limits = tuple[Number | None, Number | None]


class Message(msgspec.Struct):
    """A message taken apart. `body` is as it was serialised, and compressed if the headers say so."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: bytes
    content_type: str = serialization.JSON
    content_encoding: str = "utf-8"


class Head(msgspec.Struct):
    """What the worker's parent needs to know of a message without reading its body.

    `timelimit` is (hard, soft) in seconds, as on the wire; `eta` and `expires` are ISO 8601 text; `replays` counts how
    often the message was taken out of the dead set. `protocol` is the one the message was written in.
    """

    task: str = ""
    id: str = ""
    eta: str | None = None
    expires: str | None = None
    retries: int = 0
    timelimit: Limits = (None, None)
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    ignore_result: bool | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    shadow: str | None = None
    origin: str | None = None
    redelivered: bool = False
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    replays: int = 0
    limit: tuple[str, int] | None = msgspec.field(default=None, name=LIMIT)
    unique: str | None = msgspec.field(default=None, name=UNIQUE)
    # These stand in the properties, not in the headers: names that no header has keep the decoder away from them.
    priority: int | None = msgspec.field(default=None, name="properties priority")
    reply_to: str | None = msgspec.field(default=None, name="properties reply_to")
    correlation_id: str | None = msgspec.field(default=None, name="properties correlation_id")
    delivery_tag: str | None = msgspec.field(default=None, name="properties delivery_tag")
    exchange: str = msgspec.field(default="", name="properties exchange")
    routing_key: str = msgspec.field(default="", name="properties routing_key")
    protocol: int = msgspec.field(default=2, name="properties protocol")


class _Info(msgspec.Struct):
    exchange: str | None = None
    routing_key: str | None = None
    redelivered: bool | None = None


class _Properties(msgspec.Struct):
    priority: int | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    delivery_tag: str | None = None
    delivery_info: _Info = msgspec.field(default_factory=_Info)


class _Top(msgspec.Struct):
    headers: Head
    properties: _Properties


class _Packed(msgspec.Struct, gc=False):
    """An envelope as nearly all are: msgspec takes the body out of its base64 by itself."""

    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]
    content_type: str = msgspec.field(default="application/data", name="content-type")
    content_encoding: str = msgspec.field(default="binary", name="content-encoding")


class _Envelope(msgspec.Struct):
    body: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    content_type: str | None = msgspec.field(default=None, name="content-type")
    content_encoding: str | None = msgspec.field(default=None, name="content-encoding")


_decode_top = msgspec.json.Decoder(_Top).decode
_decode_packed = msgspec.json.Decoder(_Packed).decode
_decode_content = msgspec.json.Decoder(tuple[list[Any], dict[str, Any], dict[str, Any]]).decode
_decode_parts = msgspec.json.Decoder(_Envelope).decode
encode_plain = msgspec.json.Encoder().encode
"""JSON of plain values, quickly; see `is_plain`."""

# --- Reading ----------------------------------------------------------------------------------------------------------


def peek(raw: bytes, accept: frozenset[str] | None = None) -> Head:
    """The head of an envelope; raises `DecodeError` that says what is missing or wrong.

    The body is read only for protocol 1, which keeps everything in it (*accept* is for that; see `loads`).
    """
    try:
        top = _decode_top(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _peek_with_care(raw, accept)
    head, properties = top.headers, top.properties
    if not head.task or not head.id:
        return _peek_with_care(raw, accept)
    info = properties.delivery_info
    head.priority = properties.priority
    head.reply_to = properties.reply_to
    head.correlation_id = properties.correlation_id
    head.delivery_tag = properties.delivery_tag
    head.exchange = info.exchange or ""
    head.routing_key = info.routing_key or ""
    if info.redelivered:
        head.redelivered = True
    return head


def _peek_with_care(raw: bytes, accept: frozenset[str] | None) -> Head:
    """For what other writers do otherwise: protocol 1, nulls, numbers as text, special values in headers."""
    message = decode_envelope(raw)
    fields, protocol = message.headers, 2
    if "task" not in fields:
        body = load_body(message, accept)
        if not isinstance(body, dict) or "task" not in body:
            raise DecodeError("The message is no task: neither its headers nor its body name one under 'task'.")
        fields, protocol = message.headers | body, 1
    properties = message.properties
    info = properties.get("delivery_info")
    info = info if isinstance(info, dict) else {}
    return Head(
        task=_name(fields, "task"),
        id=_name(fields, "id"),
        eta=_moment(fields, "eta"),
        expires=_moment(fields, "expires"),
        retries=_count(fields, "retries"),
        timelimit=_limits(fields),
        root_id=_text(fields, "root_id"),
        parent_id=_text(fields, "parent_id"),
        group=_text(fields, "group") or _text(fields, "taskset"),
        ignore_result=None if fields.get("ignore_result") is None else bool(fields["ignore_result"]),
        argsrepr=_repr(fields, "args"),
        kwargsrepr=_repr(fields, "kwargs"),
        shadow=_text(fields, "shadow"),
        origin=_text(fields, "origin"),
        redelivered=bool(message.headers.get("redelivered") or info.get("redelivered")),
        stamped_headers=_names(fields.get("stamped_headers")),
        stamps=fields["stamps"] if isinstance(fields.get("stamps"), dict) else None,
        replays=_count(fields, "replays"),
        limit=_limit(fields.get(LIMIT)),
        unique=_text(fields, UNIQUE),
        priority=_count(properties, "priority") if properties.get("priority") is not None else None,
        reply_to=_text(properties, "reply_to"),
        correlation_id=_text(properties, "correlation_id"),
        delivery_tag=_text(properties, "delivery_tag"),
        exchange=_text(info, "exchange") or "",
        routing_key=_text(info, "routing_key") or "",
        protocol=protocol,
    )


def _name(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if isinstance(value, str) and value:
        return value
    fault = "is missing" if value is None else "is empty" if value == "" else f"is {_kind(value)} and not text"
    raise DecodeError(f"The message is no task: its field {key!r} {fault}.")


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value if value is None or isinstance(value, str) else str(value)


def _moment(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value.isoformat() if isinstance(value, date) else _text(fields, key) or None


def _count(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key) or 0
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise DecodeError(f"The message is no task: its field {key!r} is {_kind(value)} and not a number.") from None


def _limits(fields: Mapping[str, Any]) -> Limits:
    value = fields.get("timelimit")
    if not value:
        return None, None
    if isinstance(value, list | tuple) and len(value) == 2 and all(v is None or isinstance(v, Number) for v in value):
        return value[0], value[1]
    raise DecodeError(f"The message is no task: its field 'timelimit' is {value!r:.60} and not two numbers or nulls.")


def _repr(fields: Mapping[str, Any], key: str) -> str | None:
    if fields.get(f"{key}repr") is not None:
        return _text(fields, f"{key}repr")
    return saferepr(fields[key], MAX_REPR) if key in fields else None


def _names(value: Any) -> list[str] | None:
    return [str(name) for name in value] if isinstance(value, list | tuple) else None


def _limit(value: Any) -> tuple[str, int] | None:
    match value:
        case [str(key), int(slots)]:
            return key, slots
    return None


_KINDS: Mapping[type, str] = {dict: "a map", list: "a list", str: "text"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value)) or f"of type {type(value).__name__}"


def decode_envelope(raw: bytes) -> Message:
    """Take an envelope apart; raises `DecodeError` if it is none."""
    if b'"__type__"' not in raw:
        try:
            packed = _decode_packed(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            properties = packed.properties
            if properties.get("body_encoding") == "base64":
                return Message(packed.headers, properties, packed.body, packed.content_type, packed.content_encoding)
    try:
        special = b'"__type__"' in raw
        parts = msgspec.convert(decode_json(raw), _Envelope) if special else _decode_parts(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        parts = _decode_parts_with_care(raw, exc)
    properties = parts.properties
    return Message(
        parts.headers,
        properties,
        _decode_body(parts.body, properties.get("body_encoding")),
        parts.content_type or "application/data",
        parts.content_encoding or "binary",
    )


def _decode_parts_with_care(raw: bytes, cause: BaseException) -> _Envelope:
    """For what other writers do otherwise: NaN, nulls for headers and properties."""
    try:
        value = decode_json(raw)
    except DecodeError as exc:
        raise DecodeError(f"The message is no envelope. {exc}") from exc
    if not isinstance(value, dict):
        raise DecodeError(f"The message is no envelope: it is {_kind(value)}, not a map with a body.")
    for key in ("headers", "properties"):
        if value.get(key) is None:
            value[key] = {}
        if not isinstance(value[key], dict):
            raise DecodeError(f"The message is no envelope: its {key} are {_kind(value[key])}, not a map.")
    if not isinstance(value.get("body"), str):
        raise DecodeError(f"The message is no envelope: its body is {_kind(value.get('body'))}, not text.")
    try:
        return msgspec.convert(value, _Envelope)
    except msgspec.ValidationError:
        raise DecodeError(f"The message is no envelope: {cause}.") from cause


def _decode_body(body: str, body_encoding: Any) -> bytes:
    if body_encoding == "base64":
        try:
            return a2b_base64(body)
        except (Base64Error, ValueError) as exc:
            raise DecodeError(f"The body of the message is not the base64 that it should be: {exc}.") from exc
    if body_encoding:
        raise DecodeError(f"The body of the message has the encoding {body_encoding!r}; only base64 is known.")
    return body.encode("utf-8", "surrogatepass")


def load_body(message: Message, accept: frozenset[str] | None = None) -> Any:
    """The value of the body, decompressed and decoded; raises `DecodeError`."""
    body = message.body
    method = message.headers.get("compression")
    if method:
        body = compression.decompress(body, str(method))
    return serialization.loads(body, message.content_type, message.content_encoding, accept)


def split_body(
    message: Message, accept: frozenset[str] | None = None
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """(args, kwargs, embed) of either protocol; raises `DecodeError`.

    `embed` has callbacks, errbacks, chain and chord. *accept*: see `serialization.loads`.
    """
    raw = message.body
    if (
        message.content_type == serialization.JSON
        and message.content_encoding == "utf-8"
        and "compression" not in message.headers
        and serialization.reads_json(accept)
        and b'"__type__"' not in raw
    ):
        try:
            return _decode_content(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # protocol 1, or what the standard does not have
    body = load_body(message, accept)
    if isinstance(body, list | tuple) and len(body) == 3:
        args, kwargs, embed = body
    elif isinstance(body, dict) and "task" in body:
        args, kwargs, embed = body.get("args"), body.get("kwargs"), {key: body.get(key) for key in EMBED}
    else:
        raise DecodeError(f"The body of the message is {_kind(body)}, not arguments, keyword arguments and the rest.")
    args = [] if args is None else args
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(args, list | tuple):
        raise DecodeError(f"The arguments of the task are {_kind(args)}, not a list.")
    if not isinstance(kwargs, dict):
        raise DecodeError(f"The keyword arguments of the task are {_kind(kwargs)}, not a map.")
    if not isinstance(embed, dict):
        embed = {}
    return args, kwargs, embed  # type: ignore[return-value]  # a tuple where the codec has tuples


# --- Writing ----------------------------------------------------------------------------------------------------------

EMBED = ("callbacks", "errbacks", "chain", "chord")
"""What is in the body beside the arguments."""
_PLAIN = frozenset({str, int, bool, type(None)})
_CONTAINERS = frozenset({list, dict})


def is_plain(value: Any) -> bool:
    """Whether both JSON writers agree on a map or list; floats are left out (NaN), and so is everything unusual."""
    for part in value.values() if type(value) is dict else value:
        kind = type(part)
        if kind not in _PLAIN and (kind not in _CONTAINERS or (part and not is_plain(part))):
            return False
    return True


def encode_envelope(message: Message) -> bytes:
    """The envelope of *message*; raises `EncodeError`. Adds `body_encoding` and a missing `delivery_tag`."""
    properties = message.properties
    properties["body_encoding"] = "base64"
    if "delivery_tag" not in properties:
        properties["delivery_tag"] = uuid7()  # a store that keeps no times reads from it when the message was sent
    envelope = {
        "body": b2a_base64(message.body, newline=False).decode("ascii"),
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "headers": message.headers,
        "properties": properties,
    }
    if is_plain(message.headers) and is_plain(properties):
        try:
            return encode_plain(envelope)
        except (TypeError, ValueError, OverflowError, RecursionError):
            pass  # huge numbers, lone surrogates, odd keys: the slower writer takes them or says what is wrong
    return encode_json(envelope)


class Options(TypedDict, total=False):
    """What a task message may say beside its name, id and arguments. Absent and None mean the same.

    `chain` is in the order of the wire: the next task last. `headers` are the sender's own, merged over ours, and
    `properties` likewise. Limits and `expiration` (after which the broker may drop the message) are in seconds,
    `compress` is the name of a compression. `root_id` and `correlation_id` are the id unless given.
    """

    callbacks: Sequence[Any] | None
    errbacks: Sequence[Any] | None
    chain: Sequence[Any] | None
    chord: Any
    eta: datetime | str | None
    expires: datetime | str | None
    group: str | None
    group_index: int | None
    retries: int
    time_limit: float | None
    soft_time_limit: float | None
    root_id: str | None
    parent_id: str | None
    shadow: str | None
    argsrepr: str | None
    kwargsrepr: str | None
    origin: str | None
    ignore_result: bool | None
    replaced_task_nesting: int
    stamped_headers: Sequence[str] | None
    stamps: Mapping[str, Any] | None
    headers: Mapping[str, Any] | None
    serializer: str | None
    compress: str | None
    reply_to: str | None
    correlation_id: str | None
    priority: int | None
    delivery_mode: int | None
    expiration: float | None
    exchange: str | None
    routing_key: str | None
    properties: Mapping[str, Any] | None


def task_message(
    name: str,
    id: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    protocol: int = 2,
    **options: Unpack[Options],
) -> Message:
    """A task message of protocol 2, or 1, which has no chains, roots, parents and stamps; raises `EncodeError`."""
    build = _build_1 if protocol == 1 else _build_2
    headers, content = build(name, id, args, {} if kwargs is None else kwargs, options.get)
    content_type, content_encoding, body = serialization.dumps(content, options.get("serializer", "json"))
    extra_headers, compress = options.get("headers"), options.get("compress")
    if extra_headers:
        headers.update(extra_headers)
    if compress:
        body, headers["compression"] = compression.compress(body, compress)
    return Message(headers, _build_properties(id, options.get), body, content_type, content_encoding)


Get = Callable[[str], Any]


def _build_2(
    name: str, id: str, args: Sequence[Any], kwargs: Mapping[str, Any], get: Get
) -> tuple[dict[str, Any], list[Any]]:
    argsrepr, kwargsrepr = get("argsrepr"), get("kwargsrepr")
    headers = {
        "lang": "py",
        "task": name,
        "id": id,
        "shadow": get("shadow"),
        "eta": _iso(get("eta")),
        "expires": _iso(get("expires")),
        "group": get("group"),
        "group_index": get("group_index"),
        "retries": get("retries") or 0,
        "timelimit": [get("time_limit"), get("soft_time_limit")],
        "root_id": get("root_id") or id,
        "parent_id": get("parent_id"),
        "argsrepr": saferepr(args, MAX_REPR) if argsrepr is None else argsrepr,
        "kwargsrepr": saferepr(kwargs, MAX_REPR) if kwargsrepr is None else kwargsrepr,
        "origin": get("origin"),
        "ignore_result": get("ignore_result"),
        "replaced_task_nesting": get("replaced_task_nesting") or 0,
        "stamped_headers": get("stamped_headers"),
        "stamps": get("stamps") or {},
    }
    embed = {
        "callbacks": get("callbacks"),
        "errbacks": get("errbacks"),
        "chain": get("chain"),
        "chord": get("chord"),
    }
    return headers, [args, kwargs, embed]


def _build_1(
    name: str, id: str, args: Sequence[Any], kwargs: Mapping[str, Any], get: Get
) -> tuple[dict[str, Any], dict[str, Any]]:
    body = {
        "task": name,
        "id": id,
        "args": args,
        "kwargs": kwargs,
        "group": get("group"),
        "group_index": get("group_index"),
        "retries": get("retries") or 0,
        "eta": _iso(get("eta")),
        "expires": _iso(get("expires")),
        "utc": True,
        "callbacks": get("callbacks"),
        "errbacks": get("errbacks"),
        "timelimit": [get("time_limit"), get("soft_time_limit")],
        "taskset": get("group"),
        "chord": get("chord"),
    }
    return {}, body


def _build_properties(id: str, get: Get) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "correlation_id": get("correlation_id") or id,
        "reply_to": get("reply_to") or "",
        "delivery_mode": get("delivery_mode") or PERSISTENT,
        "delivery_info": {"exchange": get("exchange") or "", "routing_key": get("routing_key") or ""},
        "priority": get("priority") or 0,
        "body_encoding": "base64",
        "delivery_tag": uuid7(),
    }
    expiration, extra = get("expiration"), get("properties")
    if expiration is not None:
        properties["expiration"] = str(int(expiration * 1000))
    if extra:
        properties.update(extra)
    return properties


def _iso(moment: datetime | str | None) -> str | None:
    return moment.isoformat() if isinstance(moment, datetime) else moment
