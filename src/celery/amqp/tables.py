"""Field tables, the maps of AMQP: to bytes and back, for the types that RabbitMQ knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct
from typing import Any

from celery.exceptions import EncodeError

_LONG, _LONGLONG, _DOUBLE, _FLOAT, _SHORT, _USHORT = (Struct(f">{code}") for code in ("I", "q", "d", "f", "h", "H"))
_INT, _DECIMAL, _TEXT = Struct(">i"), Struct(">Bi"), Struct(">BI")
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
MOST_NAMES = 1000


def encode_table(table: Mapping[str, Any]) -> bytes:
    """With its length before it. Raises `EncodeError` for a value that AMQP has no type for."""
    parts: list[bytes] = []
    names = _NAMES
    for key, value in table.items():
        parts.append(names[key])
        if value is None:
            parts.append(b"V")
        elif type(value) is str:
            raw = value.encode()
            parts.append(_TEXT.pack(83, len(raw)))
            parts.append(raw)
        else:
            parts.append(_encode(value))
    body = b"".join(parts)
    return _LONG.pack(len(body)) + body


class _Names(dict[str, bytes]):
    """Names as they are written; those of the first few that were asked for are kept."""

    def __missing__(self, key: str) -> bytes:
        name = str(key).encode()
        if len(name) > 255:
            raise EncodeError(f"The header {name[:40].decode(errors='replace')!r}… has a name longer than 255 bytes.")
        found = bytes((len(name),)) + name
        if type(key) is str and len(self) < MOST_NAMES:
            self[key] = found
        return found


_NAMES = _Names()


def _encode(value: Any) -> bytes:
    kind = type(value)
    if kind is str:
        raw: bytes = value.encode()
        return b"S" + _LONG.pack(len(raw)) + raw
    if value is None:
        return b"V"
    if kind is int and INT_MIN <= value <= INT_MAX:
        return b"I" + _INT.pack(value)
    if kind is list:
        body = b"".join([_encode(item) for item in value])
        return b"A" + _LONG.pack(len(body)) + body
    if kind is dict:
        return b"F" + encode_table(value)
    return _encode_other(value)


def _encode_other(value: Any) -> bytes:
    """Of the types that are rare, or a kind of one that is not."""
    match value:
        case bool():
            return b"t\x01" if value else b"t\x00"
        case int() if INT_MIN <= value <= INT_MAX:
            return b"I" + _INT.pack(value)
        case int() if LONG_MIN <= value <= LONG_MAX:
            return b"l" + _LONGLONG.pack(value)
        case float():
            return b"d" + _DOUBLE.pack(value)
        case str():
            return _encode(str(value))
        case bytes() | bytearray() | memoryview():
            raw = bytes(value)
            return b"x" + _LONG.pack(len(raw)) + raw
        case Mapping():
            return b"F" + encode_table(value)
        case list() | tuple() | Sequence():
            body = b"".join(map(_encode, value))
            return b"A" + _LONG.pack(len(body)) + body
        case datetime():
            moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            return b"T" + _LONGLONG.pack(int(moment.timestamp()))
        case Decimal():
            sign, digits, exponent = value.as_tuple()
            if isinstance(exponent, int) and -255 <= exponent <= 0:
                number = int("".join(map(str, digits)) or "0")
                return b"D" + _DECIMAL.pack(-exponent, -number if sign else number)
    raise EncodeError(f"The header value {value!r:.60} of type {type(value).__name__} has no form in AMQP.")


def decode_table(raw: bytes, at: int) -> tuple[dict[str, Any], int]:
    """The table whose length stands at *at*, and where it ends. Raises `ValueError` for what is none."""
    end = at + 4 + _LONG.unpack_from(raw, at)[0]
    at += 4
    found: dict[str, Any] = {}
    while at < end:
        stop = at + 1 + raw[at]
        key = raw[at + 1 : stop].decode("utf-8", "surrogateescape")
        kind = raw[stop]
        if kind == 83:  # S: most of them
            at = stop + 5 + _LONG.unpack_from(raw, stop + 1)[0]
            found[key] = _text(raw[stop + 5 : at])
        elif kind == 86:  # V
            found[key], at = None, stop + 1
        else:
            found[key], at = _READERS[kind](raw, stop + 1)
    if at != end:
        raise ValueError("a field table does not end where it says")
    return found, end


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _read_list(raw: bytes, at: int) -> tuple[list[Any], int]:
    end = at + 4 + _LONG.unpack_from(raw, at)[0]
    at += 4
    found = []
    while at < end:
        value, at = _READERS[raw[at]](raw, at + 1)
        found.append(value)
    return found, end


def _read_string(raw: bytes, at: int) -> tuple[str | bytes, int]:
    end = at + 4 + _LONG.unpack_from(raw, at)[0]
    return _text(raw[at + 4 : end]), end


def _read_bytes(raw: bytes, at: int) -> tuple[bytes, int]:
    end = at + 4 + _LONG.unpack_from(raw, at)[0]
    return raw[at + 4 : end], end


def _read_decimal(raw: bytes, at: int) -> tuple[Decimal, int]:
    scale, number = _DECIMAL.unpack_from(raw, at)
    return Decimal(number).scaleb(-scale), at + 5


def _read_moment(raw: bytes, at: int) -> tuple[datetime, int]:
    return datetime.fromtimestamp(_LONGLONG.unpack_from(raw, at)[0], UTC), at + 8


def _number(form: Struct) -> Callable[[bytes, int], tuple[Any, int]]:
    return lambda raw, at: (form.unpack_from(raw, at)[0], at + form.size)


class _Readers(dict[int, Callable[[bytes, int], tuple[Any, int]]]):
    def __missing__(self, kind: int) -> Callable[[bytes, int], tuple[Any, int]]:
        raise ValueError(f"a field table has a value of the unknown type {kind}")


_READERS = _Readers(
    {
        ord("S"): _read_string,
        ord("V"): lambda raw, at: (None, at),
        ord("t"): lambda raw, at: (raw[at] != 0, at + 1),
        ord("b"): _number(Struct(">b")),
        ord("B"): _number(Struct(">B")),
        ord("s"): _number(_SHORT),
        ord("u"): _number(_USHORT),
        ord("I"): _number(_INT),
        ord("i"): _number(_LONG),
        ord("l"): _number(_LONGLONG),
        ord("L"): _number(_LONGLONG),
        ord("f"): _number(_FLOAT),
        ord("d"): _number(_DOUBLE),
        ord("D"): _read_decimal,
        ord("T"): _read_moment,
        ord("F"): decode_table,
        ord("A"): _read_list,
        ord("x"): _read_bytes,
    }
)
