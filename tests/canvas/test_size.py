"""All messages of a workflow are together linear in the number of its tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from celery import Celery, chain, chord, group
from celery.canvas.shelf import EMBED, unfold_body, unfold_chain
from celery.wire.message import Outgoing
from celery.wire.protocol import decode_envelope, split_body
from celery.wire.serialization import accept_types

HEADERS = 2000
"""Bytes of a message around what it carries, generously."""


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid4()}"
    with Celery("size", broker=place, backend=place, set_as_current=False, workflow_records=False) as app:

        @app.task(name="add")
        def add(x: Any = 0, *args: Any) -> Any:
            return x

        app.finalize()
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.tasks["add"]


def send(app: Celery, canvas: Any, *args: Any, **options: Any) -> list[Outgoing]:
    with app.publisher.collect() as messages:
        canvas.apply_async(*args, **options)
    return messages


def embedded(message: Outgoing) -> dict[str, Any]:
    found: dict[str, Any] = split_body(decode_envelope(message.envelope), accept_types(["json"]))[2]
    return found


def test_a_long_chain(app: Celery, add: Any) -> None:
    """Step by step, as workers go through it."""
    length = 3000
    canvas = chain([add.s(0), *(add.s(number) for number in range(1, length))])
    (message,) = send(app, canvas)
    total, steps = len(message.envelope), 1
    while True:
        assert len(message.envelope) < 2 * EMBED + HEADERS
        chained = unfold_chain(app, embedded(message)["chain"])
        if not chained:
            break
        (message,) = send(app, app.signature(chained.pop()), (1,), chain=chained)
        total += len(message.envelope)
        steps += 1
    assert steps == length
    assert total < length * (EMBED + HEADERS)


def test_a_chord_with_a_large_body(app: Celery, add: Any) -> None:
    body = add.s("x" * 100_000)
    messages = send(app, chord([add.s(number) for number in range(200)], body))
    assert len(messages) == 200
    assert max(len(message.envelope) for message in messages) < HEADERS
    carried = embedded(messages[0])["chord"]
    assert carried["chord_size"] == 200
    assert unfold_body(app, carried)["args"] == ["x" * 100_000]


def test_a_chord_of_chains_with_a_large_body(app: Celery, add: Any) -> None:
    header = [chain(add.s(number), add.s(1), add.s(2)) for number in range(50)]
    messages = send(app, chord(header, add.s("x" * 100_000)))
    assert max(len(message.envelope) for message in messages) < 2 * HEADERS


def test_a_chain_of_chords(app: Celery, add: Any) -> None:
    """The next chord is not in every message of the one before it, however large it is."""
    wide = group(add.s(number) for number in range(100))
    messages = send(app, chain(wide, add.s(), wide, add.s(), wide, add.s()))
    assert len(messages) == 100
    assert sum(len(message.envelope) for message in messages) < 100 * (EMBED + HEADERS)


def test_a_frozen_chord_has_its_body_once(app: Celery, add: Any) -> None:
    canvas = chain(add.s(1), group(add.s(number) for number in range(100)), add.s("x" * 1000))
    canvas.freeze()
    (message,) = send(app, canvas)
    (step,) = unfold_chain(app, embedded(message)["chain"])
    assert step["kwargs"]["body"]["args"] == ["x" * 1000]
    assert all("chord" not in task["options"] for task in step["kwargs"]["header"]["kwargs"]["tasks"])


def test_what_is_small_is_embedded(app: Celery, add: Any) -> None:
    """Workers of original Celery read no shelves."""
    (message,) = send(app, chain(add.s(1), *(add.s(number) for number in range(10))))
    assert len(embedded(message)["chain"]) == 10
    messages = send(app, chord([add.s(1), add.s(2)], add.s(3)))
    assert {embedded(message)["chord"]["task"] for message in messages} == {"add"}
