"""Serializers by name, content types by acceptance, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import kombu.serialization
import pytest

from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from celery.wire import compression, serialization
from celery.wire.serialization import accept_types, dumps, loads

ALL = accept_types(["json", "msgpack", "yaml", "pickle"])
VALUE = {"a": [1, "é", None, 1.5, True], "b": {"c": "d"}}


@pytest.mark.parametrize("name", ["json", "msgpack", "yaml", "pickle"])
def test_round_trip_and_kombu_agree(name: str) -> None:
    content_type, content_encoding, data = dumps(VALUE, name)
    assert loads(data, content_type, content_encoding, ALL) == VALUE
    assert kombu.serialization.loads(data, content_type, content_encoding, accept=ALL) == VALUE
    theirs = kombu.serialization.dumps(VALUE, serializer=name)
    assert (content_type, content_encoding) == theirs[:2]
    assert loads(theirs[2], theirs[0], theirs[1], ALL) == VALUE


@pytest.mark.parametrize(
    ("value", "serializer"), [("text é", None), (b"\xff", None), ("text", "raw"), (b"\xff", "raw"), ([1], None)]
)
def test_raw_content(value: Any, serializer: str | None) -> None:
    content_type, content_encoding, data = dumps(value, serializer)
    assert (content_type, content_encoding) == kombu.serialization.dumps(value, serializer=serializer)[:2]
    back = loads(data, content_type, content_encoding, frozenset({serialization.JSON}))
    assert back == (
        value.encode() if serializer == "raw" and isinstance(value, str) and isinstance(back, bytes) else value
    )


def test_text_in_another_encoding() -> None:
    assert loads("č".encode("iso-8859-2"), "text/plain", "iso-8859-2") == "č"
    assert loads('"č"'.encode("iso-8859-2"), "application/json", "iso-8859-2") == "č"
    with pytest.raises(DecodeError):
        loads(b"x", "text/plain", "no-such-encoding")
    with pytest.raises(DecodeError):
        loads(b"\xff", "text/plain", "utf-8")
    with pytest.raises(DecodeError):
        loads(b"\xff", "application/json", "utf-8")


@pytest.mark.parametrize("name", ["pickle"])
def test_what_can_run_code_is_refused_by_default(name: str) -> None:
    content_type, content_encoding, data = dumps(VALUE, name)
    for accept in (None, frozenset(), accept_types(["json"])):
        with pytest.raises(ContentDisallowed, match="accept_content"):
            loads(data, content_type, content_encoding, accept)


def test_json_is_refused_where_only_pickle_is_accepted() -> None:
    with pytest.raises(ContentDisallowed):
        loads(b"1", "application/json", "utf-8", accept_types(["pickle"]))


@pytest.mark.parametrize("name", ["json", "msgpack", "yaml", "pickle"])
def test_damaged_data_is_a_decode_error(name: str) -> None:
    content_type, content_encoding, _ = dumps(VALUE, name)
    with pytest.raises(DecodeError):
        loads(b"\x80\x04\x95 [{'", content_type, content_encoding, ALL)


@pytest.mark.parametrize("name", ["json", "msgpack", "yaml", "pickle"])
def test_what_cannot_be_carried_is_an_encode_error(name: str) -> None:
    with pytest.raises(EncodeError):
        dumps({"a": lambda: None}, name)


def test_unknown_names_say_which_are_known() -> None:
    with pytest.raises(EncodeError, match="json, msgpack, pickle"):
        dumps(1, "nope")
    with pytest.raises(DecodeError, match="application/x-nope"):
        loads(b"1", "application/x-nope", "utf-8")
    with pytest.raises(ImproperlyConfigured, match="'nope'"):
        accept_types(["json", "nope"])
    with pytest.raises(EncodeError, match="bytes or text"):
        dumps(1, "raw")


def test_a_serializer_of_ours() -> None:
    serialization.register("test-upper", lambda v: v.upper(), lambda t: t.lower(), "application/x-test-upper")
    assert dumps("abc", "test-upper") == ("application/x-test-upper", "utf-8", b"ABC")
    assert loads(b"ABC", "application/x-test-upper", "utf-8", accept_types(["test-upper"])) == "abc"


@pytest.fixture
def own_json() -> Iterator[None]:
    """A program's own JSON, in which sets are something."""
    before = kombu.serialization.registry._encoders["json"], kombu.serialization.registry._decoders[serialization.JSON]

    def encode(value: Any) -> str:
        return json.dumps(value, default=lambda one: {"set": sorted(one)})

    def decode(text: str) -> Any:
        return json.loads(text, object_hook=lambda one: set(one["set"]) if "set" in one else one)

    kombu.serialization.register("json", encode, decode, serialization.JSON, "utf-8")
    yield
    kombu.serialization.registry._encoders["json"], kombu.serialization.registry._decoders[serialization.JSON] = before


