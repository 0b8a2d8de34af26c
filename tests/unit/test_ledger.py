"""The ledger: what it commits, in which order, and that doing it twice changes nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from celery.backends.memory import MemoryStore
from celery.brokers.base import Consumer
from celery.brokers.memory import MemoryBroker
from celery.exceptions import BackendError, BrokerError
from celery.utils.clock import FakeClock
from celery.wire.message import Arrival, Delivery, Outgoing, Record, Settlement
from celery.worker.ledger import Ledger

PLACES = itertools.count()


class Case:
    """A broker with one claimed message, and a store in the same place or in another."""

    def __init__(self, *, fused: bool, store: MemoryStore | None = None) -> None:
        place = f"ledger{next(PLACES)}"
        self.clock = FakeClock()
        self.broker = MemoryBroker(f"memory://{place}", clock=self.clock, options={"lease": 30})
        self.store = store or MemoryStore(f"memory://{place if fused else place + 'x'}", clock=self.clock)
        self.ledger = Ledger(self.broker, self.store)
        assert self.ledger.fused is fused
        self.consumer: Consumer = self.broker.consumer(["q"], name="w", store=self.ledger.joined)
        self.broker.publish([Outgoing(b"first", "q", task_id="first")])
        [self.delivery] = self.consumer.claim(1)

    def settlement(self, **fields: Any) -> Settlement:
        return Settlement(
            self.delivery,
            records=(Record("key", b"value", "SUCCESS", "writer"),),
            messages=(Outgoing(b"next", "q", task_id="next"),),
            arrivals=(Arrival("group.", "a:0", b"part", 2),),
            **fields,
        )


@pytest.fixture(params=[True, False], ids=["fused", "split"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(fused=request.param)


def test_everything_is_committed(case: Case) -> None:
    assert case.ledger.commit(case.consumer, [case.settlement()]) == []
    assert case.store.get(["key"]) == [b"value"]
    assert case.store.arrived("group.") == [b"part"]
    assert [delivery.envelope for delivery in case.consumer.claim(9)] == [b"next"]


def test_a_lost_lease_is_refused_and_counted(case: Case) -> None:
    case.clock.advance(31)
    case.broker.sweep()
    settlement = case.settlement()
    assert len(case.ledger.commit(case.consumer, [settlement])) == 1
    assert case.ledger.stale == 1


def test_fused_nothing_of_a_refused_settlement_stays() -> None:
    case = Case(fused=True)
    case.clock.advance(31)
    case.broker.sweep()
    case.ledger.commit(case.consumer, [case.settlement()])
    assert case.store.get(["key"]) == [None]
    assert case.store.arrived("group.") == []
    assert [delivery.envelope for delivery in case.consumer.claim(9)] == [b"first"]


def test_split_a_stale_result_is_refused_and_counted() -> None:
    case = Case(fused=False)
    case.store.put([Record("key", b"earlier", "SUCCESS", "writer")])
    case.ledger.commit(case.consumer, [case.settlement()])
    assert case.store.get(["key"]) == [b"earlier"]
    assert case.ledger.stale == 1


def test_split_results_come_before_the_settlement() -> None:
    class Broken(MemoryStore):
        down = True

        def put(self, records: Any) -> list[bool]:
            if self.down:
                raise BackendError("out of reach")
            return super().put(records)

    store = Broken("memory://elsewhere")
    case = Case(fused=False, store=store)
    with pytest.raises(BackendError):
        case.ledger.commit(case.consumer, [case.settlement()])
    assert [stats.leased for stats in case.broker.stats(["q"])] == [1]
    store.down = False
    assert case.ledger.commit(case.consumer, [case.settlement()]) == []
    assert store.get(["key"]) == [b"value"]


def test_a_batch_of_many_is_one_commit(case: Case) -> None:
    case.broker.publish([Outgoing(b"%d" % number, "q") for number in range(50)])
    deliveries = case.consumer.claim(50)
    records = [(Record(f"k{number}", b"v", "SUCCESS", "w"),) for number in range(50)]
    settlements = [Settlement(delivery, records=record) for delivery, record in zip(deliveries, records, strict=True)]
    assert case.ledger.commit(case.consumer, settlements) == []
    assert case.store.get([f"k{number}" for number in range(50)]) == [b"v"] * 50


def test_start_stores_that_they_started(case: Case) -> None:
    record = Record("key", b"started", "STARTED", "writer")
    assert case.ledger.prepare([], [record]) == []
    assert case.ledger.commit_and_start(case.consumer, [], [case.delivery], [record]) == ([], ["ok"])
    assert case.store.get(["key"]) == [b"started"]


def test_without_a_store_messages_are_sent_all_the_same() -> None:
    broker = MemoryBroker(f"memory://ledger{next(PLACES)}")
    ledger = Ledger(broker, None)
    consumer = broker.consumer(["q"], name="w", store=ledger.joined)
    broker.publish([Outgoing(b"first", "q")])
    [delivery] = consumer.claim(1)
    assert isinstance(delivery, Delivery)
    ledger.commit(consumer, [Settlement(delivery, messages=(Outgoing(b"next", "q"),))])
    assert [found.envelope for found in consumer.claim(9)] == [b"next"]


def parts(*numbers: int, size: int = 2) -> tuple[Arrival, ...]:
    """Parts of one join, and the message that is sent when it is complete."""
    joined = Outgoing(b"joined", "q", task_id="joined")
    return tuple(Arrival("join.", f"id{number}:{number}", b"%d" % number, size, joined) for number in numbers)


def test_message_of_a_join_is_sent_by_whoever_completes_it(case: Case) -> None:
    case.broker.publish([Outgoing(b"second", "q")])
    [second] = case.consumer.claim(1)
    case.ledger.commit(case.consumer, [Settlement(case.delivery, arrivals=parts(0))])
    assert case.consumer.claim(9) == []
    case.ledger.commit(case.consumer, [Settlement(second, arrivals=parts(1))])
    assert [delivery.envelope for delivery in case.consumer.claim(9)] == [b"joined"]
    assert case.store.arrived("join.") == [b"0", b"1"]


def test_both_parts_of_a_join_in_one_batch(case: Case) -> None:
    case.broker.publish([Outgoing(b"second", "q")])
    [second] = case.consumer.claim(1)
    batch = [Settlement(second, arrivals=parts(1)), Settlement(case.delivery, arrivals=parts(0))]
    assert case.ledger.commit(case.consumer, batch) == []
    assert [delivery.envelope for delivery in case.consumer.claim(9)] == [b"joined"]


class Refusing(MemoryBroker):
    """Takes no message as long as it is told not to."""

    down = False

    def publish(self, messages: Any) -> None:
        if self.down:
            raise BrokerError("out of reach")
        super().publish(messages)


def test_split_message_of_a_join_is_sent_again_after_a_crash() -> None:
    """Between the arrival that completes the join and the message: who executes the part again sends it."""
    place = f"ledger{next(PLACES)}"
    broker, store = Refusing(f"memory://{place}"), MemoryStore(f"memory://{place}x")
    broker.publish([Outgoing(b"part", "q")])
    crashed = broker.consumer(["q"], name="crashed")
    [delivery] = crashed.claim(1)
    crashed.start([delivery])
    broker.down = True
    with pytest.raises(BrokerError):
        Ledger(broker, store).commit(crashed, [Settlement(delivery, arrivals=parts(7, size=1))])
    assert store.arrived("join.") == [b"7"]
    crashed.close()

    broker.down = False
    heir = broker.consumer(["q"], name="heir")
    [again] = heir.claim(1)
    assert Ledger(broker, store).commit(heir, [Settlement(again, arrivals=parts(7, size=1))]) == []
    assert [found.envelope for found in heir.claim(9)] == [b"joined"]


def test_split_what_was_sent_is_not_sent_twice_when_the_settlement_fails() -> None:
    place = f"ledger{next(PLACES)}"
    broker, store = MemoryBroker(f"memory://{place}"), MemoryStore(f"memory://{place}x")
    ledger, consumer = Ledger(broker, store), broker.consumer(["q"], name="w")
    broker.publish([Outgoing(b"part", "q")])
    [delivery] = consumer.claim(1)
    left = ledger.prepare([Settlement(delivery, arrivals=parts(0, size=1))])
    assert left == ledger.prepare(left)
    assert ledger.commit(consumer, left) == []
    assert [found.envelope for found in consumer.claim(9)] == [b"joined"]
