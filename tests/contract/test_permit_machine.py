"""Random histories of permits for so many at a time, with consumers that crash, against a model that foretells them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celery.brokers.base import GRANTED, Broker, Consumer, Verdict
from celery.brokers.memory import MemoryBroker
from celery.brokers.redis import RedisBroker
from celery.brokers.sqlite import SQLiteBroker
from celery.utils.clock import FakeClock
from celery.wire.message import Delivery, Outgoing, Permit, Settlement
from rig.redis import RedisServer

QUEUES = ("a", "b")
SLOTS = {"one": 1, "two": 2, "three": 3}
LEASE = 30.0
KINDS = (("one",), ("one",), ("two",), ("three",), ("two", "three"), ())
PERMITS = {keys: tuple(Permit(key, SLOTS[key]) for key in keys) for keys in KINDS}


@dataclass
class Expected:
    """A message as the model knows it. `kind` is ready, parked, or the consumer that leases it."""

    body: str
    queue: str
    keys: tuple[str, ...]
    place: int
    kind: str | Party = "ready"
    fence: int = 0
    started: bool = False
    granted: dict[str, float] = field(default_factory=dict)
    """What is kept for it, and until when."""
    waits_for: str = ""

    def come_back(self) -> None:
        self.kind, self.started, self.fence = "ready", False, 0


@dataclass(eq=False)
class Party:
    consumer: Consumer
    queue: str
    deadline: float
    alive: bool = True
    registered: bool = True
    held: list[Delivery] = field(default_factory=list)


class PermitMachine(RuleBasedStateMachine):
    """Override `make`."""

    together = True
    """Whether a step looks at all that need the same one after the other."""

    def make(self) -> Broker:
        raise AssertionError("subclasses say what is tested")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.broker = self.make()
        self.messages: dict[str, Expected] = {}
        self.everyone: list[Party] = []
        self.paused: set[str] = set()
        self.places = 0

    # -- the model -------------------------------------------------------------------------------------------------

    def place(self) -> int:
        self.places += 1
        return self.places

    def taken(self, key: str) -> int:
        return sum(
            (message.started and key in message.keys) or key in message.granted for message in self.messages.values()
        )

    def wake(self, keys: Collection[str]) -> None:
        """Free places go to those that wait, in their order."""
        for key in keys:
            line = [m for m in self.messages.values() if m.waits_for == key and m.queue not in self.paused]
            for message in sorted(line, key=lambda message: message.place):
                if self.taken(key) < SLOTS[key]:
                    message.kind, message.waits_for = "ready", ""
                    message.granted[key] = self.clock.time() + GRANTED

    def end(self, message: Expected, verb: str) -> None:
        message.started, message.granted = False, {}
        if verb == "requeue":
            message.come_back()
            message.place = self.place()
        else:
            del self.messages[message.body]
        self.wake(message.keys)

    def begin(self, party: Party, delivery: Delivery) -> Verdict:
        """What is to come of starting it."""
        message = self.owns(party, delivery)
        if message is None:
            return "lost"
        if message.started:
            return "ok"
        for key in message.keys:
            if key not in message.granted and self.taken(key) >= SLOTS[key]:
                message.kind, message.waits_for = "parked", key
                if not self.broker.can.keeps_places:
                    message.place = self.place()  # in the order in which they are parked
                kept, message.granted = message.granted, {}
                self.wake(kept)
                return "parked"
        message.started, message.granted = True, {}
        return "ok"

    def leave(self, party: Party) -> int:
        held = [message for message in self.messages.values() if message.kind is party]
        freed = [key for message in held if message.started for key in message.keys]
        for message in held:
            message.come_back()
        party.registered = False
        self.wake(freed)
        return len(held)

    def owns(self, party: Party, delivery: Delivery) -> Expected | None:
        message = self.messages.get(delivery.envelope.decode())
        return message if message and message.kind is party and message.fence == delivery.fence else None

    def living(self) -> list[Party]:
        return [party for party in self.everyone if party.alive]

    def holding(self) -> list[Party]:
        return [party for party in self.living() if party.held]

    # -- what happens ----------------------------------------------------------------------------------------------

    @initialize()
    def first(self) -> None:
        for queue in ("a", "a", "b"):
            self.join(queue)
        self.publish([("a", ("one",))] * 3 + [("b", ("one",))])

    @rule(queue=st.sampled_from(QUEUES))
    def join(self, queue: str) -> None:
        consumer = self.broker.consumer([queue], name=f"c{len(self.everyone)}")
        self.everyone.append(Party(consumer, queue, self.clock.time() + LEASE))

    @rule(
        specs=st.lists(
            st.tuples(
                st.sampled_from(QUEUES),
                st.sampled_from(KINDS),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def publish(self, specs: list[tuple[str, tuple[str, ...]]]) -> None:
        new = [Expected(str(place), queue, keys, place) for queue, keys in specs if (place := self.place())]
        self.messages.update({message.body: message for message in new})
        self.broker.publish([Outgoing(m.body.encode(), m.queue, task_id=m.body) for m in new])

    @precondition(living)
    @rule(data=st.data(), limit=st.integers(1, 5), run=st.booleans(), settle=st.booleans())
    def work(self, data: st.DataObject, limit: int, *, run: bool, settle: bool) -> None:
        """Claim; start what was claimed; with that, or after it, end what was held before."""
        party = data.draw(st.sampled_from(self.living()))
        before = list(party.held)
        self.claim(party, limit)
        new = party.held[len(before) :]
        self.step(party, [(delivery, "done") for delivery in before] if settle else [], new if run else [])

    def claim(self, party: Party, limit: int) -> None:
        if not party.registered:
            party.registered, party.deadline = True, self.clock.time() + LEASE
        open_to_it = {} if party.queue in self.paused else self.messages
        ready = [m for m in open_to_it.values() if m.kind == "ready" and m.queue == party.queue]
        deliveries = party.consumer.claim(limit)
        if ready and not deliveries:  # whoever has come in vain may hold off for a moment, on this clock
            self.clock.advance(0.3)
            deliveries = party.consumer.claim(limit)
        claimed = [self.messages[delivery.envelope.decode()] for delivery in deliveries]
        assert len(claimed) == min(limit, len(ready))
        assert all(message in ready for message in claimed)
        for delivery, message in zip(deliveries, claimed, strict=True):
            message.kind, message.fence = party, delivery.fence
        party.held += deliveries

    def step(self, party: Party, endings: Sequence[tuple[Delivery, str]], starts: Sequence[Delivery]) -> None:
        needs = {d.tag: PERMITS[m.keys] for d in starts if (m := self.messages.get(d.envelope.decode())) and m.keys}
        applied = []
        for delivery, verb in endings:
            message = self.owns(party, delivery)
            applied.append(message is not None)
            if message is not None:
                self.end(message, verb)
        order = list(starts)
        if self.together:
            kinds = list(dict.fromkeys(needs.get(delivery.tag, ()) for delivery in starts))
            order.sort(key=lambda delivery: kinds.index(needs.get(delivery.tag, ())))
        told = {(delivery.tag, delivery.fence): self.begin(party, delivery) for delivery in order}
        verdicts = [told[delivery.tag, delivery.fence] for delivery in starts]
        settlements = [Settlement(delivery, verb) for delivery, verb in endings]  # type: ignore[arg-type]
        assert party.consumer.settle_and_start(settlements, starts, (), needs) == (applied, verdicts)

    @precondition(holding)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(self.holding()))
        verbs = st.sampled_from(["done", "done", "requeue", "dead"])
        chosen = data.draw(st.lists(st.sampled_from(party.held), min_size=1, max_size=6, unique_by=id))
        self.step(party, [(delivery, data.draw(verbs)) for delivery in chosen], [])

    @precondition(holding)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Also what was started before."""
        party = data.draw(st.sampled_from(self.holding()))
        self.step(party, [], data.draw(st.lists(st.sampled_from(party.held), unique_by=id, min_size=1, max_size=4)))

    @precondition(holding)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(self.holding()))
        chosen = data.draw(st.lists(st.sampled_from(party.held), min_size=1, max_size=6, unique_by=id))
        party.consumer.release(chosen)
        back = [message for delivery in chosen if (message := self.owns(party, delivery)) is not None]
        freed = [key for message in back if message.started for key in message.keys]
        for message in back:
            message.come_back()
        self.wake(freed)

    @precondition(living)
    @rule(data=st.data(), at_once=st.booleans())
    def crash(self, data: st.DataObject, *, at_once: bool) -> None:
        data.draw(st.sampled_from(self.living())).alive = False
        if at_once:
            self.clock.advance(LEASE + 1)
            self.sweep()

    @precondition(living)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(self.living()))
        party.consumer.close()
        self.leave(party)
        party.alive = False

    @rule(seconds=st.sampled_from([1.0, 11.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        """The living renew, but for those whose lease is over."""
        self.clock.advance(seconds)
        for party in self.living():
            if party.registered and party.deadline > self.clock.time():
                assert party.consumer.renew()
                party.deadline = self.clock.time() + LEASE

    @rule()
    def sweep(self) -> None:
        now = self.clock.time()
        late = [party for party in self.everyone if party.registered and party.deadline <= now]
        swept = self.broker.sweep()
        lapsed = []
        for message in self.messages.values():
            for key in [key for key, until in message.granted.items() if until <= now]:
                del message.granted[key]
                lapsed.append(key)
        self.wake(lapsed)
        assert swept == sum(self.leave(party) for party in late)

    @rule(queue=st.sampled_from(QUEUES))
    def pause_or_resume(self, queue: str) -> None:
        if queue in self.paused:
            self.paused.discard(queue)
            self.broker.resume([queue])
            self.wake(SLOTS)
        else:
            self.paused.add(queue)
            self.broker.pause([queue])

    # -- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def agrees_with_the_model(self) -> None:
        waiting = {message.body: message.waits_for for message in self.messages.values() if message.kind == "parked"}
        parked = {entry.envelope.decode(): entry.reason for entry in self.broker.entries("parked", limit=1000)}
        assert parked == waiting
        for key, slots in SLOTS.items():
            assert self.taken(key) <= slots

    def teardown(self) -> None:
        """Whatever happened: in the end all places are free, and everybody gets one."""
        for party in self.everyone:
            party.consumer.close()
            self.leave(party)
        self.broker.resume(QUEUES)
        self.paused.clear()
        self.wake(SLOTS)
        for _ in range(4 * len(self.messages)):
            if not self.messages:
                break
            self.clock.advance(GRANTED + 1)
            self.sweep()
            for queue in QUEUES:
                self.join(queue)
                party = self.everyone[-1]
                self.claim(party, 1000)
                self.step(party, [], list(party.held))
                self.step(party, [(d, "done") for d in party.held if self.owns(party, d) is not None], [])
                party.consumer.close()
        assert self.messages == {}
        self.broker.close()


class MemoryMachine(PermitMachine):
    together = False

    def make(self) -> Broker:
        return MemoryBroker(f"memory://{uuid4()}", clock=self.clock)


class SQLiteMachine(PermitMachine):
    def make(self) -> Broker:
        self.folder = tempfile.mkdtemp(prefix="celery-machine-")
        return SQLiteBroker(f"sqlite:///{self.folder}/broker.db", clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class RedisMachine(PermitMachine):
    server: RedisServer

    def make(self) -> Broker:
        self.server.command("FLUSHALL")
        return RedisBroker(self.server.url(), clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        kept = [key.decode() for key in self.server.ask("KEYS", "celeriac.*")]
        assert [key for key in kept if "taken" in key or "permits" in key or "grant" in key] == []


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestSQLiteMachine = SQLiteMachine.TestCase
TestSQLiteMachine.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class TestRedisMachine(RedisMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(
        max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        RedisMachine.server = redis_server
