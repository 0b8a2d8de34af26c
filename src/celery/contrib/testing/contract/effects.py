"""What a broker commits beside the end of a message, where it fuses with a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from celery.backends.store import Store
from celery.brokers.base import Broker, Consumer
from celery.exceptions import BrokerError
from celery.wire.message import Arrival, Delivery, Outgoing, Record, Settlement

Advance = Callable[[float], object]
Connect = Callable[..., Broker]


def message(body: str, queue: str = "q", **fields: object) -> Outgoing:
    """A message that says *body*."""
    return Outgoing(body.encode(), queue, **fields)  # type: ignore[arg-type]


def gather(consumer: Consumer, count: int) -> list[Delivery]:
    """So many messages, some of which come back from elsewhere: a broker may need a moment to have them again."""
    found: list[Delivery] = []
    until = time.monotonic() + 30.0
    while len(found) < count and (left := until - time.monotonic()) > 0:
        found += consumer.claim(10, timeout=left)
    return found


def bodies(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.envelope.decode() for delivery in deliveries]


class EffectsContract:
    """The part of `BrokerContract` that needs its fixtures `store` and `fused`."""

    def test_effects_are_committed_with_the_settlement(self, broker: Broker, store: Store, fused: Consumer) -> None:
        assert broker.fuses(store)
        broker.publish([message("a"), message("b")])
        deliveries = fused.claim(10)
        assert fused.start(deliveries, [Record("ra", b"started", "STARTED")]) == ["ok", "ok"]
        assert store.get(["ra"]) == [b"started"]
        with store.watch(["ra"]) as watch:
            applied = fused.settle(
                [
                    Settlement(deliveries[0], records=(Record("ra", b"1"),), messages=(message("next"),)),
                    Settlement(deliveries[1], "requeue", arrivals=(Arrival("g.", "a:0", b"part", 2),)),
                ]
            )
            assert watch.wait(30.0)
        assert applied == [True, True]
        assert store.get(["ra"]) == [b"1"]
        assert store.arrived("g.") == [b"part"]
        assert sorted(bodies(fused.claim(10))) == ["b", "next"]

    def test_lost_settlement_has_no_effects(
        self, broker: Broker, store: Store, fused: Consumer, pass_time: Advance
    ) -> None:
        broker.publish([message("a"), message("b")])
        lost, _ = fused.claim(2)
        fused.start([lost])
        pass_time(broker.lease + 1)
        broker.sweep()
        [again] = fused.claim(1)
        stale = Settlement(
            lost,
            records=(Record("r", b"stale"),),
            messages=(message("stale", "followups"),),
            arrivals=(Arrival("g.", "a:0", b"part", 1, message("joined", "followups")),),
        )
        good = Settlement(again, records=(Record("s", b"good"),))
        assert fused.settle([stale, good]) == [False, True]
        assert store.get(["r", "s"]) == [None, b"good"]
        assert store.arrived("g.") == []
        assert broker.stats(["followups"])[0].ready == 0

    def test_settlement_that_cannot_be_routed_changes_nothing(
        self, broker: Broker, store: Store, fused: Consumer
    ) -> None:
        broker.publish([message("a")])
        [delivery] = fused.claim(1)
        bad = Settlement(delivery, records=(Record("r", b"1"),), messages=(Outgoing(b"", "key", exchange="nowhere"),))
        with pytest.raises(BrokerError, match="nowhere"):
            fused.settle([bad])
        assert store.get(["r"]) == [None]
        assert fused.settle([Settlement(delivery)]) == [True]

    def test_completing_a_join_sends_its_message_in_the_same_step(
        self, broker: Broker, store: Store, fused: Consumer
    ) -> None:
        broker.publish([message(name) for name in "abc"])
        deliveries = fused.claim(3)
        joined = message("joined", priority=3)

        def arrive(number: int) -> Settlement:
            arrival = Arrival("g.", f"{number}:{number}", b"%d" % number, 3, joined)
            return Settlement(deliveries[number], arrivals=(arrival,))

        assert fused.settle([arrive(0)]) == [True]
        assert fused.claim(9) == []
        assert fused.settle([arrive(1), arrive(2)]) == [True, True]
        assert bodies(fused.claim(9)) == ["joined"]
        assert store.arrived("g.") == [b"0", b"1", b"2"]

    def test_parts_of_two_joins_in_one_batch(self, broker: Broker, store: Store, fused: Consumer) -> None:
        broker.publish([message(str(number)) for number in range(4)])
        joins = [("g.", "0"), ("h.", "0"), ("g.", "1"), ("h.", "1")]
        settlements = [
            Settlement(
                delivery,
                records=(Record(f"{group}{index}", b"r"),),
                messages=(message(f"next {group}{index}"),),
                arrivals=(Arrival(group, f"x:{index}", index.encode(), 2, message(f"joined {group}")),),
            )
            for delivery, (group, index) in zip(fused.claim(4), joins, strict=True)
        ]
        assert fused.settle(settlements) == [True] * 4
        found = bodies(fused.claim(9))
        assert sorted(found) == sorted([f"next {g}{i}" for g, i in joins] + ["joined g.", "joined h."])
        assert store.get([f"{group}{index}" for group, index in joins]) == [b"r"] * 4

    def test_completing_part_that_is_settled_again_sends_again(
        self, broker: Broker, store: Store, fused: Consumer
    ) -> None:
        """As when a part is executed again after its first execution has been settled, late or by hand."""
        arrival = Arrival("g.", "a:0", b"0", 1, message("joined"))
        other = Arrival("g.", "b:0", b"1", 1, message("joined"))
        for parts, sent in (((arrival,), ["joined"]), ((other,), []), ((arrival, arrival), ["joined", "joined"])):
            broker.publish([message("part")])
            [delivery] = fused.claim(1)
            assert fused.settle([Settlement(delivery, arrivals=parts)]) == [True]
            found = fused.claim(9)
            assert bodies(found) == sent
            fused.settle([Settlement(delivery) for delivery in found])

    def test_message_of_a_join_that_cannot_be_routed_changes_nothing(
        self, broker: Broker, store: Store, fused: Consumer
    ) -> None:
        broker.publish([message("a")])
        [delivery] = fused.claim(1)
        bad = Arrival("g.", "a:0", b"0", 1, Outgoing(b"", "key", exchange="nowhere"))
        with pytest.raises(BrokerError, match="nowhere"):
            fused.settle([Settlement(delivery, arrivals=(bad,))])
        assert store.arrived("g.") == []
        assert fused.settle([Settlement(delivery)]) == [True]

    def test_first_terminal_record_wins_in_settlements_too(self, broker: Broker, store: Store, fused: Consumer) -> None:
        store.put([Record("r", b"first", "SUCCESS", "w")])
        broker.publish([message("a")])
        assert fused.settle([Settlement(fused.claim(1)[0], records=(Record("r", b"then", "FAILURE", "v"),))]) == [True]
        assert store.get(["r"]) == [b"first"]

    def test_effects_without_a_store_in_the_same_place_are_refused(self, broker: Broker, consumer: Consumer) -> None:
        broker.publish([message("a")])
        [delivery] = consumer.claim(1)
        with pytest.raises(ValueError, match="same place"):
            consumer.settle([Settlement(delivery, records=(Record("r", b""),))])
        assert consumer.settle([Settlement(delivery)]) == [True]
