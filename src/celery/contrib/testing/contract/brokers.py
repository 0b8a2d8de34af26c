"""What every broker and its consumers keep to."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from celery.backends.store import Store
from celery.brokers.base import Broker, Consumer
from celery.contrib.testing.contract.effects import Advance, Connect, EffectsContract, bodies, gather, message
from celery.contrib.testing.contract.foresight import ForesightContract
from celery.contrib.testing.contract.limits import LimitsContract
from celery.exceptions import BrokerError
from celery.utils.clock import FakeClock
from celery.wire.message import Delivery, Exchange, Outgoing, Queue, Settlement

SOON = 30.0
"""Seconds within which what must happen has happened."""


def readable(consumer: Consumer, timeout: float = 0.0) -> bool:
    return bool(select.select([consumer.fileno()], [], [], timeout)[0])


class BrokerContract(EffectsContract, ForesightContract, LimitsContract):
    """Override `connect` with a function that makes a broker on one place, which is new in every test.

    Override `connect_store` too if there are stores that the broker fuses with, and `many` for a slow broker.
    """

    many = 150
    """How many messages each of three publishers sends in the test of many at once."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def connect(self, clock: FakeClock) -> Connect:
        pytest.fail("Override the fixture `connect`.")

    @pytest.fixture
    def connect_store(self) -> Callable[[], Store] | None:
        """Makes a store in the same place as the broker."""
        return None

    @pytest.fixture
    def pass_time(self, clock: FakeClock) -> Advance:
        """Lets seconds pass for the broker. Override where the store has a clock of its own."""
        return clock.advance

    @pytest.fixture
    def broker(self, connect: Connect) -> Iterator[Broker]:
        broker = connect()
        yield broker
        broker.close()

    @pytest.fixture
    def consumer(self, broker: Broker) -> Iterator[Consumer]:
        consumer = broker.consumer(["q"], name="first")
        yield consumer
        consumer.close()

    @pytest.fixture
    def store(self, broker: Broker, connect_store: Callable[[], Store] | None) -> Iterator[Store]:
        if connect_store is None or not broker.can.transactional:
            pytest.skip("capability: this broker fuses with no store")
        store = connect_store()
        yield store
        store.close()

    @pytest.fixture
    def fused(self, broker: Broker, store: Store) -> Iterator[Consumer]:
        consumer = broker.consumer(["q"], name="fused", store=store)
        yield consumer
        consumer.close()

    # Publishing and routing

    def test_message_arrives_as_it_was_sent(self, broker: Broker, consumer: Consumer) -> None:
        envelope = bytes(range(256)) * 40
        broker.publish([Outgoing(envelope, "q", task_id="id")])
        [delivery] = consumer.claim(10)
        assert (delivery.envelope, delivery.queue) == (envelope, "q")
        assert (delivery.deliveries, delivery.interrupted, delivery.redelivered, delivery.revoked) == (
            0,
            False,
            False,
            False,
        )

    def test_publishing_nothing_does_nothing(self, broker: Broker) -> None:
        broker.publish([])
        assert broker.stats(["q"])[0].ready == 0

    def test_what_was_published_is_there_for_a_later_consumer(self, broker: Broker, connect: Connect) -> None:
        broker.publish([message("a"), message("b", "other")])
        broker.close()
        other = connect()
        consumer = other.consumer(["q"], name="late")
        assert bodies(consumer.claim(10)) == ["a"]
        consumer.close()
        other.close()

    def test_routes_by_direct_topic_and_fanout(self, broker: Broker) -> None:
        broker.declare(
            [
                Queue("d", Exchange("direct", "direct"), "key"),
                Queue("t1", Exchange("topic", "topic"), "a.*.c"),
                Queue("t2", Exchange("topic", "topic"), "a.#"),
                Queue("f1", Exchange("fan", "fanout"), ""),
                Queue("f2", Exchange("fan", "fanout"), "ignored"),
            ]
        )
        broker.declare([Queue("d", Exchange("direct", "direct"), "key")])
        broker.publish(
            [
                Outgoing(b"1", "key", exchange="direct"),
                Outgoing(b"2", "a.b.c", exchange="topic"),
                Outgoing(b"3", "a", exchange="topic"),
                Outgoing(b"4", "whatever", exchange="fan"),
            ]
        )
        ready = {stats.name: stats.ready for stats in broker.stats(["d", "t1", "t2", "f1", "f2"])}
        assert ready == {"d": 1, "t1": 1, "t2": 2, "f1": 1, "f2": 1}

    def test_unroutable_message_is_refused_with_its_whole_batch(self, broker: Broker, consumer: Consumer) -> None:
        with pytest.raises(BrokerError, match=r"'nowhere'.*'key'"):
            broker.publish([message("a"), Outgoing(b"b", "key", exchange="nowhere")])
        assert consumer.claim(10) == []

    # Order

    def test_oldest_first(self, broker: Broker, consumer: Consumer) -> None:
        if not broker.can.fifo:
            pytest.skip("capability: this broker keeps no order")
        broker.publish([message("1"), message("2")])
        broker.publish([message("3")])
        assert bodies(consumer.claim(2)) == ["1", "2"]
        assert bodies(consumer.claim(2)) == ["3"]

    def test_urgent_first(self, broker: Broker, consumer: Consumer) -> None:
        if not broker.can.priorities:
            pytest.skip("capability: this broker has no priorities")
        urgent = broker.can.most_urgent
        lazy = 9 - urgent
        broker.publish([message(f"lazy{n}", priority=lazy) for n in range(2)])
        broker.publish([message("middle", priority=5)])
        broker.publish([message(f"urgent{n}", priority=urgent) for n in range(2)])
        assert bodies(consumer.claim(1)) == ["urgent0"]
        assert bodies(consumer.claim(10)) == ["urgent1", "middle", "lazy0", "lazy1"]

    def test_queues_take_turns(self, broker: Broker) -> None:
        consumer = broker.consumer(["a", "b"], name="both")
        broker.publish([message(f"a{n}", "a") for n in range(10)] + [message(f"b{n}", "b") for n in range(4)])
        assert sorted(bodies([*consumer.claim(1), *consumer.claim(1)])) == ["a0", "b0"]
        assert {body[0] for body in bodies(consumer.claim(4))} == {"a", "b"}
        assert len(consumer.claim(100)) == 8
        consumer.close()

    # Delay

    def test_delayed_message_waits_until_it_is_due(
        self, broker: Broker, consumer: Consumer, clock: FakeClock, pass_time: Advance
    ) -> None:
        if not broker.can.lists:
            pytest.skip("capability: this broker does not list what it holds")
        if not broker.can.delay:
            pytest.skip("capability: this broker cannot delay")
        now = clock.time()
        broker.publish([message("later", due=now + 20), message("soon", due=now + 10), message("now", due=now - 1)])
        assert bodies(consumer.claim(10)) == ["now"]
        assert consumer.due_in() == pytest.approx(10, abs=1)
        [stats] = broker.stats(["q"])
        assert (stats.ready, stats.delayed) == (0, 2)
        pass_time(10.5)
        assert consumer.due_in() == 0
        assert broker.stats(["q"])[0].ready == 1
        assert bodies(consumer.claim(10)) == ["soon"]
        pass_time(10)
        assert bodies(consumer.claim(10)) == ["later"]
        assert consumer.due_in() is None

    # Waiting

    def test_claim_waits_for_a_message(self, broker: Broker, consumer: Consumer, connect: Connect) -> None:
        got: list[Delivery] = []
        waiter = threading.Thread(target=lambda: got.extend(consumer.claim(10, timeout=60.0)))
        waiter.start()
        other = connect()
        other.publish([message("a")])
        waiter.join(SOON)
        assert bodies(got) == ["a"]
        other.close()

    def test_claim_ends_with_its_timeout(self, consumer: Consumer) -> None:
        started = time.monotonic()
        assert consumer.claim(1, timeout=0.05) == []
        assert time.monotonic() - started >= 0.05

    def test_wake_ends_a_claim(self, consumer: Consumer) -> None:
        got: list[list[Delivery]] = []
        waiter = threading.Thread(target=lambda: got.append(consumer.claim(10, timeout=60.0)))
        waiter.start()
        consumer.wake()
        waiter.join(SOON)
        assert got == [[]]

    def test_descriptor_is_readable_when_claim_may_find_something(self, broker: Broker, consumer: Consumer) -> None:
        consumer.claim(1)
        assert not readable(consumer)
        broker.publish([message("a"), message("b")])
        assert readable(consumer, SOON)
        consumer.claim(1)
        assert readable(consumer, SOON), "there may be more"
        consumer.claim(10)
        assert not readable(consumer)

    def test_wakes_when_a_message_comes_back(self, broker: Broker, consumer: Consumer) -> None:
        other = broker.consumer(["q"], name="other")
        broker.publish([message("a")])
        deliveries = other.claim(10)
        consumer.claim(10)
        assert not readable(consumer)
        other.release(deliveries)
        assert readable(consumer, SOON)
        other.close()

    # Lease, start, settle

    def test_message_has_one_owner(self, broker: Broker, consumer: Consumer) -> None:
        other = broker.consumer(["q"], name="other")
        broker.publish([message("a")])
        assert len(consumer.claim(10)) == 1
        assert other.claim(10) == []
        assert broker.stats(["q"])[0].leased == 1
        other.close()

    def test_done_is_gone(self, broker: Broker, consumer: Consumer) -> None:
        broker.publish([message(str(number)) for number in range(10)])
        deliveries = consumer.claim(10)
        assert consumer.start(deliveries) == ["ok"] * 10
        assert consumer.settle([Settlement(delivery) for delivery in reversed(deliveries)]) == [True] * 10
        [stats] = broker.stats(["q"])
        assert (stats.ready, stats.leased, stats.delayed, stats.dead) == (0, 0, 0, 0)
        assert consumer.settle([Settlement(deliveries[0])]) == [False]
        assert consumer.settle([]) == []

    def test_one_batch_ends_in_several_ways(self, broker: Broker, consumer: Consumer, pass_time: Advance) -> None:
        if not broker.can.lists:
            pytest.skip("capability: this broker does not list what it holds")
        broker.publish([message(name) for name in ("done", "again", "later", "dead", "twice")])
        done, again, later, dead, twice = consumer.claim(10)
        consumer.start([done, again, later, dead, twice])
        applied = consumer.settle(
            [
                Settlement(done),
                Settlement(again, "requeue"),
                Settlement(later, "requeue", delay=30.0),
                Settlement(dead, "dead", reason="rotten"),
                Settlement(twice),
                Settlement(twice, "requeue"),
            ]
        )
        assert applied == [True, True, True, True, True, False]
        [stats] = broker.stats(["q"])
        assert (stats.ready, stats.leased, stats.delayed, stats.dead) == (1, 0, 1, 1)
        [back] = consumer.claim(10)
        assert (back.envelope, back.deliveries, back.interrupted, back.redelivered) == (b"again", 1, False, True)
        pass_time(31.0)
        assert bodies(consumer.claim(10)) == ["later"]

    def test_requeue_goes_to_the_back_and_counts_only_executions(self, broker: Broker, consumer: Consumer) -> None:
        if not broker.can.ordered:
            pytest.skip("capability: messages that come back are in no order")
        broker.publish([message("a"), message("b")])
        [first] = consumer.claim(1)
        consumer.settle([Settlement(first, "requeue")])
        deliveries = gather(consumer, 2)
        assert bodies(deliveries) == ["b", "a"]
        assert [delivery.deliveries for delivery in deliveries] == [0, 0]

    def test_release_goes_to_the_front_uncounted(self, broker: Broker, consumer: Consumer) -> None:
        if not broker.can.ordered:
            pytest.skip("capability: messages that come back are in no order")
        broker.publish([message("a"), message("b"), message("c")])
        consumer.release(consumer.claim(2))
        deliveries = gather(consumer, 3)
        assert bodies(deliveries) == ["a", "b", "c"]
        assert not any(delivery.redelivered for delivery in deliveries)

    def test_release_of_what_was_marked_but_not_run_is_uncounted(self, broker: Broker, consumer: Consumer) -> None:
        broker.publish([message("a")])
        deliveries = consumer.claim(1)
        assert consumer.start(deliveries) == ["ok"]
        consumer.release(deliveries)
        [again] = gather(consumer, 1)
        assert (again.deliveries, again.interrupted, again.redelivered) == (0, False, False)

    def test_release_of_what_was_let_go_of_loses_nothing(self, broker: Broker, consumer: Consumer) -> None:
        """It was acknowledged, if the broker cannot mark it; but it has not run."""
        broker.publish([message("a"), message("b")])
        deliveries = consumer.claim(2)
        assert consumer.start(deliveries) == ["ok", "ok"]
        consumer.let_go(deliveries)
        consumer.release(deliveries)
        again = gather(consumer, 2)
        assert sorted(bodies(again)) == ["a", "b"]
        assert not any(delivery.deliveries or delivery.interrupted for delivery in again)
        assert consumer.settle([Settlement(delivery) for delivery in again]) == [True, True]
        assert consumer.claim(10) == []

    def test_fence_changes_with_every_claim(self, broker: Broker, consumer: Consumer) -> None:
        broker.publish([message("a")])
        [former] = consumer.claim(1)
        consumer.release([former])
        [current] = gather(consumer, 1)
        assert current.fence != former.fence
        assert consumer.start([former]) == ["lost"]
        assert consumer.settle([Settlement(former)]) == [False]
        consumer.release([former])
        assert consumer.start([current]) == ["ok"]
        assert consumer.settle([Settlement(current), Settlement(former)]) == [True, False]

    def test_settles_what_was_never_started(self, broker: Broker, consumer: Consumer) -> None:
        broker.publish([message("a")])
        assert consumer.settle([Settlement(consumer.claim(1)[0], "dead", reason="unknown task")]) == [True]
        [entry] = broker.entries("dead")
        assert (entry.envelope, entry.reason, entry.deliveries) == (b"a", "unknown task", 0)

    # Leases that run out

    def test_sweep_returns_what_a_dead_consumer_held(
        self, broker: Broker, connect: Connect, pass_time: Advance
    ) -> None:
        if not broker.can.lease:
            pytest.skip("capability: this broker has no leases")
        broker.publish([message("started"), message("held"), message("ready")])
        dead = broker.consumer(["q"], name="dead")
        started, held = dead.claim(2)
        dead.start([started])
        assert broker.sweep() == 0
        pass_time(broker.lease + 1)
        other = connect()
        assert other.sweep() == 2
        assert other.sweep() == 0
        consumer = other.consumer(["q"], name="heir")
        deliveries = consumer.claim(10)
        assert bodies(deliveries) == ["started", "held", "ready"]
        assert [(d.deliveries, d.interrupted, d.redelivered) for d in deliveries] == [
            (1, True, True),
            (0, False, False),
            (0, False, False),
        ]
        # The former owner wakes up and changes nothing.
        assert not dead.renew()
        assert dead.start([held]) == ["lost"]
        assert dead.settle([Settlement(started), Settlement(held, "dead")]) == [False, False]
        dead.release([held])
        assert consumer.settle([Settlement(delivery) for delivery in deliveries]) == [True] * 3
        # And it may go on as a new one.
        broker.publish([message("new")])
        [new] = dead.claim(1)
        assert dead.settle([Settlement(new)]) == [True]
        consumer.close()
        dead.close()
        other.close()

    def test_renewing_keeps_the_lease(self, broker: Broker, consumer: Consumer, pass_time: Advance) -> None:
        if not broker.can.lease:
            pytest.skip("capability: this broker has no leases")
        broker.publish([message("a")])
        deliveries = consumer.claim(1)
        for _ in range(4):
            pass_time(broker.lease / 2)
            assert consumer.renew()
            assert broker.sweep() == 0
        assert consumer.settle([Settlement(deliveries[0])]) == [True]

    def test_interrupted_is_said_once(self, broker: Broker, consumer: Consumer, pass_time: Advance) -> None:
        if not broker.can.lease:
            pytest.skip("capability: this broker has no leases")
        broker.publish([message("a")])
        for _ in range(2):
            crashing = broker.consumer(["q"], name="crashing")
            crashing.start(crashing.claim(1))
            pass_time(broker.lease + 1)
            broker.sweep()
        [delivery] = consumer.claim(1)
        assert (delivery.deliveries, delivery.interrupted) == (2, True)
        consumer.start([delivery])
        consumer.settle([Settlement(delivery, "requeue")])
        [delivery] = consumer.claim(1)
        assert (delivery.deliveries, delivery.interrupted) == (3, False)

    def test_closing_gives_everything_back(self, broker: Broker, consumer: Consumer) -> None:
        other = broker.consumer(["q"], name="other")
        broker.publish([message("a"), message("b")])
        deliveries = other.claim(10)
        other.start(deliveries[:1])
        other.close()
        other.close()
        back = gather(consumer, 2)
        if not broker.can.ordered:
            back.sort(key=lambda delivery: delivery.envelope)
        assert bodies(back) == ["a", "b"]
        assert [(d.deliveries, d.interrupted) for d in back] == [(1, True), (0, False)]
        with pytest.raises(BrokerError, match="closed"):
            other.claim(1)

    # Revocation

    def test_revocation_is_seen_by_claim_and_start(
        self, broker: Broker, consumer: Consumer, pass_time: Advance
    ) -> None:
        if not broker.can.revokes:
            pytest.skip("capability: this broker keeps no revocations")
        broker.publish([message("a", task_id="A"), message("b", task_id="B"), message("c", task_id="C")])
        broker.revoke(["A"], ttl=60.0)
        deliveries = consumer.claim(10)
        assert [delivery.revoked for delivery in deliveries] == [True, False, False]
        broker.revoke(["B"], ttl=600.0)
        assert broker.revoked() == ["A", "B"]
        assert consumer.start(deliveries) == ["revoked", "revoked", "ok"]
        pass_time(61.0)
        assert broker.revoked() == ["B"]
        assert consumer.start(deliveries[:2]) == ["ok", "revoked"]
        assert consumer.settle([Settlement(delivery) for delivery in deliveries]) == [True] * 3

    # Looking at queues and tidying them

    def test_stats(self, broker: Broker, clock: FakeClock, pass_time: Advance) -> None:
        if not broker.can.lists:
            pytest.skip("capability: this broker does not list what it holds")
        broker.declare([Queue("empty")])
        consumer = broker.consumer(["a", "b"], name="counted")
        broker.publish([message("1", "a"), message("2", "a"), message("3", "b", due=clock.time() + 1000)])
        consumer.settle([Settlement(consumer.claim(1)[0], "dead", reason="r")])
        pass_time(5.0)
        by_name = {stats.name: stats for stats in broker.stats()}
        assert sorted(by_name) == list(by_name)
        assert by_name["empty"].oldest is None
        a, b = by_name["a"], by_name["b"]
        assert (a.ready, a.leased, a.delayed, a.dead, a.consumers) == (1, 0, 0, 1, 1)
        assert a.oldest == pytest.approx(5.0, abs=2.0)
        assert (b.ready, b.delayed, b.consumers, b.oldest) == (0, 1, 1, None)
        assert [stats.name for stats in broker.stats(["b", "unknown"])] == ["b", "unknown"]
        consumer.close()

    def test_entries(self, broker: Broker, consumer: Consumer, clock: FakeClock) -> None:
        if not broker.can.lists:
            pytest.skip("capability: this broker does not list what it holds")
        due = clock.time() + 1000
        broker.publish([message(str(number), task_id=f"id{number}") for number in range(4)])
        broker.publish([message("delayed", due=due)])
        dead, leased = consumer.claim(2)
        consumer.settle([Settlement(dead, "dead", reason="why")])
        ready = broker.entries("ready")
        assert [(e.envelope, e.kind, e.task_id, e.queue) for e in ready] == [
            (b"2", "ready", "id2", "q"),
            (b"3", "ready", "id3", "q"),
        ]
        assert [e.envelope for e in broker.entries("ready", limit=1)] == [b"2"]
        [delayed] = broker.entries("delayed")
        assert (delayed.envelope, delayed.kind) == (b"delayed", "delayed")
        assert delayed.due == pytest.approx(due)
        assert [(e.tag, e.owner) for e in broker.entries("leased")] == [(leased.tag, "first")]
        [entry] = broker.entries("dead", ["q"])
        assert (entry.tag, entry.reason) == (dead.tag, "why")
        assert entry.since == pytest.approx(clock.time(), abs=5.0)
        assert broker.entries("dead", ["other"]) == []

    def test_purge_leaves_leased_and_dead(self, broker: Broker, consumer: Consumer, clock: FakeClock) -> None:
        if not broker.can.lists:
            pytest.skip("capability: this broker does not list what it holds")
        broker.publish([message(str(number)) for number in range(4)])
        broker.publish([message("delayed", due=clock.time() + 1000), message("elsewhere", "other")])
        dead, leased = consumer.claim(2)
        consumer.settle([Settlement(dead, "dead")])
        assert broker.purge("q") == 3
        assert broker.purge("q") == 0
        [stats] = broker.stats(["q"])
        assert (stats.ready, stats.leased, stats.delayed, stats.dead) == (0, 1, 0, 1)
        assert consumer.settle([Settlement(leased)]) == [True]
        assert broker.stats(["other"])[0].ready == 1

    def test_remove_leaves_leased(self, broker: Broker, consumer: Consumer, clock: FakeClock) -> None:
        if not broker.can.lists:
            pytest.skip("capability: this broker does not list what it holds")
        broker.publish([message(str(number)) for number in range(4)])
        broker.publish([message("delayed", due=clock.time() + 1000)])
        dead, leased = consumer.claim(2)
        consumer.settle([Settlement(dead, "dead")])
        tags = [entry.tag for kind in ("ready", "delayed", "leased", "dead") for entry in broker.entries(kind)]
        assert len(tags) == 5
        assert broker.remove([*tags, 123456789]) == 4
        assert broker.remove(tags) == 0
        [stats] = broker.stats(["q"])
        assert (stats.ready, stats.leased, stats.delayed, stats.dead) == (0, 1, 0, 0)
        assert consumer.claim(10) == []
        assert consumer.settle([Settlement(leased)]) == [True]

    def test_replay_makes_dead_messages_fresh(self, broker: Broker, consumer: Consumer) -> None:
        broker.publish([message("a"), message("b")])
        deliveries = consumer.claim(10)
        consumer.start(deliveries)
        consumer.settle([Settlement(delivery, "dead", reason="r") for delivery in deliveries])
        broker.publish([message("c")])
        tags = [entry.tag for entry in broker.entries("dead")]
        assert broker.replay([*tags, 123456789]) == 2
        assert broker.replay(tags) == 0
        back = gather(consumer, 3)
        assert sorted(bodies(back)) == ["a", "b", "c"]
        assert [(d.deliveries, d.interrupted) for d in back] == [(0, False)] * 3
        assert broker.entries("dead") == []

    def test_inner_messages_come_before_all_others(self, broker: Broker, consumer: Consumer, connect: Connect) -> None:
        if not broker.can.lists:
            pytest.skip("capability: this broker does not list what it holds")
        urgent = broker.can.most_urgent
        broker.publish([message("a", priority=urgent), message("b")])
        broker.publish([message("inner", inner=True)])
        broker.publish([message("c", priority=urgent), message("inner too", inner=True)])
        [stats] = broker.stats(["q"])
        assert stats.ready == 5
        assert [entry.envelope for entry in broker.entries("ready", ["q"])][:2] == [b"inner", b"inner too"]
        first = consumer.claim(1)
        assert bodies(first) == ["inner"]
        consumer.release(first)
        assert bodies(consumer.claim(2)) == ["inner", "inner too"]
        consumer.close()
        other = connect()
        heir = other.consumer(["q"], name="heir")
        assert bodies(heir.claim(2)) == ["inner", "inner too"], "given back, they are inner messages still"
        heir.close()
        other.close()
        assert broker.purge("q") == 5

    # Together

    def test_concurrent_publishers_and_consumers_lose_and_double_nothing(self, connect: Connect) -> None:
        count, parties = self.many, 3
        seen: list[str] = []
        errors: list[BaseException] = []
        finished = threading.Event()

        def publish(party: int) -> None:
            broker = connect()
            for number in range(count):
                broker.publish([message(f"{party}-{number}")])
            broker.close()

        def consume(party: int) -> None:
            broker = connect()
            consumer = broker.consumer(["q"], name=str(party))
            try:
                while not finished.is_set():
                    deliveries = consumer.claim(7, timeout=0.5)
                    consumer.start(deliveries)
                    assert all(consumer.settle([Settlement(delivery) for delivery in deliveries]))
                    seen.extend(bodies(deliveries))
                    if len(seen) >= count * parties:
                        finished.set()
            except BaseException as error:
                errors.append(error)
                raise
            finally:
                consumer.close()
                broker.close()

        threads = [
            threading.Thread(target=work, args=(party,)) for party in range(parties) for work in (publish, consume)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90.0)
        assert not errors
        assert sorted(seen) == sorted(f"{party}-{number}" for party in range(parties) for number in range(count))
