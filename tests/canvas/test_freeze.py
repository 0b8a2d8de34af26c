"""Freezing gives a workflow its ids, and says what its results will be; sending keeps to that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from celery import Celery, chain, chord, group, signature
from celery._state import pop_current_task, push_current_task
from celery.canvas.group import leaves
from celery.canvas.ids import fixed_ids
from celery.exceptions import NotRegistered
from celery.result import GroupResult
from celery.wire.protocol import decode_envelope, split_body
from celery.wire.serialization import accept_types


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid4()}"
    with Celery("freeze", broker=place, backend=place, set_as_current=False) as app:

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


def messages(app: Celery) -> list[tuple[dict[str, Any], Any]]:
    """(headers, body) of what was sent."""
    found = [decode_envelope(entry.envelope) for entry in app.broker.entries("ready", ["celery"])]
    return [(message.headers, split_body(message, accept_types(["json"]))) for message in found]


def ids(result: Any) -> Any:
    """The ids of a result, its members and its parents."""
    if result is None:
        return None
    members = [ids(member) for member in result.results] if isinstance(result, GroupResult) else None
    return result.id, members, ids(result.parent)


def test_what_is_sent_is_what_was_frozen(app: Celery, add: Any, total: Any) -> None:
    canvas = chain(add.s(1, 1), group(add.s(1), chain(add.s(2), add.s(3))), total.s(), add.s(4))
    promised = canvas.freeze()
    assert ids(canvas.freeze()) == ids(promised)
    assert canvas.id == promised.id
    sent = canvas.apply_async()
    assert ids(sent) == ids(promised)
    ((headers, (_, _, embed)),) = messages(app)
    last, header, first = promised, promised.parent.parent, promised.parent.parent.parent
    assert headers["id"] == first.id
    assert [step["options"]["task_id"] for step in embed["chain"]] == [last.id, header.id]
    again = signature(json.loads(json.dumps(canvas)), app=app)
    assert ids(again.freeze()) == ids(promised)


def test_every_sending_of_what_was_not_frozen_has_ids_of_its_own(app: Celery, add: Any) -> None:
    for canvas in (chain(add.s(1), add.s(2)), group(add.s(1), add.s(2)), chord([add.s(1)], add.s(2))):
        before = json.dumps(canvas)
        assert canvas.apply_async() != canvas.apply_async()
        assert json.dumps(canvas) == before


def test_the_same_task_twice_is_two(app: Celery, add: Any) -> None:
    task = add.s(1)
    for canvas in (chain(task, task, task), group(task, task, task)):
        result = canvas.freeze()
        found = result.results if isinstance(result, GroupResult) else [result, result.parent, result.parent.parent]
        assert len({each.id for each in found}) == 3


def test_an_id_that_is_given(app: Celery, add: Any, total: Any) -> None:
    assert chain(add.s(1), add.s(2)).apply_async(task_id="last").id == "last"
    assert group(add.s(1)).apply_async(task_id="all").id == "all"
    assert chord([add.s(1)], total.s()).apply_async(task_id="body").id == "body"
    assert chord([add.s(1)], total.s()).set(task_id="body").apply_async().id == "body"
    assert chain(add.s(1), add.s(2)).freeze("last").id == "last"


def test_the_place_of_the_end(app: Celery, add: Any, total: Any) -> None:
    """What a workflow is frozen as a part of concerns its last task."""
    body = total.s()
    canvas = chain(add.s(1), chord([add.s(2)], chain(total.s(), add.s(3))))
    canvas.freeze("last", group_id="g", chord=body, root_id="r", parent_id="p", group_index=4)
    first, between, last = canvas.tasks
    assert first.options["parent_id"] == "p"
    assert {task.options["root_id"] for task in (first, between.body, last)} == {"r"}
    place = {name: last.options[name] for name in ("task_id", "group_id", "chord", "group_index")}
    assert place == {"task_id": "last", "group_id": "g", "chord": body, "group_index": 4}
    assert "chord" not in first.options
    assert "chord" not in between.body.options


def test_every_end_of_a_header_has_its_own_place(app: Celery, add: Any, total: Any) -> None:
    two = group(add.s(1), add.s(2))
    canvas = chord(
        [add.s(0), two, chain(add.s(1), group(add.s(2), add.s(3))), chord([add.s(4)], two), chain(add.s(5), add.s(6))],
        total.s(),
    )
    assert leaves(canvas.header[1]) == 2
    canvas.apply_async()
    found: list[int] = []
    sizes = set()

    def look(step: dict[str, Any]) -> None:
        options = step["options"]
        if step["subtask_type"] == "group":
            for task in step["kwargs"]["tasks"]:
                look(task)
        elif options.get("chord"):
            found.append(options["group_index"])
            sizes.add(options["chord"]["chord_size"])

    for headers, (_, _, embed) in messages(app):
        carried = embed["chord"]
        if carried and carried["task"] == "total":
            found.append(headers["group_index"])
            sizes.add(carried["chord_size"])
        elif carried:
            look(carried)
        for step in embed["chain"] or ():
            look(step)
    assert sorted(found) == list(range(8))
    assert sizes == {8}


def test_a_chain_of_nothing(app: Celery, add: Any) -> None:
    assert chain().freeze() is None
    assert chain().delay() is None
    assert len(group(chain(), add.s(1)).freeze()) == 1
    assert group().freeze().results == []
    assert leaves(chain()) == 0


def test_ids_that_follow_from_a_cause(app: Celery, add: Any, total: Any) -> None:
    """A worker that does a step again sends the same tasks."""
    canvas = chain(add.s(1), group(add.s(1), add.s(2)), total.s())

    def send() -> Any:
        with fixed_ids("cause"):
            return ids(canvas.apply_async()), ids(group(add.s(1), add.s(2)).apply_async())

    assert send() == send()
    first, *_, second, _, _ = [headers["id"] for headers, _ in messages(app)]
    assert first == second


def test_a_group_in_a_task_is_its_child(app: Celery, add: Any, total: Any) -> None:
    kept = {}

    @app.task(bind=True, name="sender", shared=False, lazy=False)
    def sender(self: Any) -> None:
        kept["chain"] = chain(add.s(1), add.s(2)).delay()
        kept["group"] = group(add.s(1), add.s(2)).delay()
        kept["chord"] = chord([add.s(1)], total.s()).delay()
        kept["children"] = self.request.children

    sender.push_request(id="parent", root_id="root", called_directly=False)
    push_current_task(sender)
    try:
        sender.run()
    finally:
        pop_current_task()
        sender.pop_request()
    assert kept["children"] == [kept["chain"].parent, kept["group"], kept["chord"].parent]
    assert {(headers["root_id"], headers["parent_id"]) for headers, _ in messages(app)} == {("root", "parent")}


def test_tasks_that_nobody_knows_here(app: Celery) -> None:
    far = app.signature("far.away", (1,))
    result = group(far, far | app.signature("far.off"), app=app).delay()
    assert len(result) == 2
    with pytest.raises(NotRegistered):
        group(far, app=app).apply()
