"""What has ended is committed once, whatever the broker, the store or one of the results makes of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from celery import Celery
from celery.backends.memory import MemoryStore
from celery.backends.sqlite import SQLiteStore
from celery.brokers.memory import MemoryBroker
from celery.exceptions import BackendError, BrokerError
from celery.utils.clock import FakeClock
from celery.wire.message import Delivery, Outgoing, Record, Settlement
from celery.wire.protocol import encode_envelope, task_message
from celery.worker.aftermath import Aftermath
from celery.worker.claims import Claims
from celery.worker.endings import POISONED, Endings, some
from celery.worker.facts import FactsTable
from celery.worker.ledger import Ledger

NUMBERS = itertools.count()


class Desk:
    """A broker with some claimed tasks, a store of its own or in the same place, and the endings between them."""

    def __init__(self, *, store: MemoryStore | None = None) -> None:
        place = f"memory://endings{next(NUMBERS)}"
        self.app = Celery("endings", broker=place, backend=place, set_as_current=False)
        self.broker = MemoryBroker(place)
        self.store = store or MemoryStore(place)
        self.ledger = Ledger(self.broker, self.store)
        self.source = Claims(["q"], lambda names: self.broker.consumer(names, name="w", store=self.ledger.joined))
        aftermath = Aftermath(self.app, "w")
        self.endings = Endings(self.source, self.ledger, aftermath, FactsTable(self.app), "w")

    def claim(self, *ids: str) -> list[Delivery]:
        self.broker.publish([Outgoing(envelope(id), "q", task_id=id) for id in ids])
        return self.source.claim(len(ids))

    def counts(self) -> tuple[int, int, int]:
        [stats] = self.broker.stats(["q"])
        return stats.ready, stats.leased, stats.dead


def envelope(id: str) -> bytes:
    return encode_envelope(task_message("t", id, (), {}))


def done(delivery: Delivery, *messages: Outgoing) -> Settlement:
    return Settlement(delivery, records=(Record(f"k{delivery.tag}", b"v", "SUCCESS", "w"),), messages=messages)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.app.close()


def test_a_full_disk_turns_no_result_into_a_failure(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.endings.waiting = [done(delivery) for delivery in desk.claim("a", "b")]
    full = BrokerError("the disk is full")
    full.temporary = True

    def refuse(*args: Any) -> Any:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(type(desk.source), "settle", refuse)
        for _ in range(3 * POISONED):
            with pytest.raises(BrokerError, match="full"):
                desk.endings.commit()
    desk.endings.commit()
    assert desk.counts() == (0, 0, 0)
    assert desk.store.get(["k1", "k2"]) != [None, None]


def test_one_that_is_refused_for_what_it_is_goes_to_the_dead_set_alone(desk: Desk) -> None:
    good, bad = desk.claim("a", "b")
    desk.endings.waiting = [done(bad, Outgoing(b"x", "nowhere", exchange="none")), done(good)]
    for _ in range(POISONED):
        with pytest.raises(BrokerError, match="No queue is bound"):
            desk.endings.commit()
    desk.endings.commit()
    assert desk.counts() == (0, 0, 1)
    [entry] = desk.broker.entries("dead")
    assert "No queue is bound" in entry.reason


def test_an_error_that_no_driver_should_raise_is_found_out_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = desk.claim("a", "b")
    settle = Claims.settle

    def choke(self: Claims, settlements: Sequence[Settlement]) -> list[bool]:
        if any(settlement.delivery.tag == bad.tag and settlement.records for settlement in settlements):
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return settle(self, settlements)

    monkeypatch.setattr(Claims, "settle", choke)
    desk.endings.waiting = [done(bad), done(good)]
    desk.endings.commit()
    assert desk.counts() == (0, 0, 1)
    assert "surrogates not allowed" in caplog.text


class Frail(MemoryStore):
    broken = False

    def put(self, records: Sequence[Record]) -> list[bool]:
        if self.broken and any(record.state == "STARTED" for record in records):
            raise BackendError("out of reach")
        return super().put(records)


def test_follow_ups_of_a_split_ledger_are_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(store=Frail(f"memory://elsewhere{next(NUMBERS)}"))
    [delivery] = desk.claim("a")
    desk.endings.waiting = [done(delivery, Outgoing(b"next", "q", task_id="next"))]
    with monkeypatch.context() as patch:

        def refuse(*args: Any) -> Any:
            raise BrokerError("out of reach")

        patch.setattr(type(desk.source), "settle", refuse)
        for _ in range(2):
            with pytest.raises(BrokerError):
                desk.endings.commit()
    desk.endings.commit()
    assert [found.envelope for found in desk.source.claim(9)] == [b"next"]
    desk.app.close()


def test_so_they_are_when_the_store_cannot_say_that_others_have_started() -> None:
    store = Frail(f"memory://elsewhere{next(NUMBERS)}")
    desk = Desk(store=store)
    first, second = desk.claim("a", "b")
    desk.endings.waiting = [done(first, Outgoing(b"next", "q", task_id="next"))]
    started = [Record("k2", b"", "STARTED", "w")]
    store.broken = True
    with pytest.raises(BackendError):
        desk.endings.commit_and_start([second], started)
    store.broken = False
    assert desk.endings.commit_and_start([second], started) == ["ok"]
    assert [found.envelope for found in desk.source.claim(9)] == [b"next"]
    desk.app.close()


def test_what_was_claimed_before_the_queues_changed_goes_back_through_its_own_consumer(desk: Desk) -> None:
    kept, returned = desk.claim("a", "b")
    desk.source.change(["q", "r"], [kept, returned])
    assert desk.source.start([kept, returned]) == ["ok", "ok"]
    desk.source.release([returned])
    assert desk.counts() == (1, 1, 0)
    assert desk.source.settle([done(kept)]) == [True]
    [again] = desk.source.claim(9)
    assert desk.source.settle([done(again)]) == [True]
    [stats] = desk.broker.stats(["q"])
    assert stats.consumers == 1


def test_a_lease_that_is_lost_is_told_in_one_line(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    deliveries = desk.claim(*map(str, range(20)))
    desk.endings.waiting = [done(delivery) for delivery in deliveries]
    desk.source.release(deliveries)
    desk.endings.commit()
    [line] = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert "and 15 more" in line
    assert desk.ledger.stale == 20


def test_some() -> None:
    assert some(["a", "b"]) == "a, b"


def test_expired_results_are_deleted_in_bounded_time(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    store = SQLiteStore(f"sqlite:///{tmp_path}/results.db", clock=clock)
    store.put([Record(str(number), b"", ttl=1.0) for number in range(2500)])
    clock.advance(2)
    monkeypatch.setattr("celery.backends.sqlite.EXPIRE_FOR", 0.0)
    assert [store.expire() for _ in range(4)] == [1000, 1000, 500, 0]
    store.close()
