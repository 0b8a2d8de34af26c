"""How long acknowledgements over RabbitMQ are doubted, and which queues are away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from celery.amqp.channel import Refused
from celery.amqp.marks import Marks
from celery.amqp.presence import AGAIN, Presence
from celery.amqp.receipts import RIPE, Receipts
from celery.backends.memory import MemoryStore


@pytest.fixture
def marks() -> Iterator[Marks]:
    store = MemoryStore("memory://receipts")
    yield Marks(store, "me")
    store.close()


def test_marks_are_cleared_when_their_acknowledgement_is_old_enough(marks: Marks) -> None:
    receipts = Receipts(0.0)
    marks.write({"a": 1, "b": 1})
    receipts.add(["a"], 1.0)
    receipts.tidy(marks, RIPE + 1)
    receipts.add(["b"], RIPE + 2)
    assert set(marks.read(["a", "b"])) == {"a", "b"}
    receipts.tidy(marks, 2 * RIPE + 1)
    assert set(marks.read(["a", "b"])) == {"b"}
    receipts.tidy(marks, 3 * RIPE + 2)
    assert marks.read(["a", "b"]) == {}


def test_what_was_acknowledged_on_a_connection_that_ended_is_marked_as_ended(marks: Marks) -> None:
    receipts = Receipts(0.0)
    marks.write({"a": 1, "b": 1})
    receipts.add(["a"], 1.0)
    receipts.add(["b"], RIPE + 1)
    assert receipts.lose() == ["a", "b"]
    receipts.tidy(marks, RIPE + 1)
    assert [mark.ended for mark in marks.read(["a", "b"]).values()] == [True, True]
    receipts.tidy(marks, 10 * RIPE)
    assert set(marks.read(["a", "b"])) == {"a", "b"}


def test_after_a_goodbye_nothing_is_doubted(marks: Marks) -> None:
    receipts = Receipts(0.0)
    marks.write({"a": 1})
    receipts.add(["a"], 1.0)
    receipts.finish()
    receipts.tidy(marks, 1.0)
    assert marks.read(["a"]) == {}


def test_queues_that_are_away_are_looked_for_again() -> None:
    away, asked = {"a"}, []

    def declare(queues: Sequence[str]) -> None:
        asked.extend(queues)
        if away & set(queues):
            raise Refused("its node is down", 404)

    presence = Presence(["a", "b"], declare)
    presence.see_to(["a", "b"], 0.0)
    assert presence.of(["a", "b"], AGAIN / 2) == ["b"]
    assert asked == ["a", "b"]
    away.clear()
    assert presence.of(["a", "b"], AGAIN) == ["a", "b"]
    away.update("ab")
    with pytest.raises(Refused, match="its node is down"):
        presence.see_to(["a", "b"], 2 * AGAIN)


def test_other_refusals_are_no_absence() -> None:
    def declare(queues: Sequence[str]) -> None:
        raise Refused("the queue is there with other arguments", 406)

    with pytest.raises(Refused, match="other arguments"):
        Presence(["a", "b"], declare).see_to(["a", "b"], 0.0)
