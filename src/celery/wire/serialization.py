"""Values to bytes and back, by content type.

JSON, msgpack, YAML and pickle are here; any other serializer is looked up in kombu's registry, so that what programs
give to `kombu.serialization.register` works, also under one of these names. Decoding looks at `accept` first: pickle
can run code and is decoded only where the caller accepts it by name.
"""

from __future__ import annotations

import base64
import json
import pickle
import sys
import uuid
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from decimal import Decimal
from importlib import import_module
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import msgspec

from celery.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured

Encoder = Callable[[Any], bytes | str]
Decoder = Callable[[Any], Any]

JSON = "application/json"
RAW_TYPES = frozenset({"application/data", "application/text", "text/plain"})
"""Plain bytes and plain text: nothing to decode, always accepted."""
UNSAFE_TYPES = frozenset({"application/x-python-serialize"})
"""Decoding these runs what the sender wrote: they are refused unless `accept` names them."""


class Codec(NamedTuple):
    """A serializer. `decode` is given bytes where `content_encoding` is `binary`, else text."""

    name: str
    content_type: str
    content_encoding: str
    encode: Encoder
    decode: Decoder


# --- JSON -------------------------------------------------------------------------------------------------------------


def _special(kind: str, value: Any) -> dict[str, Any]:
    return {"__type__": kind, "__value__": value}


def _encode_special(value: Any) -> Any:
    """What JSON has no word for, as kombu writes it."""
    own = getattr(value, "__json__", None)
    if own is not None and not isinstance(value, type):
        return own()
    if isinstance(value, datetime):
        return _special("datetime", value.isoformat())
    if isinstance(value, date):
        return _special("date", value.isoformat())
    if isinstance(value, time):
        return _special("time", value.isoformat())
    if isinstance(value, Decimal):
        return _special("decimal", str(value))
    if isinstance(value, uuid.UUID):
        return _special("uuid", {"hex": value.hex})
    if isinstance(value, bytes):
        try:
            return _special("bytes", value.decode("utf-8"))
        except UnicodeDecodeError:
            return _special("base64", base64.b64encode(value).decode("ascii"))
    kombu = sys.modules.get("kombu.utils.json")
    if kombu is not None:  # a program may have called kombu.utils.json.register_type
        return kombu.JSONEncoder().default(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _uuid(value: Any) -> uuid.UUID:
    return uuid.UUID(**value)


_SPECIALS: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": _uuid,
    "bytes": lambda value: value.encode("utf-8"),
    "base64": lambda value: base64.b64decode(value.encode("utf-8")),
}


def _decode_special(value: dict[str, Any]) -> Any:
    if len(value) != 2 or "__type__" not in value or "__value__" not in value:
        return value
    kind = value["__type__"]
    decode = _SPECIALS.get(kind) if isinstance(kind, str) else None
    if decode is not None:
        return decode(value["__value__"])
    kombu = sys.modules.get("kombu.utils.json")
    if kombu is not None and isinstance(kind, str):
        return kombu.object_hook(value)
    raise ValueError(f"there is no type {kind!r} among {', '.join(sorted(_SPECIALS))}")


