"""Random histories of a broker with crashing consumers, against a model that fits on a page."""

from __future__ import annotations

import shutil
import tempfile
from bisect import bisect_right
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from celery.backends.memory import MemoryStore
from celery.backends.redis import RedisStore
from celery.backends.sqlite import SQLiteStore
from celery.backends.store import Store
from celery.brokers.base import Broker, Capabilities, Consumer
from celery.brokers.memory import MemoryBroker
from celery.brokers.redis import RedisBroker
from celery.brokers.sqlite import SQLiteBroker
from celery.utils.clock import FakeClock
from celery.wire.message import Arrival, Delivery, Outgoing, Record, Settlement
from rig.redis import RedisServer

QUEUES = ("a", "b")
JOIN = 2
"""Parts of a join."""
LEASE = 30.0


@dataclass
class Expected:
    """A message as the model knows it. `kind` is ready, delayed, dead or the consumer that leases it."""

    body: str
    queue: str
    priority: int
    place: int
    kind: str | Party = "ready"
    due: float = 0.0
    fence: int = 0
    started: bool = False
    deliveries: int = 0
    interrupted: bool = False
    inner: bool = False

    def urgency(self, can: Capabilities) -> int:
        """What is smallest is served first."""
        if self.inner:
            return -1
        step = bisect_right(can.steps, self.priority) - 1
        return step if can.most_urgent == 0 else len(can.steps) - 1 - step

    def come_back(self, *, crashed: bool) -> None:
        if self.started:
            self.deliveries, self.interrupted = self.deliveries + 1, crashed
        self.kind, self.started, self.fence = "ready", False, 0


@dataclass
class Join:
    """What has arrived at a join: parts by index, and those that only make it wait for more."""

    parts: dict[str, bytes] = field(default_factory=dict)
    grown: set[str] = field(default_factory=set)
    last: str = ""

    def arrive(self, arrival: Arrival) -> bool:
        """Whether the arrival completes it."""
        if not self.last and arrival.grows:
            self.grown.add(arrival.index)
        elif not self.last:
            self.parts.setdefault(arrival.index, arrival.value)
            if len(self.parts) == arrival.size + len(self.grown):
                self.last = arrival.index
        return self.last == arrival.index


@dataclass(eq=False)
class Party:
    """A consumer. The driver's and the model's view of it."""

    consumer: Consumer
    queue: str
    deadline: float
    alive: bool = True
    registered: bool = True
    held: list[Delivery] = field(default_factory=list)


