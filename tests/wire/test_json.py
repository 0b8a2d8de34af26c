"""JSON round trips: whatever the value, kombu reads what we write and we read what kombu writes."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
import uuid
from typing import Any

import kombu.utils.json as kombu_json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery.exceptions import DecodeError, EncodeError
from celery.wire.serialization import decode_json, encode_json

OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
SPECIALS = (
    st.datetimes(timezones=st.none() | OFFSETS).map(lambda moment: moment.replace(fold=0))  # ISO 8601 has no fold
    | st.dates()
    | st.times().map(lambda moment: moment.replace(fold=0))
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary(max_size=40)
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | SPECIALS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_we_read_what_we_write(value: Any) -> None:
    assert repr(decode_json(encode_json(value))) == repr(value)


@given(VALUES)
def test_kombu_reads_what_we_write(value: Any) -> None:
    assert repr(kombu_json.loads(encode_json(value))) == repr(value)


@given(VALUES)
def test_we_read_what_kombu_writes(value: Any) -> None:
    text = kombu_json.dumps(value)
    assert repr(decode_json(text)) == repr(kombu_json.loads(text))
    assert json.loads(text) == json.loads(encode_json(value)) or "NaN" in text


@given(st.text() | st.binary(max_size=60))
def test_any_text_is_read_as_kombu_reads_it_or_refused(text: str | bytes) -> None:
    try:
        expected = kombu_json.loads(text)
    except Exception:  # noqa: BLE001 - kombu raises many kinds
        with pytest.raises(DecodeError):
            decode_json(text)
    else:
        assert repr(decode_json(text)) == repr(expected)


class Colour(str, enum.Enum):  # noqa: UP042 - the usual form
    RED = "red"


class Own:
    def __json__(self) -> Any:
        return {"own": 1}


@pytest.mark.parametrize("value", [(1, 2), {1: "a", None: "b", 2.5: "c"}, Colour.RED, Own(), {"a": [Own()]}, 10**40])
def test_what_is_not_json_is_written_as_kombu_does(value: Any) -> None:
    assert json.loads(encode_json(value)) == json.loads(kombu_json.dumps(value))


@pytest.mark.parametrize("value", [{1, 2}, object(), dt.timedelta(1), {(1, 2): 3}, 1j, lambda: None, [object]])
def test_what_kombu_refuses_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        kombu_json.dumps(value)
    with pytest.raises(EncodeError, match="does not become JSON"):
        encode_json(value)


def test_a_value_in_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodeError, match="contains itself"):
        encode_json(value)


def test_deep_nesting_is_refused_both_ways() -> None:
    with pytest.raises(DecodeError, match="deeply"):
        decode_json(b"[" * 100_000 + b"]" * 100_000)
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(EncodeError):
        encode_json(value)
    while isinstance(value, list):  # taken apart by hand: freeing it at once recurses as deeply
        value = value[0]


@pytest.mark.parametrize(
    "text",
    [
        '{"__type__": "foo", "__value__": 1}',
        '{"__type__": "datetime", "__value__": "xx"}',
        '{"__type__": "uuid", "__value__": {"hex": "05"}}',
        '{"__type__": "uuid", "__value__": "5"}',
        '{"__type__": "decimal", "__value__": "x"}',
        '{"__type__": "bytes", "__value__": 5}',
        '{"__type__": 5, "__value__": 5}',
        '{"__type__": [], "__value__": 5}',
        "{",
        "",
        "nul",
        '"\x01"',
    ],
)
def test_bad_json_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_json(text)
    assert str(caught.value).count("\n") == 0


def test_a_special_lookalike_stays_a_map() -> None:
    for text in ('{"__type__": "datetime"}', '{"__type__": "datetime", "__value__": "x", "more": 1}'):
        assert decode_json(text) == json.loads(text)


def test_types_given_to_kombu_are_known() -> None:
    kombu_json.register_type(complex, "wire-test-complex", lambda z: [z.real, z.imag], lambda parts: complex(*parts))
    try:
        assert decode_json(encode_json({"z": 1 + 2j})) == {"z": 1 + 2j}
    finally:
        kombu_json._encoders.pop(complex, None)
        kombu_json._decoders.pop("wire-test-complex", None)


def test_nan_and_infinity_survive() -> None:
    back = decode_json(encode_json([float("nan"), float("inf"), -float("inf"), -0.0]))
    assert math.isnan(back[0])
    assert back[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, back[3]) == -1


def test_signalling_decimals() -> None:
    assert decode_json(encode_json(decimal.Decimal("-Infinity"))) == decimal.Decimal("-Infinity")
    assert decode_json(encode_json(uuid.UUID(int=1))) == uuid.UUID(int=1)