def _json_encoder() -> Callable[[Any], str]:
    """`json.dumps` with its C encoder made once instead of at every call."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(default=_encode_special, separators=(",", ":")).encode
    # (circle check, default, string encoder, indent, separators, sort_keys, skipkeys, allow_nan); without the circle
    # check, which costs a dictionary entry a container, a circle ends as RecursionError.
    encode = make(None, _encode_special, encode_basestring_ascii, None, ":", ",", False, False, True)
    return lambda value: "".join(encode(value, 0))


_encode_text = _json_encoder()
_decode_fast = msgspec.json.Decoder().decode
_decode_slow = json.JSONDecoder(object_hook=_decode_special).decode


def encode_json(value: Any) -> bytes:
    """JSON as kombu writes it; raises `EncodeError`.

    Beside JSON's own types: datetime, date, time, Decimal, UUID, bytes, objects with `__json__()`, and types given to
    `kombu.utils.json.register_type`. Tuples become lists.
    """
    try:
        return _encode_text(value).encode("ascii")
    except RecursionError:
        raise EncodeError("The value contains itself, or is nested too deeply for JSON.") from None
    except (TypeError, ValueError, OverflowError) as exc:
        raise EncodeError(f"The value does not become JSON: {exc}.") from exc


def decode_json(data: bytes | str) -> Any:
    """The value of JSON text, kombu's special types included; raises `DecodeError`."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if b'"__type__"' not in data:
        try:
            return _decode_fast(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # NaN, infinities, lone surrogates, a byte order mark: Python's reader takes more than the standard
    try:
        return _decode_slow(bytes(data).decode("utf-8-sig", "surrogatepass"))
    except RecursionError:
        raise DecodeError("The JSON is nested too deeply to be read.") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise DecodeError(f"The data is not the JSON it should be: {exc}.") from exc


# --- The other serializers --------------------------------------------------------------------------------------------


def _need(module: str, serializer: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as exc:
        raise ImproperlyConfigured(
            f"The serializer {serializer!r} needs the package {package}: pip install 'celery[{serializer}]'."
        ) from exc


def _encode_msgpack(value: Any) -> bytes:
    return bytes(_need("msgpack", "msgpack", "msgpack").packb(value, use_bin_type=True))


def _decode_msgpack(data: bytes) -> Any:
    return _need("msgpack", "msgpack", "msgpack").unpackb(data, raw=False, strict_map_key=False)


def _encode_yaml(value: Any) -> str:
    return str(_need("yaml", "yaml", "PyYAML").safe_dump(value, allow_unicode=True))


def _decode_yaml(data: str) -> Any:
    return _need("yaml", "yaml", "PyYAML").safe_load(data)


def _encode_pickle(value: Any) -> bytes:
    return pickle.dumps(value, protocol=4)


def _encode_raw(value: Any) -> bytes | str:
    if isinstance(value, bytes | str):
        return value
    raise TypeError(f"raw content is bytes or text, not {type(value).__name__}")


_judged: dict[str, tuple[Any, bool]] = {}
"""What kombu was last seen to have for a name, and whether that is a serializer of the program's own."""
_codecs: dict[str, Codec] = {}
_by_type: dict[str, Codec] = {}


def register(
    name: str,
    encoder: Encoder,
    decoder: Decoder,
    content_type: str,
    content_encoding: str = "utf-8",
) -> None:
    """Add a serializer, or replace one of that name."""
    codec = Codec(name, content_type, content_encoding, encoder, decoder)
    _codecs[name] = codec
    _by_type[content_type] = codec


register("json", encode_json, decode_json, JSON, "utf-8")
register("msgpack", _encode_msgpack, _decode_msgpack, "application/x-msgpack", "binary")
register("yaml", _encode_yaml, _decode_yaml, "application/x-yaml", "utf-8")
register("pickle", _encode_pickle, pickle.loads, "application/x-python-serialize", "binary")


def registered() -> list[str]:
    """The names of the serializers that are here, sorted."""
    return sorted(_codecs)


def _kombu_registry() -> Any:
    return import_module("kombu.serialization").registry


def is_replaced(name: str) -> bool:
    """Whether the program gave kombu a serializer of its own for this name, which then counts and not ours."""
    kombu = sys.modules.get("kombu.serialization")
    registry = getattr(kombu, "registry", None)  # while kombu is being imported it has none
    known = registry._encoders.get(name) if registry is not None else None
    judged = _judged.get(name)
    if judged is None or judged[0] is not known:
        judged = _judged[name] = known, _is_foreign(known)
    return judged[1]


def _is_foreign(known: Any) -> bool:
    home = getattr(known.encoder, "__module__", None) if known is not None else "kombu"
    return str(home).partition(".")[0] not in {"kombu", "yaml"}


def dumps(value: Any, serializer: str | None = "json") -> tuple[str, str, bytes]:
    """(content type, content encoding, bytes) of *value*; raises `EncodeError`.

    *serializer* is a name; `raw` takes bytes and text as they are, and so does None, which is JSON for the rest.
    """
    may_be_replaced = "kombu.serialization" in sys.modules
    if serializer == "json" and not (may_be_replaced and is_replaced("json")):
        return JSON, "utf-8", encode_json(value)
    if serializer == "raw" or (serializer is None and isinstance(value, bytes | str)):
        return _dump_raw(value, "application/data" if serializer or isinstance(value, bytes) else "text/plain")
    codec = _codecs.get(serializer or "json")
    if codec is None or (may_be_replaced and is_replaced(codec.name)):
        return _dump_by_kombu(value, serializer or "json")
    try:
        data = codec.encode(value)
    except (EncodeError, ImproperlyConfigured):
        raise
    except Exception as exc:  # a serializer of others may raise anything; the caller waits for one kind
        raise EncodeError(f"The value does not become {codec.name}: {exc}.") from exc
    encoded = data.encode("utf-8") if isinstance(data, str) else data
    return codec.content_type, codec.content_encoding, encoded


def _dump_raw(value: Any, content_type: str) -> tuple[str, str, bytes]:
    if isinstance(value, bytes):
        return content_type, "binary", value
    if isinstance(value, str):
        return content_type, "utf-8", value.encode("utf-8")
    raise EncodeError(f"The serializer 'raw' takes bytes or text, not {type(value).__name__}.")


def _dump_by_kombu(value: Any, serializer: str) -> tuple[str, str, bytes]:
    registry = _kombu_registry()
    if serializer not in registry._encoders:
        raise EncodeError(
            f"There is no serializer {serializer!r}; use one of {', '.join(registered())}, or add it with"
            " kombu.serialization.register."
        )
    try:
        content_type, content_encoding, data = registry.dumps(value, serializer=serializer)
    except Exception as exc:  # see dumps
        raise EncodeError(f"The value does not become {serializer}: {exc}.") from exc
    return content_type, content_encoding, data.encode("utf-8") if isinstance(data, str) else bytes(data)


def loads(
    data: bytes | str, content_type: str | None, content_encoding: str | None, accept: frozenset[str] | None = None
) -> Any:
    """The value; raises `DecodeError`, or its subclass `ContentDisallowed` for a type that is not accepted.

    *accept* holds content types (see `accept_types`); None accepts everything but what can run code.
    """
    kind = content_type or "application/data"
    if kind in RAW_TYPES and not _is_signed(kind):
        return _load_raw(data, kind, content_encoding)
    if (kind not in accept) if accept is not None else (kind in UNSAFE_TYPES):
        raise ContentDisallowed(
            f"Refusing to deserialize content of type {kind}: add its serializer to the setting accept_content"
            " if the sender is trusted."
        )
    codec = _by_type.get(kind)
    if codec is None or ("kombu.serialization" in sys.modules and is_replaced(codec.name)):
        return _load_by_kombu(data, kind, content_encoding)
    if codec.decode is decode_json and content_encoding == "utf-8":
        return decode_json(data)
    try:
        return codec.decode(_as_stored(data, codec.content_encoding, content_encoding))
    except (DecodeError, ImproperlyConfigured):
        raise
    except Exception as exc:  # a serializer of others may raise anything; the caller waits for one kind
        raise DecodeError(f"The data is not the {codec.name} it should be: {exc}.") from exc


def reads_json(accept: frozenset[str] | None) -> bool:
    """Whether `loads` reads JSON with *accept*, and does so by `decode_json`."""
    if accept is not None and JSON not in accept:
        return False
    codec = _by_type.get(JSON)
    if codec is None or codec.decode is not decode_json:
        return False
    return "kombu.serialization" not in sys.modules or not is_replaced("json")


def _as_stored(data: bytes | str, wanted: str, content_encoding: str | None) -> bytes | str:
    """Bytes for a binary codec, otherwise text in the encoding that the message names."""
    if wanted == "binary":
        return data.encode("utf-8") if isinstance(data, str) else data
    if isinstance(data, str):
        return data
    named = (content_encoding or "utf-8").lower()
    return data.decode("utf-8" if named in {"binary", "ascii-8bit"} else named)


def _load_raw(data: bytes | str, kind: str, content_encoding: str | None) -> bytes | str:
    binary = content_encoding in {None, "", "binary", "ascii-8bit"}
    if isinstance(data, str) or (binary and kind == "application/data"):
        return data
    try:
        return data.decode("utf-8" if binary else str(content_encoding))
    except (LookupError, ValueError) as exc:
        raise DecodeError(f"The text of the message is not {content_encoding}: {exc}.") from exc


def _load_by_kombu(data: bytes | str, kind: str, content_encoding: str | None) -> Any:
    registry = _kombu_registry()
    if kind not in registry.type_to_name:
        raise DecodeError(
            f"There is no serializer for content of type {kind}; add it with kombu.serialization.register."
        )
    try:
        return registry.loads(data, kind, content_encoding or "utf-8", accept={kind})
    except Exception as exc:  # see loads
        raise DecodeError(f"The data is not the {kind} it should be: {exc}.") from exc


def _is_signed(kind: str) -> bool:
    """Whether `celery.security` has taken this type over, which is raw bytes without it."""
    return "celery.security.serialization" in sys.modules and kind in _kombu_registry()._decoders


def accept_types(names: Iterable[str] | None) -> frozenset[str] | None:
    """The content types of serializers given by name or by content type; None stays None."""
    return None if names is None else frozenset(map(_content_type, names))


def _content_type(name: str) -> str:
    if "/" in name:
        return name
    codec = _codecs.get(name)
    if codec is not None:
        return codec.content_type
    content_type = _kombu_registry().name_to_type.get(name)
    if content_type is None:
        raise ImproperlyConfigured(
            f"accept_content names {name!r}, which is no serializer; use {', '.join(registered())}, a content type,"
            " or add it with kombu.serialization.register."
        )
    return str(content_type)
