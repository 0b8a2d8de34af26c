"""Chains, groups, chords and maps as values: what they are made of, how they are copied, read and shown."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

import celery
from celery import Celery, chain, chord, chunks, group, signature, xmap, xstarmap
from celery.canvas import Signature, _chain, _chord, maybe_signature, maybe_unroll_group
from celery.wire.protocol import decode_envelope


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid4()}"
    with Celery("values", broker=place, backend=place, set_as_current=False) as app:

        @app.task(name="proj.add")
        def add(x: int = 0, y: int = 0) -> int:
            return x + y

        @app.task(name="proj.total")
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        app.finalize()
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.tasks["proj.add"]


@pytest.fixture
def total(app: Celery) -> Any:
    return app.tasks["proj.total"]


@pytest.fixture
def canvases(add: Any, total: Any) -> list[Any]:
    """One of each."""
    joined = chord([add.s(1), add.s(2) | add.s(3)], total.s())
    return [
        chain(add.s(1), group(add.s(2), add.s(3)), total.s()), group(add.s(1), group(add.s(2)), joined), joined,
        chord(group(add.s(1)), chain(total.s(), add.s(1))), add.chunks([(1, 1), (2, 2)], 1), add.map([1]),
        add.starmap([(1, 2)]),
    ]  # fmt: skip


def test_public_names() -> None:
    for name in ("chain", "chord", "chunks", "group", "xmap", "xstarmap", "signature", "maybe_signature", "subtask"):
        assert name in dir(celery)
        assert getattr(celery, name) is getattr(celery.canvas, name)
    assert (_chain, _chord) == (chain, chord)
    kinds = {"chain": chain, "chord": chord, "chunks": chunks, "group": group, "xmap": xmap, "xstarmap": xstarmap}
    assert kinds.items() <= Signature.TYPES.items()


def test_they_survive_json_pickle_and_copying(app: Celery, canvases: list[Any]) -> None:
    for canvas in canvases:
        text = json.dumps(canvas)
        for twin in (
            signature(json.loads(text), app=app), pickle.loads(pickle.dumps(canvas)), copy.deepcopy(canvas),
            canvas.clone(), maybe_signature(json.loads(text), app=app), maybe_signature(canvas, app=app, clone=True),
        ):  # fmt: skip
            assert json.dumps(twin) == text
            assert twin is not canvas
        assert signature(json.loads(text), app=app).app is app
        assert canvas.app is app


def test_a_copy_shares_nothing(canvases: list[Any]) -> None:
    for canvas in canvases:
        before = json.dumps(canvas)
        twin = canvas.clone()
        twin.freeze()
        twin.set(queue="q", immutable=True)
        twin.link_error(twin.clone())
        assert json.dumps(canvas) == before


def test_what_is_read_from_json_is_of_the_same_kind(app: Celery, canvases: list[Any]) -> None:
    for canvas in canvases[:4]:
        twin = signature(json.loads(json.dumps(canvas)), app=app)
        assert type(twin) is type(canvas)
        twin.freeze()
        assert shown(signature(json.loads(json.dumps(canvas)), app=app)) == shown(canvas)


def shown(canvas: Any) -> str:
    """How it reads, whatever kind of sequence its parts are in."""
    return repr(canvas).replace(",)", ")").replace("[", "(").replace("]", ")")


def test_how_they_read(add: Any, total: Any) -> None:
    two = group(add.s(1, 1), add.s(2, 2))
    assert repr(chain(add.s(1, 1), add.s(2))) == "proj.add(1, 1) | add(2)"
    assert repr(two) == "group((proj.add(1, 1), add(2, 2)))"
    assert repr(two | total.s()) == "%proj.total((add(1, 1), add(2, 2)))"
    assert repr(two | total.s() | add.s(1)) == "%(proj.total([add(1, 1), add(2, 2)]) | add(1))"
    assert repr(group()) == "group(<empty>)"
    assert repr(chain()).endswith(": empty>")
    assert repr(chord(two)).startswith("<chord without body")
    assert repr(add.map([1])) == "[proj.add(x) for x in [1]]"
    assert repr(add.starmap([(1, 2)])) == "[proj.add(*x) for x in [(1, 2)]]"


def test_a_group_is_a_sequence_of_tasks_too(add: Any) -> None:
    tasks = [add.s(number) for number in range(4)]
    canvas = group(tasks[:2])
    canvas.add(*tasks[2:])
    assert (canvas[0], canvas[-1], canvas[1:3]) == (tasks[0], tasks[3], tasks[1:3])
    assert canvas["task"] == "celery.group"
    assert len(canvas.tasks) == 4
    assert maybe_unroll_group(group(tasks[0])) is tasks[0]
    assert maybe_unroll_group(canvas) is canvas


def test_skew_starts_one_after_the_other(add: Any) -> None:
    canvas = group(add.s(number) for number in range(5)).skew(start=2, stop=4, step=0.5)
    assert [task.options["countdown"] for task in canvas.tasks] == [2, 2.5, 3, 3.5, 2]


def test_a_group_takes_no_callbacks_when_it_is_sent(add: Any) -> None:
    for name in ("link", "link_error"):
        with pytest.raises(TypeError, match="A group takes no callbacks"):
            group(add.s(1)).apply_async(**{name: add.s(2)})


def test_or_needs_a_signature(add: Any, canvases: list[Any]) -> None:
    for canvas in canvases:
        with pytest.raises(TypeError, match="can be followed by a signature only"):
            canvas | 1
    with pytest.raises(TypeError, match="has no body, so nothing can follow it"):
        chord([add.s(1)]) | add.s(2)
    with pytest.raises(TypeError, match="has no body"):
        chord([add.s(1)]).delay()


def test_in_place_or_makes_another(add: Any) -> None:
    first = canvas = add.s(1) | add.s(2)
    canvas |= add.s(3)
    assert len(canvas.tasks) == 3
    assert len(first.tasks) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [1, 0, -1])
def test_chunks_in_both_orders(add: Any, number: int) -> None:
    if number < 1:
        with pytest.raises(ValueError, match="at least 1"):
            chunks(add.s(), [1, 2], number)
        return
    assert chunks(add.s(), 2, [1, 2, 3]) == chunks(add.s(), [(1,), (2,), (3,)], 2)
    assert chunks(add.s(), 2, [(1, 2)]) == add.chunks([(1, 2)], 2) == chunks(add, iter([(1, 2)]), 2)
    assert [part.kwargs["it"] for part in chunks(add.s(), 2, range(3)).group().tasks] == [[(0,), (1,)], [(2,)]]


def test_maps_are_routed_as_what_they_call(app: Celery, add: Any) -> None:
    app.conf.task_routes = {"proj.add": {"queue": "additions"}}
    add.map([1]).delay()
    add.starmap([(1, 1)]).delay()
    add.chunks([(1, 1), (2, 2)], 1).delay()
    (add.chunks([(1, 1)], 1).group()).delay()
    found = [decode_envelope(entry.envelope).headers["task"] for entry in app.broker.entries("ready", ["additions"])]
    assert found == ["celery.map", *["celery.starmap"] * 4]


def test_prepare_steps_as_packages_call_it(add: Any, total: Any) -> None:
    canvas = chain(add.s(1), group(add.s(2), add.s(3)), total.s())
    steps, results = canvas.prepare_steps((5,), {}, canvas.tasks, root_id="root", last_task_id="last")
    assert [step.task for step in steps] == ["celery.chord", "proj.add"]
    assert steps[-1].args == (5, 1)
    assert results[0].id == "last"
    assert len(results) == 3
    assert "task_id" not in canvas.tasks[0].options


def test_unchained_tasks_take_the_options_over(add: Any) -> None:
    canvas = chain(add.s(1), add.s(2)).set(queue="q")
    canvas.link(add.s(3))
    canvas.link_error(add.s(4))
    first, last = canvas.unchain_tasks()
    assert (first.options["queue"], last.options.get("queue")) == ("q", None)
    assert (first.options.get("link"), last.options["link"]) == (None, [add.s(3)])
    assert first.options["link_error"] == last.options["link_error"] == [add.s(4)]


def test_options_of_parts_are_kept(add: Any, total: Any) -> None:
    """Where a group becomes a header, or a chain a part of another, what was set on it goes with its tasks."""
    slow = group(add.s(1), add.s(2)).set(queue="slow")
    for canvas in (chord(slow, total.s()), slow | total.s(), group(slow)):
        messages = _sent(canvas)
        assert {message.routing_key for message in messages} == {"slow"}
    (message,) = _sent(chain(add.s(0), chain(add.s(1), add.s(2)).set(queue="slow"), add.s(3)))
    assert message.routing_key == "celery"


def _sent(canvas: Any) -> Any:
    with canvas.app.publisher.collect() as messages:
        canvas.apply_async()
    return messages


def test_error_callbacks_of_a_chord(app: Celery, add: Any, total: Any) -> None:
    def errbacks(allowed: bool) -> list[int]:
        app.conf.task_allow_error_cb_on_chord_header = allowed
        canvas = chord([add.s(1), chain(add.s(2), add.s(3)), group(add.s(4))], total.s())
        canvas.link_error(add.s(9))
        return [
            len(part.options.get("link_error", ()))
            for part in (*canvas.header[:2], *canvas.header[2].tasks, canvas.body)
        ]

    assert errbacks(False) == [0, 0, 0, 1]
    assert errbacks(True) == [1, 1, 1, 1]


def test_a_kind_of_ones_own(app: Celery, add: Any) -> None:
    @Signature.register_type("twice")
    class Twice(chain):  # type: ignore[type-arg]
        """Found again by its name."""

    try:
        canvas = chain(add.s(1), add.s(2))
        canvas["subtask_type"] = "twice"
        assert type(signature(json.loads(json.dumps(canvas)), app=app)) is Twice
    finally:
        del Signature.TYPES["twice"]


def test_an_election_is_held_by_workers(app: Celery, add: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    monkeypatch.setattr(app.control, "election", lambda task_id, topic, sig: held.append((task_id, topic, sig.task)))
    result = add.s(1).election()
    assert held == [(result.id, "task", "proj.add")]
