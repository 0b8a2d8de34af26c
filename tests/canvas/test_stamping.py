"""Stamps go with every task of a workflow, by name or as a visitor gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from celery import Celery, chain, chord, group
from celery.canvas import Signature, StampingVisitor
from celery.wire.protocol import decode_envelope


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid4()}"
    with Celery("stamping", broker=place, backend=place, set_as_current=False) as app:

        @app.task(name="add")
        def add(x: int = 0, y: int = 0) -> int:
            return x + y

        @app.task(name="total")
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        app.finalize()
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.tasks["add"]


@pytest.fixture
def total(app: Celery) -> Any:
    return app.tasks["total"]


class Notes(StampingVisitor):
    """Notes every call; its stamps say which one it was."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _note(self, name: str, sig: Any, headers: dict[str, Any]) -> dict[str, Any]:
        above = ",".join(headers.get("stamped_headers", ()))
        self.calls.append(f"{name} {sig.task.removeprefix('celery.')}{list(sig.args) or ''} <{above}>")
        return {f"{name}{len(self.calls)}": True}

    def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
        return self._note("sig", sig, headers)

    def on_group_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return self._note("group", sig, headers)

    def on_group_end(self, sig: Any, **headers: Any) -> None:
        self._note("end", sig, headers)

    def on_chain_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return self._note("chain", sig, headers)

    def on_chain_end(self, sig: Any, **headers: Any) -> None:
        self._note("end", sig, headers)

    def on_chord_header_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return self._note("header", sig, headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        self._note("end", sig, headers)

    def on_chord_body(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return self._note("body", sig, headers)

    def on_callback(self, callback: Any, **headers: Any) -> dict[str, Any]:
        return self._note("link", callback, headers)

    def on_errback(self, errback: Any, **headers: Any) -> dict[str, Any]:
        return self._note("error", errback, headers)


def walk(canvas: Any) -> list[str]:
    visitor = Notes()
    canvas.stamp(visitor)
    return visitor.calls


def stamps(sig: Any) -> dict[str, Any]:
    return {name: sig.options[name] for name in sig.options.get("stamped_headers", ())}


def test_the_order_of_a_task_and_its_callbacks(add: Any) -> None:
    task = add.s(1)
    task.link(add.s(2))
    task.link_error(add.s(3))
    assert walk(task) == [
        "link add[2] <>", "sig add[2] <link1>", "error add[3] <>", "sig add[3] <error3>", "sig add[1] <>",
    ]  # fmt: skip
    assert stamps(task) == {"sig5": True}
    assert stamps(task.options["link"][0]) == {"link1": True, "sig2": True}


def test_the_order_of_a_chain(add: Any) -> None:
    canvas = chain(add.s(1), group(add.s(2), add.s(3)))
    assert walk(canvas) == [
        "chain chain <>", "sig add[1] <chain1>", "group group <chain1>", "sig add[2] <chain1,group3>",
        "sig add[3] <chain1,group3>", "end group <chain1,group3>", "end chain <chain1>",
    ]  # fmt: skip
    assert stamps(canvas.tasks[1].tasks[1]) == {"chain1": True, "group3": True, "sig5": True}


def test_the_order_of_a_chord(add: Any, total: Any) -> None:
    canvas = chord([add.s(1), chain(add.s(2), add.s(3))], chain(total.s(), add.s(4)))
    canvas.link(add.s(5))
    assert walk(canvas) == [
        "header chord <>", "sig add[1] <header1>", "chain chain <header1>", "sig add[2] <header1,chain3>",
        "sig add[3] <header1,chain3>", "end chain <header1,chain3>", "end chord <header1>", "body chord <header1>",
        "chain chain <header1,body8>", "link add[5] <header1,body8,chain9>", "sig add[5] <header1,body8,chain9,link10>",
        "sig total <header1,body8,chain9>", "sig add[4] <header1,body8,chain9>", "end chain <header1,body8,chain9>",
    ]  # fmt: skip


def test_a_header_is_a_group_to_those_who_do_not_tell_them_apart(add: Any, total: Any) -> None:
    class Groups(StampingVisitor):
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {}

        def on_group_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"parts": len(sig.tasks)}

    canvas = chord([add.s(1), add.s(2)], total.s())
    canvas.stamp(Groups())
    assert [stamps(task) for task in canvas.header.tasks] == [{"parts": 2}, {"parts": 2}]


def test_stamps_by_name(add: Any, total: Any) -> None:
    canvas = chain(add.s(1), chord([add.s(2), group(add.s(3))], total.s()))
    canvas.stamp(order=7, note="x")
    first, joined = canvas.tasks
    for task in (first, joined.header[0], joined.header[1].tasks[0], joined.body):
        assert stamps(task) == {"order": 7, "note": "x"}


def test_only_what_is_listed_is_a_stamp(add: Any) -> None:
    task = add.s(1)
    task.stamp(order=7, other=1, stamped_headers=["order"])
    assert stamps(task) == {"order": 7}


def test_the_last_stamp_counts_unless_it_is_appended(add: Any) -> None:
    task = add.s(1)
    for order, append in ((1, False), (2, False), (3, True), ([3, 4], True)):
        task.stamp(order=order, append_stamps=append)
    assert stamps(task) == {"order": [2, 3, 4]}


def test_both_stamps_of_a_copy_are_there_and_its_own_counts(add: Any) -> None:
    for task in (add.s(1), add.si(1)):
        task.stamp(order=1)
        copy = task.clone(stamped_headers=["more", "order"], more=2, order=3)
        assert {**stamps(copy), "more": copy.options["more"]} == {"order": 1, "more": 2}


def test_stamps_reach_the_wire(app: Celery, add: Any, total: Any) -> None:
    canvas = chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s())
    canvas.stamp(order=7)
    canvas.apply_async(stamped_headers=["more"], more=1)
    group(add.s(1), add.s(2)).apply_async(stamped_headers=["more"], more=2)
    found = [decode_envelope(entry.envelope).headers for entry in app.broker.entries("ready", ["celery"])]
    assert [headers["stamps"] for headers in found] == [{"order": 7, "more": 1}, {"more": 2}, {"more": 2}]
    assert sorted(found[0]["stamped_headers"]) == ["more", "order"]
