"""Envelopes: what is written is read, and what is wrong is said in one sentence."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kombu.utils.json import loads as kombu_loads

from celery.exceptions import CeleryError, ContentDisallowed, DecodeError, EncodeError
from celery.wire.protocol import Message, decode_envelope, encode_envelope, peek, split_body, task_message
from celery.wire.serialization import accept_types

JSON = accept_types(["json"])


def envelope(headers: Any = None, properties: Any = None, body: Any = "W10=", **more: Any) -> bytes:
    parts: dict[str, Any] = {
        "body": body,
        "headers": {"task": "t", "id": "i"} if headers is None else headers,
        "properties": {"body_encoding": "base64"} if properties is None else properties,
        "content-type": "application/json",
        "content-encoding": "utf-8",
    }
    return json.dumps(parts | more).encode()


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_message_there_and_back(protocol: int) -> None:
    message = task_message(
        "proj.add",
        "id-1",
        (1, 2),
        {"z": dt.date(2026, 8, 1)},
        protocol=protocol,
        callbacks=[{"task": "x"}],
        eta=dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
        expires="2031-01-01T00:00:00+00:00",
        group="g",
        retries=2,
        time_limit=30,
        soft_time_limit=20.5,
        priority=7,
        reply_to="me",
        expiration=1.5,
        exchange="e",
        routing_key="r",
    )
    raw = encode_envelope(message)
    assert decode_envelope(raw) == message
    head = peek(raw)
    assert (head.task, head.id, head.group, head.retries, head.protocol) == ("proj.add", "id-1", "g", 2, protocol)
    assert (head.eta, head.expires) == ("2030-01-01T00:00:00+00:00", "2031-01-01T00:00:00+00:00")
    assert head.timelimit == (30, 20.5)
    assert (head.priority, head.reply_to, head.correlation_id) == (7, "me", "id-1")
    assert (head.exchange, head.routing_key) == ("e", "r")
    assert head.argsrepr == "[1, 2]" if protocol == 1 else "(1, 2)"
    assert message.properties["expiration"] == "1500"
    args, kwargs, embed = split_body(decode_envelope(raw), JSON)
    assert (args, kwargs) == ([1, 2], {"z": dt.date(2026, 8, 1)})
    assert embed == {"callbacks": [{"task": "x"}], "errbacks": None, "chain": None, "chord": None}


HEADER_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=6,
)


@given(
    headers=st.dictionaries(st.text(st.characters()), HEADER_VALUES, max_size=4),
    args=st.lists(HEADER_VALUES, max_size=3),
)
def test_any_header_travels(headers: dict[str, Any], args: list[Any]) -> None:
    message = task_message("t", "i", args, headers=headers)
    raw = encode_envelope(message)
    back = decode_envelope(raw)
    assert back.headers == message.headers == kombu_loads(raw)["headers"]
    assert split_body(back, JSON)[0] == args
    if not {"task", "id"} & set(headers):
        try:
            assert peek(raw).task == "t"
        except DecodeError:  # a header of ours was overwritten by something that cannot be read
            assert set(headers) & set(task_message("t", "i").headers)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_noise_is_refused(raw: bytes) -> None:
    assume(b'"body"' not in raw)  # else it may be an envelope
    for read in (peek, decode_envelope):
        with pytest.raises(DecodeError):
            read(raw)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["task", "id", "eta", "retries", "timelimit", "group", "stamps", "stamped_headers", "redelivered", "replays"]


@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES),
    st.dictionaries(st.sampled_from(["priority", "delivery_info", "body_encoding", "reply_to"]), JSON_VALUES),
    JSON_VALUES,
)
def test_whatever_stands_in_a_field_nothing_but_a_decode_error_comes_out(
    headers: Any, properties: Any, body: Any
) -> None:
    raw = envelope(headers, properties, body)
    said: list[str] = []
    for read in (peek, decode_envelope, lambda raw: split_body(decode_envelope(raw))):
        try:
            read(raw)
        except DecodeError as exc:
            said.append(str(exc))
    assert not [text for text in said if "\n" in text]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "no envelope"),
        (b"[1]", "a list, not a map"),
        (b"{}", "body is of type NoneType"),
        (envelope(body=5), "body is of type int"),
        (envelope(headers=[1]), "headers are a list"),
        (envelope(properties=5), "properties are of type int"),
        (envelope(body="A", properties={"body_encoding": "base64"}), "base64"),
        (envelope(properties={"body_encoding": "rot13"}), "rot13"),
        (envelope(headers={"task": "t"}), "'id' is missing"),
        (envelope(headers={"task": "", "id": "i"}), "'task' is empty"),
        (envelope(headers={"task": 5, "id": "i"}), "'task' is of type int and not text"),
        (envelope(headers={"task": "t", "id": {}}), "'id' is a map and not text"),
        (envelope(headers={}), "neither its headers nor its body"),
        (envelope(headers={"task": "t", "id": "i", "retries": "many"}), "'retries' is text and not a number"),
        (envelope(headers={"task": "t", "id": "i", "timelimit": [1]}), "'timelimit'"),
    ],
)
def test_what_is_wrong_is_said(raw: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        (peek(raw), decode_envelope(raw))


def test_what_other_writers_leave_out_or_write_otherwise() -> None:
    # Given a message as a client in another language writes it
    raw = envelope(
        headers={"task": "t", "id": "i", "retries": None, "timelimit": None, "eta": "", "group": 5, "shadow": None},
        properties={"delivery_tag": 7, "priority": "3", "delivery_info": None, "body_encoding": "base64"},
    )
    # When we look at its head
    head = peek(raw)
    # Then it is what the fields mean
    assert (head.retries, head.timelimit, head.eta, head.group) == (0, (None, None), None, "5")
    assert (head.delivery_tag, head.priority, head.exchange) == ("7", 3, "")


def test_redelivery_is_said_by_headers_or_delivery_info() -> None:
    assert not peek(envelope()).redelivered
    assert peek(envelope(headers={"task": "t", "id": "i", "redelivered": True})).redelivered
    assert peek(envelope(properties={"delivery_info": {"redelivered": True}})).redelivered
    assert peek(envelope(headers={"task": "t", "id": "i", "priority": 5})).priority is None


def test_a_body_that_is_not_base64_is_text() -> None:
    raw = envelope(properties={}, body='[[1], {"a": "é"}, {}]')
    assert split_body(decode_envelope(raw), JSON) == ([1], {"a": "é"}, {})


@pytest.mark.parametrize("body", [b"5", b"[1, 2]", b"[5, {}, {}]", b"[[], [], {}]", b'"x"', b'{"a": 1}'])
def test_a_body_that_is_no_task_is_refused(body: bytes) -> None:
    raw = envelope(body=base64.b64encode(body).decode())
    with pytest.raises(DecodeError):
        split_body(decode_envelope(raw), JSON)


def test_nulls_in_the_body_are_empty() -> None:
    raw = envelope(body=base64.b64encode(b"[null, null, null]").decode())
    assert split_body(decode_envelope(raw), JSON) == ([], {}, {})


def test_the_body_is_not_read_by_peek() -> None:
    assert peek(envelope(body="*** not base64 ***")).task == "t"


def test_protocol_1_pickle_is_not_read_by_peek_unless_accepted() -> None:
    raw = encode_envelope(task_message("t", "i", protocol=1, serializer="pickle"))
    with pytest.raises(ContentDisallowed):
        peek(raw)
    assert peek(raw, accept_types(["pickle"])).task == "t"


def test_unknown_compression_and_codec_are_decode_errors() -> None:
    message = task_message("t", "i")
    message.headers["compression"] = "application/x-nope"
    with pytest.raises(DecodeError, match="x-nope"):
        split_body(decode_envelope(encode_envelope(message)))
    message = task_message("t", "i")
    message.content_type = "application/x-nope"
    with pytest.raises(DecodeError, match="x-nope"):
        split_body(decode_envelope(encode_envelope(message)))


def test_arguments_that_cannot_be_carried_are_encode_errors() -> None:
    with pytest.raises(EncodeError, match="not JSON serializable"):
        task_message("t", "i", (object(),))
    with pytest.raises(EncodeError):
        encode_envelope(Message({"x": object()}, {}, b""))
    assert issubclass(EncodeError, CeleryError)


def test_every_message_has_a_tag_of_its_own() -> None:
    tags = {task_message("t", "i").properties["delivery_tag"] for _ in range(1000)}
    assert len(tags) == 1000
    message = Message({}, {}, b"")
    assert decode_envelope(encode_envelope(message)).properties["delivery_tag"]


def test_an_envelope_of_many_megabytes() -> None:
    message = task_message("t", "i", ("x" * 20_000_000,))
    raw = encode_envelope(message)
    assert len(peek(raw).argsrepr or "") <= 1024 + 20
    assert len(split_body(decode_envelope(raw))[0][0]) == 20_000_000
