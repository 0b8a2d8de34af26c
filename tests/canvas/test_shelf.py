"""Large parts of a canvas: in the store once, named by messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest

from celery import Celery
from celery.app.runner import make_runner
from celery.canvas.ids import fixed_ids, new_id
from celery.canvas.shelf import (
    EMBED,
    KEPT,
    CanvasLost,
    is_reference,
    refer,
    shelve_body,
    shelve_chain,
    unfold_body,
    unfold_chain,
    walk_chain,
)
from celery.wire.message import Job, Outgoing, Record
from celery.wire.protocol import decode_envelope
from celery.wire.serialization import decode_json, encode_json


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid4()}"
    with Celery("shelf", broker=place, backend=place, set_as_current=False) as app:
        yield app


def step(number: int, size: int = 0) -> dict[str, Any]:
    return {
        "task": "add", "args": [number, "x" * size], "kwargs": {}, "options": {"task_id": f"id-{number}"},
        "subtask_type": None, "immutable": False,
    }  # fmt: skip


def test_what_is_small_is_embedded(app: Celery) -> None:
    steps = [step(number) for number in range(10)]
    assert shelve_chain(app, steps) == steps
    assert shelve_body(app, steps[0]) == steps[0]
    assert unfold_chain(app, steps) == steps
    assert unfold_body(app, steps[0]) == steps[0]
    assert unfold_chain(app, None) == []


def test_a_long_chain_is_stored_in_pieces(app: Celery) -> None:
    steps = [step(number, 500) for number in range(100)]
    carried = shelve_chain(app, steps)
    assert is_reference(carried[0])
    spent: list[Record] = []
    assert list(walk_chain(app, carried, spent)) == steps[::-1]
    assert len(spent) > 10
    assert {record.ttl for record in spent} == {KEPT}
    assert all(len(record.value) <= EMBED + 300 for record in spent)


def test_every_message_of_a_long_chain_is_small(app: Celery) -> None:
    steps = [step(number, 300) for number in range(50)]
    carried: list[Any] = shelve_chain(app, steps)
    seen = 0
    while carried := unfold_chain(app, carried):
        assert len(encode_json(carried)) <= EMBED + 300
        assert shelve_chain(app, carried[:-1]) == carried[:-1]
        carried.pop()
        seen += 1
    assert seen == 50


@pytest.mark.parametrize("size", [10, 300, EMBED])
def test_a_chain_that_came_whole_goes_on_in_small_messages(app: Celery, size: int) -> None:
    # GIVEN the message of a producer that puts everything into it
    @app.task
    def add(value: int, text: str = "") -> int:
        return value + len(text)

    steps = [add.s("x" * size) for _ in range(30)]
    producer = Celery("shelf", broker="memory://", backend="disabled://", set_as_current=False)
    with producer.publisher.collect() as messages:
        producer.send_task(add.name, (0,), chain=steps)

    # WHEN each step is run
    run, sizes = make_runner(app, "w@h"), list[int]()
    sent: Sequence[Outgoing] = messages
    while sent:
        [message] = sent
        sizes.append(len(decode_envelope(message.envelope).body))
        outcome = run(Job(1, message.envelope))
        sent = outcome.messages

    # THEN all are, and no message after the first is much larger than what is embedded, or than one step
    assert len(sizes) == 31
    assert decode_json(outcome.records[0].value)["result"] == 30 * size
    assert max(sizes[1:]) <= EMBED + size + 1000


def test_one_large_step_is_stored_too(app: Celery) -> None:
    chord = step(1, EMBED) | {"subtask_type": "chord"}
    carried = shelve_chain(app, [chord])
    assert [is_reference(each) for each in carried] == [True]
    assert unfold_chain(app, carried) == [chord]


def test_a_large_body_is_stored_once(app: Celery) -> None:
    body = step(1, EMBED) | {"chord_size": 3}
    body["options"] |= {"root_id": "root", "group_id": "group", "queue": "slow"}
    carried = shelve_body(app, body)
    assert is_reference(carried)
    assert carried["chord_size"] == 3
    assert carried["options"] == {"task_id": "id-1", "root_id": "root", "group_id": "group"}
    assert shelve_body(app, carried) is carried
    spent: list[Record] = []
    assert unfold_body(app, carried, spent) == body
    app.store.put(spent)  # type: ignore[union-attr]
    assert unfold_body(app, carried) == body


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
def test_every_serializer(serializer: str) -> None:
    place = f"memory://{uuid4()}"
    app = Celery(
        "shelf", broker=place, backend=place, set_as_current=False, task_serializer=serializer,
        accept_content=[serializer],
    )  # fmt: skip
    steps = [step(number, 500) for number in range(20)]
    assert list(walk_chain(app, shelve_chain(app, steps))) == steps[::-1]


def test_without_a_store_everything_is_embedded() -> None:
    app = Celery("shelf", broker=f"memory://{uuid4()}", backend="disabled://", set_as_current=False)
    steps = [step(number, EMBED) for number in range(3)]
    assert shelve_chain(app, steps) == steps
    assert shelve_body(app, steps[0]) == steps[0]


def test_the_prefix_of_keys_counts() -> None:
    place = f"memory://{uuid4()}"
    app = Celery(
        "shelf", broker=place, backend=place, set_as_current=False,
        result_backend_transport_options={"global_keyprefix": "mine"},
    )  # fmt: skip
    spent: list[Record] = []
    unfold_body(app, shelve_body(app, step(1, EMBED)), spent)
    assert spent[0].key.startswith("mine_celeriac.canvas.")


def test_a_lost_part_is_named(app: Celery) -> None:
    with pytest.raises(CanvasLost, match=r"celeriac\.canvas\.gone"):
        unfold_chain(app, [refer("gone")])


def test_ids_follow_from_their_cause() -> None:
    with fixed_ids("one"):
        first = [new_id(), new_id()]
        with fixed_ids("two"):
            inner = new_id()
        first.append(new_id())
    with fixed_ids("one"):
        assert [new_id(), new_id(), new_id()] == first
    with fixed_ids("two"):
        assert new_id() == inner
    assert len({*first, inner, new_id(), new_id()}) == 6
