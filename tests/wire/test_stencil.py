"""Messages that are written by filling holes have the bytes of messages that are written as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery.wire.protocol import Message, encode_envelope, split_body, task_message
from celery.wire.stencil import Stencil, hole

HOLES = ("eta", "expires", "group", "group_index", "parent_id")
TAG = "018bcfe5-6800-7000-8000-000000000000"


def draft(args: Any, kwargs: Any, **options: Any) -> Message:
    message = task_message("proj.add", "an-id", args, kwargs, reply_to="here", **options)
    message.properties.pop("delivery_tag")
    message.properties.pop("body_encoding")
    return message


def stencil(**options: Any) -> Stencil:
    message = draft((), {}, argsrepr=hole("argsrepr"), kwargsrepr=hole("kwargsrepr"), **options)
    for name in ("id", "root_id", *HOLES):
        message.headers[name] = hole(name)
    for name in ("correlation_id", "reply_to"):
        message.properties[name] = hole(name)
    return Stencil(message)


@pytest.mark.parametrize("options", [{}, {"time_limit": 1.5}, {"headers": {"trace": "é"}}, {"priority": 2**70}])
@given(
    st.lists(st.none() | st.integers() | st.text(max_size=4) | st.floats(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.lists(st.booleans(), max_size=2), max_size=2),
)
def test_filled_and_written_whole(options: dict[str, Any], args: list[Any], kwargs: dict[str, Any]) -> None:
    message = draft(args, kwargs, **options)
    message.properties |= {"body_encoding": "base64", "delivery_tag": TAG}
    whole = encode_envelope(message)
    cut = stencil(**options)
    assert cut.fits(*HOLES)
    body, argsrepr, kwargsrepr = cut.pack(args, kwargs)
    assert body == message.body
    plain = cut.fill_plain(body, b"an-id", argsrepr, kwargsrepr, b"here", TAG.encode())
    values = {"id": "an-id", "root_id": "an-id", "correlation_id": "an-id", "reply_to": "here", "delivery_tag": TAG}
    assert plain == cut.fill(body, argsrepr, kwargsrepr, dict.fromkeys(HOLES) | values) == whole


def test_the_other_holes_take_any_value() -> None:
    cut, values = stencil(), {"eta": "2030", "expires": None, "group": 'a"b', "group_index": 3, "parent_id": "é"}
    names = ("id", "root_id", "correlation_id", "reply_to", "delivery_tag")
    raw = cut.fill(*cut.pack((1,), {}), values | dict.fromkeys(names, "x"))
    message = draft((1,), {}, **{name: value for name, value in values.items() if name != "expires"})
    message.headers |= {"id": "x", "root_id": "x"}
    message.properties |= {"correlation_id": "x", "reply_to": "x", "body_encoding": "base64", "delivery_tag": "x"}
    assert raw == encode_envelope(message)
    assert split_body(message)[0] == [1]


def test_what_does_not_fit_is_known() -> None:
    assert not stencil().fits("eta")
    assert not stencil().fits(*HOLES, "expiration")
    message = draft((), {}, argsrepr=hole("argsrepr"), shadow=hole("argsrepr"))
    assert not Stencil(message).fits()