@pytest.mark.usefixtures("own_json")
def test_a_serializer_that_kombu_was_given_in_place_of_its_own() -> None:
    content_type, content_encoding, data = dumps({"a": {1, 2}}, "json")
    assert (content_type, content_encoding, data) == ("application/json", "utf-8", b'{"a": {"set": [1, 2]}}')
    assert loads(data, content_type, content_encoding, ALL) == {"a": {1, 2}}
    assert dumps(None)[:2] == ("application/json", "utf-8")
    assert dumps(b"x", None)[:2] == ("application/data", "binary")
    assert dumps({"a": 1}, "msgpack")[0] == "application/x-msgpack"


@pytest.mark.usefixtures("own_json")
def test_arguments_and_results_go_through_it() -> None:
    app = Celery("own", broker="memory://own-json", backend="memory://own-json")
    task = app.task(name="union")(lambda one, other: one | other)
    with start_worker(app, perform_ping_check=False):
        assert task.delay({1}, {2}).get(timeout=30) == {1, 2}


def test_it_is_kombus_own_until_then() -> None:
    assert not any(map(serialization.is_replaced, ("json", "yaml", "msgpack", "pickle", "raw", "nothing")))


def test_a_serializer_registered_with_kombu() -> None:
    kombu.serialization.register(
        "test-reverse", lambda v: v[::-1], lambda data: data[::-1].decode(), "application/x-test-reverse", "utf-8"
    )
    try:
        accept = accept_types(["test-reverse"])
        assert accept == {"application/x-test-reverse"}
        assert dumps("abc", "test-reverse") == ("application/x-test-reverse", "utf-8", b"cba")
        assert loads(b"cba", "application/x-test-reverse", "utf-8", accept) == "abc"
        with pytest.raises(EncodeError, match="test-reverse"):
            dumps(5, "test-reverse")
    finally:
        kombu.serialization.unregister("test-reverse")


def test_accept_none_stays_none() -> None:
    assert accept_types(None) is None
    assert accept_types(["application/x-anything"]) == {"application/x-anything"}


@pytest.mark.parametrize("module", ["serialization", "protocol", "errors", "compression", "message"])
def test_kombu_is_left_out(module: str) -> None:
    code = f"import sys, celery.wire.{module}; sys.exit(any(m.split('.')[0] == 'kombu' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["zlib", "gzip", "bzip2", "bzip", "lzma", "xz"])
def test_compression_is_kombus(name: str) -> None:
    import kombu.compression

    data = b"abc" * 1000
    packed, content_type = compression.compress(data, name)
    assert len(packed) < len(data)
    assert compression.decompress(packed, content_type) == data
    assert kombu.compression.decompress(packed, content_type) == data
    theirs, their_type = kombu.compression.compress(data, name)
    assert their_type == content_type
    assert compression.decompress(theirs, their_type) == data


def test_real_gzip_is_read() -> None:
    import gzip

    assert compression.decompress(gzip.compress(b"abc"), "application/x-gzip") == b"abc"


@pytest.mark.parametrize("name", ["zlib", "bzip2", "lzma"])
def test_damaged_and_huge_data_is_refused(name: str) -> None:
    packed, content_type = compression.compress(b"\0" * 1_000_000, name)
    assert len(compression.decompress(packed, content_type, limit=1_000_000)) == 1_000_000
    with pytest.raises(DecodeError, match="more than 999999 bytes"):
        compression.decompress(packed, content_type, limit=999_999)
    with pytest.raises(DecodeError, match="ends too early"):
        compression.decompress(packed[: len(packed) // 2], content_type)
    with pytest.raises(DecodeError):
        compression.decompress(b"not at all", content_type)


def test_unknown_compression() -> None:
    with pytest.raises(DecodeError, match="'application/x-nope'"):
        compression.decompress(b"", "application/x-nope")
    with pytest.raises(EncodeError, match="zlib"):
        compression.compress(b"", "nope")
