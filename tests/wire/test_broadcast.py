"""Control messages and events, beside what the original was seen to send."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from celery.exceptions import ContentDisallowed, DecodeError, EncodeError
from celery.wire import broadcast
from celery.wire.serialization import accept_types

PING = {
    "method": "ping",
    "arguments": {},
    "destination": None,
    "pattern": None,
    "matcher": None,
    "ticket": "b0aff909-bbac-4f97-bdfb-8b426a6e79d3",
    "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "0b5162ec-7ab3-3920-a521-48710d6706e5"},
}
ORIGINAL = {
    "body": base64.b64encode(json.dumps(PING).encode()).decode(),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"clock": 1, "expires": 1795855593.3721044},
    "properties": {
        "delivery_mode": 2,
        "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "62e2dc62-0eed-43a1-9f17-11180f0f34b6",
    },
}
"""A request as the original writes it."""


def shape(value: Any) -> Any:
    """Keys and kinds."""
    return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else type(value)


def test_a_request_of_the_original_is_read() -> None:
    notice = broadcast.decode(json.dumps(ORIGINAL).encode(), accept_types(["json"]))
    assert notice.body == PING
    assert notice.exchange == "celery.pidbox"
    assert notice.routing_key == ""
    assert notice.headers["expires"] == 1795855593.3721044
    assert broadcast.clock_of(notice) == 1


def test_a_request_is_written_as_the_original_writes_it() -> None:
    raw = broadcast.encode(
        PING,
        exchange="celery.pidbox",
        headers={"clock": 1, "expires": 1795855593.37},
        delivery_mode=broadcast.PERSISTENT,
    )
    written = json.loads(raw)
    assert shape(written) == shape(ORIGINAL)
    assert json.loads(base64.b64decode(written["body"])) == PING
    assert written["properties"] == ORIGINAL["properties"] | {"delivery_tag": written["properties"]["delivery_tag"]}


@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle", "msgpack"])
def test_any_serializer_that_the_reader_accepts(serializer: str) -> None:
    body = [{"type": "task-started", "clock": 7}]
    raw = broadcast.encode(body, exchange="celeryev", routing_key="task.multi", serializer=serializer)
    notice = broadcast.decode(raw, accept_types([serializer]))
    assert (notice.body, notice.exchange, notice.routing_key) == (body, "celeryev", "task.multi")


def test_content_that_is_not_accepted_is_refused() -> None:
    raw = broadcast.encode({}, exchange="celery.pidbox", serializer="pickle")
    with pytest.raises(ContentDisallowed):
        broadcast.decode(raw, accept_types(["json"]))
    with pytest.raises(ContentDisallowed):
        broadcast.decode(raw)


def test_what_the_serializer_has_no_word_for_becomes_its_repr() -> None:
    raw = broadcast.encode({"a": {1, 2}, "b": int, 3: ("x",), "c": 1.5}, exchange="e")
    assert broadcast.decode(raw).body == {"a": [1, 2], "b": "<class 'int'>", "3": ["x"], "c": 1.5}


def test_what_contains_itself_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    with pytest.raises(EncodeError, match="contains itself"):
        broadcast.encode(circle, exchange="e")


NOT_BASE64 = b'{"body": "\\u00e9", "properties": {"body_encoding": "base64"}}'


@pytest.mark.parametrize("raw", [b"", b"x", b"[]", b"{}", b'{"body": 3}', NOT_BASE64])
def test_what_is_no_envelope_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        broadcast.decode(raw)


def test_a_body_that_is_no_map_is_refused_where_one_is_needed() -> None:
    notice = broadcast.decode(broadcast.encode([1], exchange="e"))
    with pytest.raises(DecodeError, match="not a map"):
        broadcast.mapping(notice)


def test_topics_are_exchanges_and_their_routing_keys() -> None:
    assert broadcast.topic("celery.pidbox") == "celery.pidbox"
    assert broadcast.topic("celeryev", "worker.heartbeat") == "celeryev/worker.heartbeat"
