"""What every schedule book keeps to."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from celery.brokers.base import Broker
from celery.brokers.book import HISTORY, Advance, Book
from celery.utils.clock import FakeClock
from celery.wire.message import Outgoing

TTL = 10.0


class BookContract:
    """Override `connect` with a function that makes a broker on one place, new in every test, with the clock given."""

    @pytest.fixture
    def connect(self) -> Callable[..., Broker]:
        pytest.fail("Override the fixture `connect`.")

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def broker(self, connect: Callable[..., Broker], clock: FakeClock) -> Broker:
        return connect(clock=clock)

    @pytest.fixture
    def book(self, broker: Broker) -> Book:
        book = broker.book("app")
        if book is None:
            pytest.skip("capability: this broker has no schedule book")
        return book

    def test_one_leads(self, book: Book, clock: FakeClock) -> None:
        assert book.lead("a", 0).leader == ""
        first = book.lead("a", TTL)
        assert (first.token, first.leader, first.left, first.now) == (1, "a", TTL, clock.time())
        clock.advance(4)
        other = book.lead("b", TTL)
        assert (other.token, other.leader, other.left) == (0, "a", 6)
        assert book.lead("a", TTL).token == 1
        clock.advance(TTL)
        assert book.lead("b", TTL).token == 2
        assert book.lead("a", TTL).token == 0
        assert book.lead("c", 0).leader == "b"

    def test_who_resigns_lets_the_next_in(self, book: Book) -> None:
        token = book.lead("a", TTL).token
        book.resign(token + 1)
        assert book.lead("b", TTL).token == 0
        book.resign(token)
        assert book.lead("b", TTL).token == token + 1

    def test_advances_compare_and_send(self, book: Book, broker: Broker) -> None:
        token = book.lead("a", TTL).token
        letter = Outgoing(b'{"body": "x"}', "q", task_id="1")
        assert (
            book.advance(token, TTL, [Advance("x", b"", b"1", b"sent", (letter,)), Advance("y", b"", b"1")])
            == [True] * 2
        )
        assert book.states() == {"x": b"1", "y": b"1"}
        assert _ready(broker) == 1
        # What is repeated is done; what another has changed is not.
        assert book.advance(token, TTL, [Advance("x", b"", b"1", b"sent", (letter,))]) == [True]
        assert book.advance(token, TTL, [Advance("x", b"0", b"2", b"sent", (letter,)), Advance("y", b"1", b"2")]) == [
            False,
            True,
        ]
        assert _ready(broker) == 1
        assert book.states() == {"x": b"1", "y": b"2"}
        assert book.history("x") == [b"sent"]

    def test_a_lost_lease_is_a_fence(self, book: Book, broker: Broker, clock: FakeClock) -> None:
        token = book.lead("a", TTL).token
        clock.advance(TTL)
        letter = Outgoing(b'{"body": "x"}', "q", task_id="1")
        assert book.advance(token, TTL, [Advance("x", b"", b"1", messages=(letter,))]) is None
        second = book.lead("b", TTL).token
        assert book.advance(token, TTL, [Advance("x", b"", b"1", messages=(letter,))]) is None
        assert book.advance(second, TTL, [Advance("x", b"", b"1", messages=(letter,))]) == [True]
        assert _ready(broker) == 1

    def test_advancing_keeps_the_lease(self, book: Book, clock: FakeClock) -> None:
        token = book.lead("a", TTL).token
        for _ in range(3):
            clock.advance(TTL - 1)
            assert book.advance(token, TTL, []) == []
        assert book.lead("b", TTL).token == 0

    def test_messages_may_be_due_later_and_go_to_many_queues(
        self, book: Book, broker: Broker, clock: FakeClock
    ) -> None:
        token = book.lead("a", TTL).token
        letters = [Outgoing(b'{"body": "x"}', f"q{n % 3}", task_id=str(n)) for n in range(9)]
        assert (
            book.advance(token, TTL, [Advance(str(n), b"", b"1", messages=tuple(letters[:n])) for n in range(10)])
            == [True] * 10
        )
        assert sum(stats.ready for stats in broker.stats(["q0", "q1", "q2"])) == sum(range(10))

    def test_definitions(self, book: Book, broker: Broker) -> None:
        version = book.lead("a", TTL).version
        book.define({"x": b"one", "y": b"two"})
        assert book.definitions() == {"x": b"one", "y": b"two"}
        assert book.lead("a", TTL).version > version
        book.pause(["x"], paused=True)
        assert book.paused() == {"x"}
        book.note("x", b"by hand")
        book.define({"x": None})
        assert (book.definitions(), book.paused(), book.history("x")) == ({"y": b"two"}, frozenset(), [])
        book.pause(["y"], paused=True)
        book.pause(["y"], paused=False)
        assert book.paused() == frozenset()

    def test_books_are_apart(self, book: Book, broker: Broker) -> None:
        other = broker.book("other")
        assert other is not None
        book.define({"x": b"one"})
        assert book.lead("a", TTL).token
        assert other.lead("b", TTL).token
        assert other.definitions() == {}

    def test_the_history_has_an_end(self, book: Book) -> None:
        for number in range(HISTORY + 5):
            book.note("x", str(number).encode())
        assert book.history("x") == [str(HISTORY + 4 - n).encode() for n in range(HISTORY)]

    def test_many_who_want_to_lead(self, connect: Callable[..., Broker], clock: FakeClock) -> None:
        books = [connect(clock=clock).book("app") for _ in range(4)]
        tokens: list[int] = []

        def ask(book: Book | None, name: str) -> None:
            assert book is not None
            tokens.append(book.lead(name, TTL).token)

        threads = [threading.Thread(target=ask, args=(book, str(n))) for n, book in enumerate(books)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(tokens) == [0, 0, 0, 1]


def _ready(broker: Broker) -> int:
    return sum(stats.ready for stats in broker.stats(["q"]))
