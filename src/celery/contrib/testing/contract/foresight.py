"""What a broker may do with what it was told will be asked next: everything is as if it had not been told."""

from __future__ import annotations

import pytest

from celery.backends.store import Store
from celery.brokers.base import Broker, Consumer
from celery.contrib.testing.contract.effects import Advance, bodies, gather, message
from celery.wire.message import Record, Settlement


class ForesightContract:
    """Part of `BrokerContract`, whose fixtures it uses."""

    def test_a_chain_goes_on_as_foreseen(self, broker: Broker, store: Store, fused: Consumer) -> None:
        broker.publish([message("0")])
        fused.foresee(4)
        [delivery] = fused.claim(1)
        assert fused.start([delivery]) == ["ok"]
        for number in range(1, 6):
            ended = Settlement(delivery, records=(Record(f"r{number}", b"1"),), messages=(message(str(number)),))
            fused.foresee(4, claim=9)
            assert fused.settle([ended]) == [True]
            [delivery] = fused.claim(9)
            assert (delivery.envelope, delivery.deliveries) == (b"%d" % number, 0)
            assert fused.start([delivery]) == ["ok"]
            assert store.get([f"r{number}"]) == [b"1"]
        assert fused.settle([Settlement(delivery)]) == [True]
        assert fused.claim(9) == []

    def test_what_was_there_before_comes_first(self, broker: Broker, store: Store, fused: Consumer) -> None:
        broker.publish([message("a"), message("b"), message("c")])
        [delivery] = fused.claim(1)
        fused.foresee(1, claim=2)
        assert fused.settle([Settlement(delivery, messages=(message("next"),))]) == [True]
        assert bodies(fused.claim(2)) == ["b", "c"]
        assert bodies(fused.claim(2)) == ["next"]

    def test_what_started_as_foreseen_was_started(self, broker: Broker, consumer: Consumer, pass_time: Advance) -> None:
        if not broker.can.lease:
            pytest.skip("capability: this broker has no leases")
        broker.publish([message("started"), message("held")])
        dead = broker.consumer(["q"], name="dead")
        dead.foresee(2)
        started, _ = dead.claim(2)
        assert dead.start([started]) == ["ok"]
        pass_time(broker.lease + 1)
        broker.sweep()
        again = consumer.claim(2)
        assert [(d.envelope, d.deliveries, d.interrupted) for d in again] == [
            (b"started", 1, True),
            (b"held", 0, False),
        ]
        dead.close()

    def test_what_is_not_started_after_all_was_not_started(self, broker: Broker, consumer: Consumer) -> None:
        broker.publish([message("a"), message("b"), message("c")])
        consumer.foresee(3)
        first, second, third = consumer.claim(3)
        assert consumer.settle([Settlement(first, "requeue")]) == [True]
        consumer.release([third])
        assert consumer.settle([Settlement(second, "requeue")]) == [True]
        again = gather(consumer, 3)
        assert sorted(bodies(again)) == ["a", "b", "c"]
        assert [(d.deliveries, d.interrupted) for d in again] == [(0, False)] * 3

    def test_what_is_started_later_is_started(self, broker: Broker, consumer: Consumer) -> None:
        broker.publish([message("a"), message("b")])
        consumer.foresee(2)
        first, second = consumer.claim(2)
        broker.publish([message("c")])
        third = consumer.claim(1)
        assert consumer.start([first, *third]) == ["ok", "ok"]
        assert consumer.start([second]) == ["ok"]
        assert consumer.settle([Settlement(d, "requeue") for d in (first, second, *third)]) == [True] * 3
        assert [d.deliveries for d in gather(consumer, 3)] == [1, 1, 1]

    def test_what_is_revoked_does_not_start(self, broker: Broker, consumer: Consumer) -> None:
        if not broker.can.revokes:
            pytest.skip("capability: this broker keeps no revocations")
        broker.publish([message("a", task_id="A"), message("b", task_id="B")])
        broker.revoke(["A"], ttl=60.0)
        consumer.foresee(2)
        assert consumer.start(consumer.claim(2)) == ["revoked", "ok"]


__all__ = ["ForesightContract"]
