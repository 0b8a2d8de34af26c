"""What the original Celery puts on the wire is read, and written again field for field; kombu is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kombu.compression
import kombu.serialization
import pytest
from kombu.utils.json import loads as kombu_loads

from celery.wire.errors import exception_from_data, exception_to_data
from celery.wire.protocol import (
    Message,
    decode_envelope,
    encode_envelope,
    load_body,
    peek,
    split_body,
    task_message,
)
from celery.wire.serialization import accept_types, decode_json, encode_json

GOLDEN = Path(__file__).parent / "golden"
MESSAGES = {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("*.json"))}
RESULTS = {path.stem: path.read_bytes() for path in sorted((GOLDEN / "results").glob("*.json"))}
ALL = accept_types(["json", "msgpack", "yaml", "pickle"])
SERIALIZERS = {
    "application/json": "json",
    "application/x-msgpack": "msgpack",
    "application/x-yaml": "yaml",
    "application/x-python-serialize": "pickle",
}


def same(left: Any, right: Any) -> bool:
    """Equality that holds for NaN, and in which a tuple is a list."""
    return repr(_listed(left)) == repr(_listed(right))


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(value[key]) for key in sorted(value)}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def body_by_kombu(envelope: dict[str, Any], message: Message) -> Any:
    body = message.body
    if "compression" in envelope["headers"]:
        body = kombu.compression.decompress(body, envelope["headers"]["compression"])
    return kombu.serialization.loads(body, envelope["content-type"], envelope["content-encoding"], accept=ALL)


def test_the_capture_is_complete() -> None:
    assert len(MESSAGES) >= 45
    assert len(RESULTS) >= 17


@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_of_the_original_is_read(case: str) -> None:
    raw = MESSAGES[case]
    envelope = kombu_loads(raw)
    message = decode_envelope(raw)
    assert same(message.headers, envelope["headers"])
    assert same(message.properties, envelope["properties"])
    assert (message.content_type, message.content_encoding) == (envelope["content-type"], envelope["content-encoding"])
    assert same(load_body(message, ALL), body_by_kombu(envelope, message))


@pytest.mark.parametrize("case", MESSAGES)
def test_the_head_says_what_the_headers_say(case: str) -> None:
    raw = MESSAGES[case]
    envelope = kombu_loads(raw)
    message = decode_envelope(raw)
    head = peek(raw, ALL)
    fields = envelope["headers"] if "task" in envelope["headers"] else body_by_kombu(envelope, message)
    for name in ("task", "id", "eta", "expires", "retries", "group"):
        assert getattr(head, name) == fields.get(name), name
    assert list(head.timelimit) == list(fields["timelimit"])
    assert head.protocol == (1 if case.startswith("protocol1") else 2)
    for name in ("priority", "reply_to", "correlation_id", "delivery_tag"):
        assert getattr(head, name) == envelope["properties"][name], name
    assert {"exchange": head.exchange, "routing_key": head.routing_key} == envelope["properties"]["delivery_info"]
    if head.protocol == 2:
        for name in ("root_id", "parent_id", "argsrepr", "kwargsrepr", "shadow", "origin", "ignore_result", "stamps"):
            assert getattr(head, name) == fields.get(name), name


@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_is_written_again_field_for_field(case: str) -> None:
    raw = MESSAGES[case]
    assert same(kombu_loads(encode_envelope(decode_envelope(raw))), kombu_loads(raw))


@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_is_rebuilt_from_its_parts(case: str) -> None:
    # Given what the original's message says, as a sender would say it to us
    original = kombu_loads(MESSAGES[case])
    message = decode_envelope(MESSAGES[case])
    args, kwargs, embed = split_body(message, ALL)
    protocol = peek(MESSAGES[case], ALL).protocol
    fields = dict(message.headers if protocol == 2 else load_body(message, ALL))
    info = message.properties["delivery_info"]
    hard, soft = fields["timelimit"]
    ours = set(task_message("x", "y").headers) | {"compression"}
    # When we write it
    rebuilt = task_message(
        fields["task"],
        fields["id"],
        args,
        kwargs,
        protocol=protocol,
        time_limit=hard,
        soft_time_limit=soft,
        serializer=SERIALIZERS[message.content_type],
        compress=message.headers.get("compression"),
        headers={key: value for key, value in message.headers.items() if key not in ours},
        exchange=info["exchange"],
        routing_key=info["routing_key"],
        properties={key: value for key, value in message.properties.items() if key not in STANDARD},
        **{key: message.properties[key] for key in ("reply_to", "correlation_id", "priority", "delivery_mode")},
        **{key: fields[key] for key in ("eta", "expires", "group", "group_index", "retries")},
        **{key: fields[key] for key in OWN_FIELDS if key in fields and protocol == 2},
        **{key: value for key, value in embed.items() if protocol == 2 or key != "chain"},
    )
    again = kombu_loads(encode_envelope(rebuilt))
    # Then nothing differs but the delivery tag, which every message has of its own
    tags = again["properties"].pop("delivery_tag"), original["properties"].pop("delivery_tag")
    assert tags[0] != tags[1]
    assert same(again["headers"], original["headers"])
    assert same(again["properties"], original["properties"])
    assert (again["content-type"], again["content-encoding"]) == (
        original["content-type"],
        original["content-encoding"],
    )
    assert same(body_by_kombu(again, rebuilt), body_by_kombu(original, message))


STANDARD = {*task_message("x", "y").properties}
"""What else the original puts there: the expiration, and options of the call that it does not know."""
OWN_FIELDS = (
    "root_id",
    "parent_id",
    "shadow",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
)


@pytest.mark.parametrize("case", MESSAGES)
def test_pickle_is_refused_unless_it_is_accepted(case: str) -> None:
    message = decode_envelope(MESSAGES[case])
    if message.content_type == "application/x-python-serialize":
        for accept in (None, accept_types(["json"])):
            with pytest.raises(ValueError, match="accept_content"):
                split_body(message, accept)


@pytest.mark.parametrize("case", RESULTS)
def test_a_result_of_the_original_is_read_and_written(case: str) -> None:
    raw = RESULTS[case]
    value = decode_json(raw)
    assert same(value, kombu_loads(raw))
    assert same(kombu_loads(encode_json(value)), value)


@pytest.mark.parametrize("case", [case for case in RESULTS if "failure" in case or "retry" in case or "err" in case])
def test_an_exception_of_the_original_comes_back(case: str) -> None:
    data = json.loads(RESULTS[case])["result"]
    exc = exception_from_data(decode_json(RESULTS[case])["result"])
    assert type(exc).__name__ == data["exc_type"]
    assert type(exc).__module__ == data["exc_module"]
    assert len(exc.args) == len(data["exc_message"])
    assert json.loads(encode_json(exception_to_data(exc))) == data
