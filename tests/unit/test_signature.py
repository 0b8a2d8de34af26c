"""Signatures as values."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from celery import Celery, Signature, maybe_signature, signature, subtask
from celery.canvas import StampingVisitor
from celery.exceptions import NotRegistered
from celery.wire.protocol import decode_envelope, split_body


@pytest.fixture
def app() -> Celery:
    return Celery("sig", broker="memory://sig", backend="memory://sig")


@pytest.fixture
def add(app: Celery) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


def test_it_is_a_dictionary_of_plain_data(add: Any) -> None:
    sig = add.s(1, y=2).set(queue="q")
    assert dict(sig) == {
        "task": "add", "args": (1,), "kwargs": {"y": 2}, "options": {"queue": "q"}, "subtask_type": None,
        "immutable": False,
    }  # fmt: skip
    assert json.loads(json.dumps(sig))["args"] == [1]
    assert repr(sig) == "add(1, y=2)"
    assert Signature.from_dict(json.loads(json.dumps(sig))) == {**sig, "args": [1]}
    for again in (pickle.loads(pickle.dumps(sig)), copy.deepcopy(sig), sig.clone(), signature(sig)):
        assert isinstance(again, Signature)
        assert again == sig
        assert again is not sig


def test_partial_arguments_go_in_front(add: Any) -> None:
    sig = add.s(2, y=3)
    assert sig.clone((1,), {"y": 9}, countdown=4) == add.signature((1, 2), {"y": 9}, countdown=4)
    assert add.s(2)(1) == 3
    assert add.s(1).apply((5,)).get() == 6
    fixed = add.si(1)
    assert dict(fixed.clone((7,), {"y": 7}, countdown=4)) == {**fixed, "options": {"countdown": 4}}


def test_an_immutable_one_keeps_its_place_in_a_canvas(add: Any) -> None:
    fixed = add.si(1).set(group_id="mine")
    assert fixed.clone(group_id="theirs", queue="q").options == {"group_id": "mine", "queue": "q"}


def test_replace_and_set(add: Any) -> None:
    sig = add.s(1, y=1).set(queue="q")
    other = sig.replace(args=(5,), options={"priority": 3})
    assert (other.args, other.kwargs, other.options) == ((5,), {"y": 1}, {"priority": 3})
    assert sig.set(immutable=True) is sig
    assert sig.immutable


def test_freezing_gives_it_its_id(add: Any) -> None:
    sig = add.s(1)
    result = sig.freeze("abc", group_id="g", root_id="r", parent_id="p", group_index=2)
    assert (result.id, sig.id, sig.root_id, sig.parent_id) == ("abc", "abc", "r", "p")
    assert (sig.options["group_id"], sig.options["group_index"]) == ("g", 2)
    assert sig.freeze().id == "abc"
    assert sig.options["reply_to"] == add.app.thread_oid


def test_links(add: Any) -> None:
    sig = add.s(1)
    callback = add.s(2)
    assert sig.link(callback) is callback
    sig.link(add.s(2))
    assert sig.options["link"] == [callback]
    assert sig.on_error(add.si(3)) is sig
    assert sig.options["link_error"] == [add.si(3)]
    assert sig.flatten_links() == [sig, callback]
    single = add.s(1).set(link=add.s(5))
    single.link(add.s(6))
    assert single.options["link"] == [add.s(5), add.s(6)]


def test_sending(app: Celery, add: Any) -> None:
    result = add.s(2).set(queue="for-signatures", priority=4).delay(1)
    signature("elsewhere.job", (1,), {"a": 2}, {"queue": "for-signatures"}, app=app).apply_async((0,), task_id="far")
    near, far = (
        decode_envelope(entry.envelope)
        for entry in sorted(app.broker.entries("ready", ["for-signatures"]), key=lambda entry: entry.task_id == "far")
    )
    assert (near.headers["id"], near.properties["priority"]) == (result.id, 4)
    assert split_body(near)[:2] == ([1, 2], {})
    assert (far.headers["task"], split_body(far)[:2]) == ("elsewhere.job", ([0, 1], {"a": 2}))


def test_unknown_tasks_cannot_be_called_here(app: Celery) -> None:
    sig = app.signature("no.such.task")
    assert sig.app is app
    assert sig.name == "no.such.task"
    with pytest.raises(NotRegistered):
        sig()


def test_maybe(app: Celery, add: Any) -> None:
    sig = add.s(1)
    assert maybe_signature(None) is None
    assert maybe_signature(sig) is sig
    clone = maybe_signature(sig, app=app, clone=True)
    assert clone == sig
    assert clone is not sig
    made = maybe_signature({"task": "add", "args": [1], "kwargs": {}, "options": {}}, app=app)
    assert isinstance(made, Signature)
    assert made.app is app
    assert subtask is signature


def test_stamps_go_with_the_task_and_its_callbacks(app: Celery, add: Any) -> None:
    sig = add.s(1).set(link=[add.s(2)])
    sig.stamp(order=7)
    assert sig.options["order"] == 7
    assert sig.options["stamped_headers"] == ["order"]
    assert sig.options["link"][0].options == {"order": 7, "stamped_headers": ["order"]}
    sig.stamp(order=8)
    assert sig.options["order"] == 8
    sig.stamp(order=9, append_stamps=True)
    assert sig.options["order"] == [8, 9]
    sig.set(queue="stamped").delay()
    (entry,) = app.broker.entries("ready", ["stamped"])
    headers = decode_envelope(entry.envelope).headers
    assert headers["stamps"] == {"order": [8, 9]}


def test_a_visitor_stamps(add: Any) -> None:
    class Visitor(StampingVisitor):
        def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
            return {"seen": sig.task, "ignored": 1, "stamped_headers": ["seen"]}

        def on_callback(self, callback: Any, **headers: Any) -> dict[str, Any]:
            return {"callback": True}

    sig = add.s(1).set(link=add.s(2))
    sig.stamp(Visitor())
    assert sig.options["seen"] == "add"
    assert "ignored" not in sig.options or "ignored" not in sig.options["stamped_headers"]
    assert sig.options["link"][0].options["callback"] is True


def test_what_is_no_signature_cannot_be_chained(add: Any) -> None:
    with pytest.raises(TypeError):
        _ = add.s(1) | {"task": "x"}
    with pytest.raises(TypeError):
        _ = {"task": "x"} | add.s(1)