class BrokerMachine(RuleBasedStateMachine):
    """Override `make`."""

    def make(self) -> tuple[Broker, Store]:
        raise AssertionError("subclasses say what is tested")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.broker, self.store = self.make()
        self.messages: dict[str, Expected] = {}
        self.results: dict[str, bytes] = {}
        self.joins: dict[str, Join] = {}
        self.parts = 0
        self.revocations: dict[str, float] = {}
        self.everyone: list[Party] = []
        self.places = 0

    def place(self) -> int:
        self.places += 1
        return self.places

    def enter(self, queue: str, priority: int, delay: float) -> Outgoing:
        """A new message, also in the model."""
        place = self.place()
        due = self.clock.time() + delay if delay else None
        kind = "delayed" if delay else "ready"
        self.messages[str(place)] = Expected(str(place), queue, priority, place, kind, due or 0.0)
        return Outgoing(str(place).encode(), queue, priority=priority, due=due, task_id=str(place))

    def tags(self, kind: str) -> dict[str, int | str]:
        return {entry.envelope.decode(): entry.tag for entry in self.broker.entries(kind, limit=1000)}  # type: ignore[arg-type]

    def living(self) -> list[Party]:
        return [party for party in self.everyone if party.alive]

    def holding(self) -> list[Party]:
        return [party for party in self.living() if party.held]

    @initialize(queue=st.sampled_from(QUEUES))
    def first(self, queue: str) -> None:
        self.join(queue)
        self.join(queue)
        self.publish([(queue, 0, 0.0)] * 3)

    @rule(queue=st.sampled_from(QUEUES))
    def join(self, queue: str) -> None:
        consumer = self.broker.consumer([queue], name=f"c{len(self.everyone)}", store=self.store)
        party = Party(consumer, queue, self.clock.time() + LEASE)
        self.everyone.append(party)

    @rule(
        specs=st.lists(
            st.tuples(st.sampled_from(QUEUES), st.sampled_from([0, 5, 9]), st.sampled_from([0.0, 0.0, 5.0, 50.0])),
            min_size=1,
            max_size=6,
        )
    )
    def publish(self, specs: list[tuple[str, int, float]]) -> None:
        self.broker.publish([self.enter(*spec) for spec in specs])

    @precondition(living)
    @rule(data=st.data(), limit=st.integers(1, 5), run=st.booleans())
    def work(self, data: st.DataObject, limit: int, *, run: bool) -> None:
        party = data.draw(st.sampled_from(self.living()))
        before = len(party.held)
        self.claim(party, limit)
        if run and party.held[before:]:
            self.run(party, party.held[before:])

    @precondition(living)
    @rule(data=st.data(), limit=st.integers(1, 5), again=st.booleans())
    def serve(self, data: st.DataObject, limit: int, *, again: bool) -> None:
        """From claim to settlement, without anything in between; *again*: with what comes of it."""
        party = data.draw(st.sampled_from(self.living()))
        for _ in range(1 + again):
            before = len(party.held)
            self.claim(party, limit)
            if party.held[before:]:
                self.run(party, party.held[before:])
                self.finish(party, [(delivery, "done") for delivery in party.held[before:]])

    def claim(self, party: Party, limit: int) -> None:
        if not party.registered:
            party.registered, party.deadline = True, self.clock.time() + LEASE
        now = self.clock.time()
        for message in self.messages.values():
            if message.kind == "delayed" and message.due <= now and message.queue == party.queue:
                message.kind = "ready"
        ready = [m for m in self.messages.values() if m.kind == "ready" and m.queue == party.queue]
        can = self.broker.can
        expected = sorted(ready, key=lambda m: (m.urgency(can), m.place))[:limit]
        deliveries = party.consumer.claim(limit)
        if not can.keeps_places:
            urgencies = [m.urgency(can) for m in expected]
            expected = [self.messages[d.envelope.decode()] for d in deliveries]
            assert [m.urgency(can) for m in expected] == urgencies
            assert all(m in ready for m in expected)
        assert [d.envelope.decode() for d in deliveries] == [m.body for m in expected]
        for delivery, message in zip(deliveries, expected, strict=True):
            assert delivery.deliveries == message.deliveries
            assert delivery.interrupted is message.interrupted
            assert delivery.revoked is (self.revocations.get(message.body, 0.0) > now)
            message.kind, message.fence = party, delivery.fence
        party.held += deliveries

    def owns(self, party: Party, delivery: Delivery) -> Expected | None:
        message = self.messages.get(delivery.envelope.decode())
        return message if message and message.kind is party and message.fence == delivery.fence else None

    @precondition(holding)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(self.holding()))
        self.run(party, data.draw(st.lists(st.sampled_from(party.held), unique_by=id, min_size=1)))

    def run(self, party: Party, chosen: list[Delivery]) -> None:
        verdicts = party.consumer.start(chosen)
        for delivery, verdict in zip(chosen, verdicts, strict=True):
            message = self.owns(party, delivery)
            if message is None:
                assert verdict == "lost"
            elif self.revocations.get(message.body, 0.0) > self.clock.time():
                assert verdict == "revoked"
            else:
                assert verdict == "ok"
                message.started = True

    @precondition(holding)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(self.holding()))
        verbs = st.sampled_from(["done", "done", "done", "requeue", "delay", "dead"])
        chosen = data.draw(st.lists(st.sampled_from(party.held), min_size=1, max_size=6))
        self.finish(party, [(delivery, data.draw(verbs)) for delivery in chosen])

    def finish(self, party: Party, endings: list[tuple[Delivery, str]]) -> None:
        settlements, expected = [], []
        joined: list[str] = []
        for delivery, verb in endings:
            body = delivery.envelope.decode()
            record = Record(body, f"{verb}-{delivery.fence}".encode())
            message = self.owns(party, delivery)
            expected.append(message is not None)
            follow_up = Outgoing(b"", party.queue)
            arrivals: tuple[Arrival, ...] = ()
            if message is not None:
                self.results.setdefault(body, record.value)
                self.end(message, verb)
                if verb == "done":
                    follow_up = self.enter(party.queue, 0, 0.0)
                    arrivals = self.arrivals(body, party.queue, joined)
            settlements.append(
                Settlement(
                    delivery,
                    "requeue" if verb == "delay" else verb,  # type: ignore[arg-type]
                    delay=5.0 if verb == "delay" else 0.0,
                    reason=verb,
                    records=(record,),
                    messages=(follow_up,) if verb == "done" else (),
                    arrivals=arrivals or (Arrival("lost.", f"{body}:0", b"lost", 1),) if verb == "done" else (),
                )
            )
        # The follow-ups come after everything that this batch puts back.
        follow_ups = [
            s.messages[0].envelope.decode() for s, ok in zip(settlements, expected, strict=True) if ok and s.messages
        ]
        for body in [*follow_ups, *joined]:
            self.messages[body].place = self.place()
        assert party.consumer.settle(settlements) == expected

    def arrivals(self, body: str, queue: str, joined: list[str]) -> tuple[Arrival, ...]:
        """What the end of message *body* means to the join that it is the next part of, also in the model.

        *joined* is given the messages of joins that are complete by it.
        """
        number, self.parts = self.parts, self.parts + 1
        group, place = f"join{number // JOIN}.", number % JOIN
        message = self.enter(queue, 0, 0.0)
        sent = Outgoing(message.envelope, queue, inner=number % 2 == 0, task_id=message.task_id)
        found = [Arrival(group, f"{body}:{place}", b"part %d" % number, JOIN - 1, sent)]
        if place == 0:
            found.insert(0, Arrival(group, f"+{body}", b"", 0, grows=True))
        join = self.joins.setdefault(group, Join())
        if [join.arrive(arrival) for arrival in found][-1]:
            joined.append(message.task_id)
            self.messages[message.task_id].inner = sent.inner
        else:
            del self.messages[message.task_id]
        return tuple(found)

    def end(self, message: Expected, verb: str) -> None:
        message.come_back(crashed=False)
        if verb == "done":
            del self.messages[message.body]
        elif verb == "dead":
            message.kind = "dead"
        else:
            message.place = self.place()
            if verb == "delay":
                message.kind, message.due = "delayed", self.clock.time() + 5.0

    @precondition(holding)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(self.holding()))
        chosen = data.draw(st.lists(st.sampled_from(party.held), unique_by=id, min_size=1))
        party.consumer.release(chosen)
        for delivery in chosen:
            message = self.owns(party, delivery)
            if message is not None:
                message.started = False  # marked, perhaps, but not run: not counted
                message.come_back(crashed=False)

    @precondition(living)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(self.living()))
        assert party.consumer.renew() is party.registered
        if party.registered:
            party.deadline = self.clock.time() + LEASE

    @precondition(living)
    @rule(data=st.data(), at_once=st.booleans())
    def crash(self, data: st.DataObject, *, at_once: bool) -> None:
        """Whoever crashed says nothing; its lease runs out."""
        data.draw(st.sampled_from(self.living())).alive = False
        if at_once:
            self.pass_time(LEASE + 1)
            self.sweep()

    @precondition(living)
    @rule(data=st.data())
    def stall(self, data: st.DataObject) -> None:
        """One is swept while it lives on, and will settle what is no longer its own; the others renew."""
        stalled = data.draw(st.sampled_from(self.living()))
        for _ in range(2):
            self.pass_time(20.0)
            for party in self.living():
                if party is not stalled and party.registered:
                    party.deadline = self.clock.time() + LEASE
                    assert party.consumer.renew()
        self.sweep()
        heirs = [party for party in self.living() if party is not stalled and party.queue == stalled.queue]
        if heirs and stalled.held:
            self.claim(heirs[0], 5)
            self.finish(stalled, [(delivery, "done") for delivery in stalled.held[-3:]])

    @precondition(living)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(self.living()))
        party.consumer.close()
        self.leave(party)
        party.alive = False

    def leave(self, party: Party) -> int:
        held = [message for message in self.messages.values() if message.kind is party]
        for message in held:
            message.come_back(crashed=True)
        party.registered = False
        return len(held)

    @rule(seconds=st.sampled_from([1.0, 6.0, 20.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        late = [party for party in self.everyone if party.registered and party.deadline <= self.clock.time()]
        assert self.broker.sweep() == sum(self.leave(party) for party in late)

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from(sorted(self.messages)))
        self.broker.revoke([body], ttl=25.0)
        self.revocations[body] = self.clock.time() + 25.0

    @rule()
    def replay(self) -> None:
        tags = self.tags("dead")
        assert self.broker.replay(list(tags.values())) == len(tags)
        for body in sorted(tags, key=lambda body: int(tags[body])):
            message = self.messages[body]
            message.kind, message.place, message.deliveries, message.interrupted = "ready", self.place(), 0, False

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from(sorted(self.messages)))
        tags = {**self.tags("ready"), **self.tags("delayed"), **self.tags("leased"), **self.tags("dead")}
        removable = not isinstance(self.messages[body].kind, Party)
        assert self.broker.remove([tags[body]]) == removable
        if removable:
            del self.messages[body]

    @precondition(lambda self: len(self.messages) > 8)
    @rule(queue=st.sampled_from(QUEUES))
    def purge(self, queue: str) -> None:
        gone = [m.body for m in self.messages.values() if m.queue == queue and m.kind in {"ready", "delayed"}]
        assert self.broker.purge(queue) == len(gone)
        for body in gone:
            del self.messages[body]

    @invariant()
    def agrees_with_the_model(self) -> None:
        now = self.clock.time()
        for stats in self.broker.stats(QUEUES):
            mine = [message for message in self.messages.values() if message.queue == stats.name]
            later = sum(message.kind == "delayed" and message.due > now for message in mine)
            leased = sum(isinstance(message.kind, Party) for message in mine)
            dead = sum(message.kind == "dead" for message in mine)
            assert (stats.ready, stats.leased, stats.delayed, stats.dead) == (
                len(mine) - later - leased - dead,
                leased,
                later,
                dead,
            )
        for group, join in self.joins.items():
            in_order = sorted(join.parts, key=lambda index: int(index.rpartition(":")[2]))
            assert self.store.arrived(group) == [join.parts[index] for index in in_order]
        assert self.store.arrived("lost.") == []
        keys = sorted(self.results)
        assert self.store.get(keys) == [self.results[key] for key in keys]

    def teardown(self) -> None:
        """Whatever happened: in the end somebody else gets everything, and is told what it went through."""
        for party in self.everyone:
            party.consumer.close()
            self.leave(party)
        self.clock.advance(100.0)
        for queue in QUEUES:
            self.join(queue)
            self.claim(self.everyone[-1], 1000)
            self.everyone[-1].consumer.close()
        self.broker.close()
        self.store.close()


class MemoryMachine(BrokerMachine):
    def make(self) -> tuple[Broker, Store]:
        url = f"memory://{uuid4()}"
        return MemoryBroker(url, clock=self.clock), MemoryStore(url, clock=self.clock)


class SQLiteMachine(BrokerMachine):
    def make(self) -> tuple[Broker, Store]:
        self.folder = tempfile.mkdtemp(prefix="celery-machine-")
        url = f"sqlite:///{self.folder}/broker.db"
        return SQLiteBroker(url, clock=self.clock), SQLiteStore(url, clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class RedisMachine(BrokerMachine):
    """On a real server: broker on database 0, results on database 1."""

    server: RedisServer

    def make(self) -> tuple[Broker, Store]:
        self.server.command("FLUSHALL")
        return RedisBroker(self.server.url(), clock=self.clock), RedisStore(self.server.url(1))


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestSQLiteMachine = SQLiteMachine.TestCase
TestSQLiteMachine.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class TestRedisMachine(RedisMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(
        max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        RedisMachine.server = redis_server
