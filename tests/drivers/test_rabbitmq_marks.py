"""Marks of what was started, and signs of life of those who started it."""

from __future__ import annotations

import pytest

from celery.amqp.marks import Mark, Marks
from celery.backends.memory import MemoryStore
from celery.utils.clock import FakeClock

LEASE = 30.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock, request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(f"memory://{request.node.name}", clock=clock)


@pytest.fixture
def first(store: MemoryStore, clock: FakeClock) -> Marks:
    return Marks(store, "first", LEASE, clock)


@pytest.fixture
def second(store: MemoryStore, clock: FakeClock) -> Marks:
    return Marks(store, "second", LEASE, clock)


def test_an_owner_lives_as_long_as_it_renews_its_sign(first: Marks, second: Marks, clock: FakeClock) -> None:
    first.write({"a": 1})
    assert second.read(["a", "b"]) == {"a": Mark(1, "first", alive=True)}
    for _ in range(5):
        clock.advance(LEASE / 2)
        first.sign()
        assert second.read(["a"])["a"].alive
    clock.advance(LEASE + 1)
    assert second.read(["a"]) == {"a": Mark(1, "first", alive=False)}
    assert first.read(["a"])["a"].alive, "it knows better"


def test_starting_something_is_a_sign_of_life_too(first: Marks, second: Marks, clock: FakeClock) -> None:
    first.write({"a": 1})
    clock.advance(LEASE - 1)
    first.write({"b": 3})
    clock.advance(LEASE - 1)
    assert second.read(["a", "b"]) == {"a": Mark(1, "first", alive=True), "b": Mark(3, "first", alive=True)}


def test_who_leaves_owns_nothing(first: Marks, second: Marks) -> None:
    first.write({"a": 1})
    first.resign()
    assert not second.read(["a"])["a"].alive


def test_what_has_ended_has_no_owner(first: Marks, second: Marks) -> None:
    first.write({"a": 1, "b": 1})
    first.end(["a"])
    first.clear(["b"])
    found = second.read(["a", "b"])
    assert list(found) == ["a"]
    assert found["a"].ended
    assert not found["a"].alive


def test_who_stood_still_takes_nobody_for_dead(first: Marks, second: Marks, clock: FakeClock) -> None:
    """With the store away for longer than a lease, signs of the living have ended as well."""
    first.write({"a": 1})
    second.sign()
    clock.advance(LEASE + 1)
    assert second.read(["a"])["a"].alive
    second.sign()
    assert second.read(["a"])["a"].alive, "the others have not had the time to renew theirs"
    clock.advance(LEASE / 2 + 1)
    second.sign()
    assert not second.read(["a"])["a"].alive


def test_with_no_store_nothing_is_remembered(clock: FakeClock) -> None:
    marks = Marks(None, "first", LEASE, clock)
    marks.write({"a": 1})
    marks.sign()
    marks.clear(["a"])
    marks.resign()
    assert not marks
    assert marks.read(["a"]) == {}
