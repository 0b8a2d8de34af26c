"""What a broker that says so in `can` keeps to about permits, unique tasks, pauses, weights and withdrawals."""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence

import pytest

from celery.brokers.base import GRANTED, Broker, Consumer, Verdict
from celery.contrib.testing.contract.effects import Advance, Connect, bodies, message
from celery.utils.clock import FakeClock
from celery.wire.message import Delivery, Permit, Settlement, Unique


def one(key: str = "k", slots: int = 1) -> Permit:
    """A permit for one of *slots* places."""
    return Permit(key, slots)


def start(consumer: Consumer, deliveries: Sequence[Delivery], *permits: Permit) -> list[Verdict]:
    """Start all of them, each of which needs *permits*."""
    return consumer.start(deliveries, (), {delivery.tag: permits for delivery in deliveries})


def done(consumer: Consumer, *deliveries: Delivery) -> None:
    assert consumer.settle([Settlement(delivery) for delivery in deliveries]) == [True] * len(deliveries)


def waits(consumer: Consumer) -> bool:
    return not select.select([consumer.fileno()], [], [], 0)[0]


class LimitsContract:
    """The part of `BrokerContract` that is about limits. `clock`, `connect`, `broker`, `consumer` are its fixtures."""

    @pytest.fixture
    def limited(self, broker: Broker) -> Broker:
        if not broker.can.limits:
            pytest.skip("capability: this broker gives no permits")
        return broker

    @pytest.fixture
    def other(self, connect: Connect) -> Iterator[Consumer]:
        broker = connect()
        consumer = broker.consumer(["q", "r"], name="other")
        yield consumer
        consumer.close()
        broker.close()

    # Slots

    def test_no_more_are_started_than_there_are_slots(
        self, limited: Broker, consumer: Consumer, other: Consumer
    ) -> None:
        limited.publish([message(name) for name in "abcdef"])
        first = consumer.claim(3)
        assert start(consumer, first, one(slots=2)) == ["ok", "ok", "parked"]
        second = other.claim(2)
        assert start(other, second, one(slots=2)) == ["parked", "parked"]
        assert bodies(other.claim(10)) == ["f"], "those that wait stand in nobody's way"
        [stats] = limited.stats(["q"])
        assert (stats.ready, stats.leased, stats.parked) == (0, 3, 3)
        assert [entry.envelope for entry in limited.entries("parked")] == [b"c", b"d", b"e"]
        assert consumer.settle([Settlement(first[2])]) == [False], "what is parked is nobody's"

    def test_those_that_wait_are_woken_in_their_order(
        self, limited: Broker, consumer: Consumer, other: Consumer
    ) -> None:
        limited.publish([message(name) for name in "abcde"])
        deliveries = consumer.claim(4)
        assert start(consumer, deliveries, one()) == ["ok", "parked", "parked", "parked"]
        running = deliveries[0]
        late = other.claim(1)
        for name in "bcd":
            done(consumer, running)
            woken = consumer.claim(1)
            assert bodies(woken) == [name]
            assert start(other, late, one()) == (["parked"] if name == "b" else ["lost"]), "the place is kept"
            assert start(consumer, woken, one()) == ["ok"]
            [running] = woken
        done(consumer, running)
        assert bodies(consumer.claim(10)) == ["e"]
        assert limited.stats(["q"])[0].parked == 0

    def test_keys_do_not_know_of_each_other(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message(name) for name in "abc"])
        a, b, c = consumer.claim(3)
        needs = {a.tag: [one("x")], b.tag: [one("y")], c.tag: [one("x"), one("z")]}
        assert consumer.start([a, b, c], (), needs) == ["ok", "ok", "parked"]
        assert consumer.claim(10) == []
        done(consumer, b)
        assert consumer.claim(10) == []
        done(consumer, a)
        assert bodies(consumer.claim(10)) == ["c"]

    def test_whoever_gets_not_all_gets_none(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message(name) for name in "abc"])
        a, b, c = consumer.claim(3)
        needs = {a.tag: [one("x")], b.tag: [one("y"), one("x")], c.tag: [one("y")]}
        assert consumer.start([a, b, c], (), needs) == ["ok", "parked", "ok"]

    def test_what_is_started_once_more_has_its_slot(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message(name) for name in "abc"])
        a, b, c = consumer.claim(3)
        assert start(consumer, [a, b], one(slots=2)) == ["ok", "ok"]
        assert start(consumer, [a, b], one(slots=2)) == ["ok", "ok"], "a pool has handed them back"
        assert consumer.park([a], {a.tag: [one(slots=2)]}) == ["ok"]
        done(consumer, a, b)
        assert start(consumer, [c], one(slots=1)) == ["ok"], "each had one only"

    def test_what_ends_without_having_been_started_frees_nothing(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message(name) for name in "abcd"])
        a, b, c, d = consumer.claim(4)
        assert start(consumer, [a, b], one(slots=2)) == ["ok", "ok"]
        done(consumer, c)
        assert start(consumer, [d], one(slots=2)) == ["parked"]
        done(consumer, a, b)
        assert bodies(consumer.claim(1)) == ["d"]

    def test_all_of_a_batch_end_and_others_take_their_slots(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message(str(number)) for number in range(60)])
        running = consumer.claim(20)
        x, y = (one("x", 10),), (one("y", 20),)
        needs = {delivery.tag: x if number % 2 else y for number, delivery in enumerate(running)}
        assert consumer.start(running, (), needs) == ["ok"] * 20
        following = consumer.claim(20)
        needs = {delivery.tag: x if number < 15 else y for number, delivery in enumerate(following)}
        applied, verdicts = consumer.settle_and_start([Settlement(d) for d in running], following, (), needs)
        assert applied == [True] * 20
        assert verdicts == ["ok"] * 10 + ["parked"] * 5 + ["ok"] * 5
        done(consumer, *[d for d, told in zip(following, verdicts, strict=True) if told == "ok"])
        woken = consumer.claim(5)
        assert bodies(woken) == ["30", "31", "32", "33", "34"]
        assert start(consumer, woken, *x) == ["ok"] * 5
        rest = consumer.claim(20)
        assert start(consumer, rest, *x) == ["ok"] * 5 + ["parked"] * 15

    @pytest.mark.parametrize("verb", ["requeue", "dead"])
    def test_a_slot_is_free_however_its_holder_ends(self, limited: Broker, consumer: Consumer, verb: str) -> None:
        limited.publish([message("a"), message("b")])
        deliveries = consumer.claim(2)
        start(consumer, deliveries, one())
        assert consumer.settle([Settlement(deliveries[0], verb, delay=60.0)]) == [True]  # type: ignore[arg-type]
        woken = consumer.claim(2)
        assert bodies(woken) == ["b"]
        assert start(consumer, woken, one()) == ["ok"]

    def test_a_slot_is_free_when_its_holder_is_given_back(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message("a"), message("b")])
        a, b = consumer.claim(2)
        start(consumer, [a, b], one())
        consumer.release([a])
        back = consumer.claim(10)
        assert sorted(bodies(back)) == ["a", "b"]
        verdicts = dict(zip(bodies(back), start(consumer, back, one()), strict=True))
        assert verdicts == {"a": "parked", "b": "ok"}, "b was woken"

    def test_a_slot_is_free_when_its_holder_dies(
        self, limited: Broker, consumer: Consumer, connect: Connect, pass_time: Advance
    ) -> None:
        limited.publish([message("a"), message("b"), message("c")])
        deliveries = consumer.claim(3)
        assert start(consumer, deliveries, one()) == ["ok", "parked", "parked"]
        pass_time(limited.lease + 1)
        heir = connect()
        assert heir.sweep() == 1
        successor = heir.consumer(["q"], name="heir")
        found = successor.claim(10)
        assert sorted(bodies(found)) == ["a", "b"]
        assert sorted(start(successor, found, one())) == ["ok", "parked"]
        successor.close()
        heir.close()

    def test_a_slot_is_free_when_its_holder_leaves(self, limited: Broker, consumer: Consumer, other: Consumer) -> None:
        limited.publish([message("a"), message("b")])
        deliveries = other.claim(2)
        assert start(other, deliveries, one()) == ["ok", "parked"]
        other.close()
        found = consumer.claim(10)
        assert sorted(bodies(found)) == ["a", "b"]

    def test_a_place_that_nobody_comes_for_goes_to_others(
        self, limited: Broker, consumer: Consumer, other: Consumer, pass_time: Advance
    ) -> None:
        limited.publish([message("a"), message("b", "r"), message("c")])
        [a, c] = consumer.claim(2)
        [b] = other.claim(1)
        assert start(consumer, [a], one()) == ["ok"]
        assert start(other, [b], one()) == ["parked"]
        assert start(consumer, [c], one()) == ["parked"]
        done(consumer, a)
        assert consumer.claim(10) == [], "it is kept for b, whose queue is another one"
        for _ in range(3):
            pass_time(GRANTED / 3 + 1)
            assert consumer.renew()
            limited.sweep()
        found = consumer.claim(10)
        assert bodies(found) == ["c"]
        assert start(consumer, found, one()) == ["ok"]
        assert start(other, other.claim(1), one()) == ["parked"]

    def test_a_woken_one_that_is_dropped_makes_room(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message(name) for name in "abc"])
        deliveries = consumer.claim(3)
        start(consumer, deliveries, one())
        done(consumer, deliveries[0])
        [b] = consumer.claim(10)
        done(consumer, b)
        assert bodies(consumer.claim(10)) == ["c"]

    def test_a_raised_limit_holds_for_those_that_wait(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message(name) for name in "abcd"])
        a, b, c, d = consumer.claim(4)
        assert start(consumer, [a], one()) == ["ok"]
        assert start(consumer, [b, c], one(slots=3)) == ["ok", "ok"]
        assert start(consumer, [d], one(slots=3)) == ["parked"]
        done(consumer, a)
        assert bodies(consumer.claim(10)) == ["d"]

    def test_woken_ones_ring(self, limited: Broker, consumer: Consumer, other: Consumer) -> None:
        limited.publish([message("a"), message("b")])
        deliveries = consumer.claim(2)
        start(consumer, deliveries, one())
        assert consumer.claim(1) == []
        assert other.claim(1) == []
        assert waits(consumer)
        assert waits(other)
        done(consumer, deliveries[0])
        assert select.select([consumer.fileno()], [], [], 30.0)[0]
        assert select.select([other.fileno()], [], [], 30.0)[0]
        assert bodies(other.claim(1, timeout=30.0)) == ["b"]

    def test_settling_and_starting_in_one_step(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message("a"), message("b")])
        a, b = consumer.claim(2)
        assert start(consumer, [a], one()) == ["ok"]
        applied, verdicts = consumer.settle_and_start([Settlement(a)], [b], (), {b.tag: [one()]})
        assert (applied, verdicts) == ([True], ["ok"])

    def test_parking_what_could_not_be_started(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message(name) for name in "abcd"])
        a, b, c, d = consumer.claim(4)
        assert start(consumer, [a], one()) == ["ok"]
        needs = {b.tag: [one()], c.tag: [one("free")], d.tag: [one("free")]}
        assert consumer.park([b, c, d], needs) == ["parked", "ok", "ok"]
        assert consumer.park([b], needs) == ["lost"]
        assert start(consumer, [c, d], one("free")) == ["ok", "parked"], "what stays is held as it was, and has nothing"
        done(consumer, a)
        [back] = consumer.claim(10)
        assert (back.envelope, back.deliveries) == (b"b", 0)
        assert consumer.park([back], {back.tag: [one()]}) == ["ok"], "it was woken for it"
        assert start(consumer, [back], one()) == ["ok"]

    def test_many_of_many_keys(self, limited: Broker, consumer: Consumer) -> None:
        keys, each = 50, 4
        limited.publish([message(f"{number % keys}") for number in range(keys * each)])
        ended = 0
        for _ in range(each):
            deliveries = consumer.claim(1000)
            needs = {delivery.tag: [one(delivery.envelope.decode())] for delivery in deliveries}
            verdicts = consumer.start(deliveries, (), needs)
            running = [d for d, verdict in zip(deliveries, verdicts, strict=True) if verdict == "ok"]
            assert sorted(bodies(running)) == sorted(map(str, range(keys)))
            done(consumer, *running)
            ended += len(running)
        assert ended == keys * each
        assert consumer.claim(1000) == []

    # Rates

    def test_a_rate_is_kept_by_the_whole_fleet(
        self, limited: Broker, consumer: Consumer, other: Consumer, pass_time: Advance
    ) -> None:
        rate = Permit("k", interval=10.0)
        limited.publish([message(name) for name in "abcde"])
        assert start(consumer, consumer.claim(2), rate) == ["ok", "parked"]
        assert start(other, other.claim(1), rate) == ["parked"]
        assert start(consumer, consumer.claim(2), rate) == ["parked", "parked"]
        assert limited.stats(["q"])[0].parked == 4
        assert consumer.claim(10) == []
        assert consumer.due_in() == pytest.approx(10.0, abs=1.0)
        for name in "bcde":
            assert other.claim(10) == []
            pass_time(10.5)
            assert other.due_in() == 0
            found = other.claim(10)
            assert bodies(found) == [name], "one at a time, in order"
            assert start(other, found, rate) == ["ok"]
        assert other.claim(10) == []
        assert other.due_in() is None

    def test_a_burst_after_a_pause(self, limited: Broker, consumer: Consumer, pass_time: Advance) -> None:
        rate = Permit("k", interval=1.0, burst=3)
        limited.publish([message(str(number)) for number in range(8)])
        assert start(consumer, consumer.claim(8), rate) == ["ok"] * 3 + ["parked"] * 5
        pass_time(2.1)
        found = consumer.claim(8)
        assert bodies(found) == ["3", "4"]
        assert start(consumer, found, rate) == ["ok", "ok"]
        pass_time(100.0)
        found = consumer.claim(8)
        assert bodies(found) == ["5", "6", "7"]

    def test_newcomers_wait_behind_those_that_wait(
        self, limited: Broker, consumer: Consumer, other: Consumer, pass_time: Advance
    ) -> None:
        rate = Permit("k", interval=10.0)
        limited.publish([message("a"), message("b"), message("new")])
        start(consumer, consumer.claim(2), rate)
        newcomer = other.claim(1)
        pass_time(11.0)
        assert start(other, newcomer, rate) == ["parked"]
        found = consumer.claim(10)
        assert bodies(found) == ["b"]
        assert start(consumer, found, rate) == ["ok"]

    def test_a_late_fleet_does_not_make_up_for_it(
        self, limited: Broker, consumer: Consumer, pass_time: Advance
    ) -> None:
        rate = Permit("k", interval=1.0)
        limited.publish([message(str(number)) for number in range(5)])
        start(consumer, consumer.claim(5), rate)
        pass_time(10.0)
        assert start(consumer, consumer.claim(5), rate) == ["ok"]
        assert consumer.claim(5) == []

    def test_a_woken_one_that_is_lost_holds_nobody_up(
        self, limited: Broker, consumer: Consumer, other: Consumer, pass_time: Advance
    ) -> None:
        rate = Permit("k", interval=10.0)
        limited.publish([message(name) for name in "abc"])
        start(consumer, consumer.claim(3), rate)
        pass_time(11.0)
        [b] = consumer.claim(1)
        done(consumer, b)
        for _ in range(3):
            pass_time(GRANTED / 3 + 1)
            consumer.renew()
            limited.sweep()
        assert bodies(consumer.claim(10)) == ["c"]

    # What only a worker gives permits for

    def test_whoever_wants_them_takes_what_is_parked(
        self, limited: Broker, consumer: Consumer, other: Consumer
    ) -> None:
        limited.publish([message(name) for name in "abcd"])
        deliveries = consumer.claim(3)
        assert consumer.park(deliveries, {delivery.tag: [Permit("mine")] for delivery in deliveries}) == ["parked"] * 3
        assert limited.stats(["q"])[0].parked == 3
        assert bodies(other.claim(10, 0.0, {"mine": 2, "nothing": 5})) == ["a", "b", "d"]
        assert other.claim(10) == []
        assert other.claim(10, 0.0, {"mine": 0}) == []
        assert bodies(consumer.claim(10, 0.0, {"mine": 7})) == ["c"]

    def test_whoever_wants_them_is_told_of_new_ones(self, limited: Broker, consumer: Consumer, other: Consumer) -> None:
        limited.publish([message("a")])
        deliveries = consumer.claim(1)
        assert other.claim(1, 0.0, {"mine": 1}) == []
        assert waits(other)
        consumer.park(deliveries, {deliveries[0].tag: [Permit("mine")]})
        assert select.select([other.fileno()], [], [], 30.0)[0]
        assert bodies(other.claim(1, 30.0, {"mine": 1})) == ["a"]

    # Looking at what is parked, and tidying it

    def test_what_is_parked_is_removed_and_purged(self, limited: Broker, consumer: Consumer) -> None:
        limited.publish([message(name, task_id=name) for name in "abcd"])
        deliveries = consumer.claim(4)
        start(consumer, deliveries, one())
        entries = limited.entries("parked", ["q"])
        assert [(e.envelope, e.kind, e.task_id, e.queue) for e in entries] == [
            (name.encode(), "parked", name, "q") for name in "bcd"
        ]
        assert [e.envelope for e in limited.entries("parked", limit=1)] == [b"b"]
        assert limited.remove([entries[0].tag]) == 1
        assert limited.remove([entries[0].tag]) == 0
        done(consumer, deliveries[0])
        [c] = consumer.claim(10)
        assert c.envelope == b"c"
        assert limited.purge("q") == 1
        assert limited.stats(["q"])[0].parked == 0
        done(consumer, c)
        assert consumer.claim(10) == []

    def test_a_purge_gives_back_what_was_kept(self, limited: Broker, consumer: Consumer, pass_time: Advance) -> None:
        limited.publish([message("a"), message("b")])
        deliveries = consumer.claim(2)
        start(consumer, deliveries, one())
        done(consumer, deliveries[0])
        assert limited.purge("q") == 1
        for _ in range(3):
            pass_time(GRANTED / 3 + 1)
            consumer.renew()
            limited.sweep()
        limited.publish([message("c")])
        assert start(consumer, consumer.claim(1), one()) == ["ok"]

    # Withdrawing

    def test_withdrawn_messages_are_ready_at_once(self, broker: Broker, consumer: Consumer, clock: FakeClock) -> None:
        if not broker.can.withdraws:
            pytest.skip("capability: this broker withdraws nothing")
        later = clock.time() + 10_000
        broker.publish([message("first")])
        broker.publish([message(name, task_id=name, due=later) for name in "abc"])
        assert broker.withdraw(["nobody"]) == []
        assert bodies(consumer.claim(1)) == ["first"]
        broker.revoke(["b", "c"], 60.0)
        entries = broker.withdraw(["b", "c", "a-one"])
        assert sorted((e.envelope, e.kind, e.queue, e.task_id) for e in entries) == [
            (b"b", "ready", "q", "b"),
            (b"c", "ready", "q", "c"),
        ]
        assert broker.withdraw(["b"]) == []
        [stats] = broker.stats(["q"])
        assert (stats.ready, stats.delayed) == (2, 1)
        assert broker.remove([entry.tag for entry in entries if entry.envelope == b"c"]) == 1
        [delivery] = consumer.claim(10)
        assert (delivery.envelope, delivery.revoked) == (b"b", True)

    def test_what_is_parked_is_withdrawn_too(self, limited: Broker, consumer: Consumer) -> None:
        if not limited.can.withdraws:
            pytest.skip("capability: this broker withdraws nothing")
        limited.publish([message(name, task_id=name) for name in "abc"])
        deliveries = consumer.claim(3)
        start(consumer, deliveries, one())
        [entry] = limited.withdraw(["b"])
        assert (entry.envelope, entry.kind) == (b"b", "ready")
        assert bodies(consumer.claim(10)) == ["b"]
        done(consumer, deliveries[0])
        assert bodies(consumer.claim(10)) == ["c"]

    def test_stamps_are_revoked(self, broker: Broker, pass_time: Advance) -> None:
        if not broker.can.withdraws:
            pytest.skip("capability: this broker withdraws nothing")
        assert broker.revoked_stamps() == {}
        broker.revoke_stamps({"customer": ["7", "8"], "region": ["eu"]}, ttl=60.0)
        broker.revoke_stamps({"customer": ["8", "9"]}, ttl=600.0)
        assert broker.revoked_stamps() == {"customer": ["7", "8", "9"], "region": ["eu"]}
        pass_time(61.0)
        assert broker.revoked_stamps() == {"customer": ["8", "9"]}
        broker.revoke_stamps({"customer": [str(number) for number in range(10, 15)]}, ttl=700.0, most=3)
        assert len(broker.revoked_stamps()["customer"]) == 3

    def test_revocations_are_bounded(self, broker: Broker) -> None:
        if not broker.can.revokes:
            pytest.skip("capability: this broker keeps no revocations")
        broker.revoke(["old"], ttl=10.0)
        broker.revoke([f"id{number}" for number in range(5)], ttl=60.0, most=5)
        assert broker.revoked() == [f"id{number}" for number in range(5)]

    # Unique tasks

    @pytest.fixture
    def once(self, broker: Broker) -> Broker:
        if not broker.can.unique:
            pytest.skip("capability: this broker has no unique keys")
        return broker

    def test_a_key_is_held_until_it_is_freed(self, once: Broker, consumer: Consumer, clock: FakeClock) -> None:
        unique = Unique("key", clock.time() + 1000)
        assert once.publish_once(message("a", task_id="A"), unique) == "A"
        assert once.publish_once(message("b", task_id="B"), unique) == "A"
        assert once.publish_once(message("c", task_id="C"), Unique("other", clock.time() + 1000)) == "C"
        deliveries = consumer.claim(10)
        assert bodies(deliveries) == ["a", "c"]
        consumer.start(deliveries)
        a, c = deliveries
        assert consumer.settle([Settlement(c, frees=(("key", "C"),))]) == [True]
        assert once.publish_once(message("b", task_id="B"), unique) == "A", "who does not hold it cannot free it"
        assert consumer.settle([Settlement(a, frees=(("key", "A"),))]) == [True]
        assert once.publish_once(message("b", task_id="B"), unique) == "B"

    def test_a_key_lapses(self, once: Broker, consumer: Consumer, clock: FakeClock, pass_time: Advance) -> None:
        assert once.publish_once(message("a", task_id="A"), Unique("key", clock.time() + 10)) == "A"
        [a] = consumer.claim(10)
        assert consumer.settle([Settlement(a)]) == [True]
        assert once.publish_once(message("b", task_id="B"), Unique("key", clock.time() + 10)) == "A"
        pass_time(10.5)
        assert once.publish_once(message("b", task_id="B"), Unique("key", clock.time() + 10)) == "B"

    def test_its_holder_may_be_sent_again(self, once: Broker, consumer: Consumer, clock: FakeClock) -> None:
        unique = Unique("key", clock.time() + 1000)
        assert once.publish_once(message("a", task_id="A"), unique) == "A"
        assert once.publish_once(message("retry", task_id="A"), unique) == "A"
        assert bodies(consumer.claim(10)) == ["a", "retry"]

    def test_a_holder_that_has_ended_is_replaced(self, once: Broker, clock: FakeClock) -> None:
        unique = Unique("key", clock.time() + 1000)
        once.publish_once(message("a", task_id="A"), unique)
        assert once.publish_once(message("b", task_id="B"), unique, "someone else") == "A"
        assert once.publish_once(message("b", task_id="B"), unique, "A") == "B"
        assert once.publish_once(message("c", task_id="C"), unique, "A") == "B"

    def test_purged_tasks_hold_no_keys(self, once: Broker, consumer: Consumer, clock: FakeClock) -> None:
        for name in "abc":
            once.publish_once(message(name, task_id=name), Unique(name, clock.time() + 1000))
        consumer.claim(1)
        assert once.purge("q") == 2
        assert once.publish_once(message("d", task_id="d"), Unique("b", clock.time() + 1000)) == "d"
        assert once.publish_once(message("e", task_id="e"), Unique("a", clock.time() + 1000)) == "a"

    # Pauses

    @pytest.fixture
    def pausing(self, broker: Broker) -> Broker:
        if not broker.can.pauses:
            pytest.skip("capability: this broker pauses no queues")
        return broker

    def test_nothing_is_claimed_from_a_paused_queue(
        self, pausing: Broker, consumer: Consumer, other: Consumer, clock: FakeClock, connect: Connect
    ) -> None:
        pausing.publish([message("a")])
        pausing.pause(["q"])
        pausing.pause(["q"])
        pausing.publish([message("b"), message("elsewhere", "r"), message("late", due=clock.time() + 5)])
        assert consumer.claim(10) == []
        assert consumer.due_in() is None
        assert bodies(other.claim(10)) == ["elsewhere"]
        assert {stats.name: (stats.paused, stats.ready) for stats in pausing.stats(["q", "r"])} == {
            "q": (True, 2),
            "r": (False, 0),
        }
        later = connect()
        assert later.paused() == ["q"], "it is recorded in the store"
        later.resume(["q"])
        later.resume(["q", "r"])
        assert select.select([consumer.fileno()], [], [], 30.0)[0]
        assert bodies(consumer.claim(10, timeout=30.0)) == ["a", "b"]
        assert pausing.paused() == []
        later.close()

    def test_what_was_claimed_before_a_pause_ends(self, pausing: Broker, consumer: Consumer) -> None:
        pausing.publish([message("a"), message("b")])
        a, b = consumer.claim(2)
        pausing.pause(["q"])
        assert consumer.start([a]) == ["ok"]
        done(consumer, a)
        consumer.release([b])
        assert consumer.claim(1) == []
        pausing.resume(["q"])
        assert bodies(consumer.claim(1)) == ["b"]

    def test_a_pause_keeps_no_place(self, limited: Broker, pausing: Broker, other: Consumer) -> None:
        limited.publish([message("q1"), message("q2"), message("r1", "r")])
        by_name = {delivery.envelope.decode(): delivery for delivery in other.claim(3)}
        assert start(other, [by_name["q1"], by_name["q2"], by_name["r1"]], one()) == ["ok", "parked", "parked"]
        pausing.pause(["q"])
        done(other, by_name["q1"])
        woken = other.claim(10)
        assert bodies(woken) == ["r1"]
        assert start(other, woken, one()) == ["ok"]
        done(other, *woken)
        assert other.claim(10) == []
        pausing.resume(["q"])
        assert bodies(other.claim(10)) == ["q2"]

    # Weights

    def test_queues_are_served_by_weight(self, broker: Broker) -> None:
        if not broker.can.weights:
            pytest.skip("capability: this broker has no weights")
        consumer = broker.consumer(["low", "high"], name="both", weights={"high": 5, "low": 1})
        broker.publish([message(f"{name}{n}", name) for n in range(60) for name in ("low", "high")])
        served = [delivery.queue for _ in range(12) for delivery in consumer.claim(1)]
        assert (served.count("high"), served.count("low")) == (10, 2)
        assert served.index("low") < 7
        served = [delivery.queue for delivery in consumer.claim(24)]
        assert (served.count("high"), served.count("low")) == (20, 4)
        assert [delivery.queue for delivery in consumer.claim(200)].count("low") == 54
        broker.publish([message(str(n), "low") for n in range(20)])
        assert len(consumer.claim(10)) == 10, "whoever is alone gets everything"
        broker.publish([message(str(n), "high") for n in range(20)])
        assert [delivery.queue for delivery in consumer.claim(6)].count("low") <= 2, "and does not make up for it"
        consumer.close()

    def test_queues_are_served_strictly_in_order(self, broker: Broker, connect: Connect) -> None:
        if not broker.can.weights:
            pytest.skip("capability: this broker has no weights")
        strict = connect(queue_order_strategy="priority")
        consumer = strict.consumer(["high", "low"], name="strict")
        broker.publish([message(f"{name}{n}", name) for n in range(3) for name in ("low", "high")])
        assert bodies(consumer.claim(2)) == ["high0", "high1"]
        assert bodies(consumer.claim(2)) == ["high2", "low0"]
        broker.publish([message("high3", "high")])
        assert bodies(consumer.claim(2)) == ["high3", "low1"]
        consumer.close()
        strict.close()
