"""Content headers read by what they have in common say what they say when they are read one by one."""

from __future__ import annotations

from struct import error as StructError
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from celery.amqp import frames
from celery.amqp.forms import MOST, Forms
from celery.amqp.frames import Properties, encode_properties

TEXT = st.text(max_size=8)
VALUE = st.one_of(
    TEXT, st.none(), st.integers(-(2**40), 2**40), st.booleans(), st.just([None, 3.5]), st.just({"a": "b"})
)


def header(properties: Properties, size: int = 5) -> bytes:
    return b"\x00<\x00\x00" + size.to_bytes(8, "big") + encode_properties(properties)


def task(number: int, **changes: Any) -> Properties:
    headers = {
        "lang": "py", "task": "t.add", "id": f"id-{number}", "eta": None, "group": None, "retries": 0,
        "timelimit": [None, None], "root_id": f"root-{number % 7}", "argsrepr": f"({number},)", "kwargsrepr": "{}",
        "origin": "gen1@host", "stamps": {},
    }  # fmt: skip
    return Properties("application/json", "utf-8", headers | changes, 2, 0, f"id-{number}", "")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**12),
            st.dictionaries(
                st.sampled_from(["id", "task", "argsrepr", "group_index", "retries", "stamps", "id\x01S"]), VALUE
            ),
            st.one_of(st.none(), TEXT),
            st.one_of(st.none(), st.integers(0, 9)),
        ),
        max_size=30,
    )
)
def test_they_say_the_same(messages: list[tuple[int, dict[str, Any], str | None, int | None]]) -> None:
    forms = Forms()
    for number, changes, correlation, priority in messages:
        properties = task(number, **changes)
        properties.correlation_id, properties.priority = correlation, priority
        raw = header(properties, number)
        assert forms.read(raw) == frames.content_properties(raw)


@given(st.data())
def test_what_is_cut_off_or_changed_says_the_same_or_cannot_be_read(data: st.DataObject) -> None:
    forms = Forms()
    for number in range(3):
        forms.read(header(task(number)))
    raw = bytearray(header(task(data.draw(st.integers(0, 99)))))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(12, len(raw))) :]
    else:
        raw[data.draw(st.integers(12, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(forms.read, bytes(raw)) == outcome(frames.content_properties, bytes(raw))


def outcome(read: Any, raw: bytes) -> Any:
    try:
        return read(raw)
    except (ValueError, IndexError, StructError):
        return "it cannot be read"


def test_a_form_serves_all_that_look_alike() -> None:
    """The values that they share are the same objects: nothing was read again."""
    forms = Forms()
    first = forms.read(header(task(1)))
    second = forms.read(header(task(123_456)))
    assert first.headers is not None
    assert second.headers is not None
    assert second.headers["id"] == "id-123456"
    assert second.headers["timelimit"] is forms.read(header(task(7))).headers["timelimit"]  # type: ignore[index]


def test_forms_are_few_and_the_last_used_are_kept() -> None:
    forms = Forms()
    for number in range(3 * MOST):
        forms.read(header(task(number, task=f"t.{number}")))
    assert len(forms._forms) == MOST
