"""A broker inside this process: `memory://name`. Ends with the process; for tests, development and eager programs."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec

from celery.backends.store import Store, TransactionalStore
from celery.brokers.base import Broker, Bus, Capabilities, Consumer, Entry, Kind, QueueStats, Subscription, Verdict
from celery.exceptions import BrokerError
from celery.utils.bell import Chime, wait_until
from celery.utils.clock import SYSTEM, Clock
from celery.utils.routing import ROUTED, Binding, routes
from celery.wire.message import Delivery, Outgoing, Queue, Record, Settlement

URGENCIES = 10


class _Message(msgspec.Struct):
    tag: int
    queue: str
    envelope: bytes
    task_id: str
    rank: int
    position: int
    since: float
    due: float | None = None
    kind: Kind = "ready"
    owner: int = 0
    fence: int = 0
    started: bool = False
    deliveries: int = 0
    interrupted: bool = False
    reason: str = ""


class _Queue:
    """Heaps of what is ready and what is delayed. An entry counts only while its message is still in that state."""

    def __init__(self) -> None:
        self.ready: list[tuple[int, int, int]] = []
        self.delayed: list[tuple[float, int]] = []
        self.listeners: list[Chime] = []


class _Owner:
    """One registration of a consumer; a swept consumer registers again, so that its old leases stay lost."""

    def __init__(self, name: str, queues: Sequence[str], deadline: float) -> None:
        self.name = name
        self.queues = queues
        self.deadline = deadline
        self.held: dict[int, _Message] = {}


class _Space:
    """What all brokers of one name share. Its methods are called with its lock held."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        self.queues: dict[str, _Queue] = {}
        self.bindings: list[Binding] = []
        self.messages: dict[int, _Message] = {}
        self.owners: dict[int, _Owner] = {}
        self.revocations: dict[str, float] = {}
        self.subscriptions: list[MemorySubscription] = []

    def targets(self, message: Outgoing) -> tuple[str, ...]:
        if not message.exchange and message.routing_key:
            return (message.routing_key,)
        found = routes(self.bindings, message.exchange, message.routing_key)
        if not found or not found[0]:
            raise BrokerError(
                f"No queue is bound to exchange {message.exchange!r} with routing key {message.routing_key!r}: "
                f"declare the queue, or correct the route of the task."
            )
        return found

    def push(self, message: Outgoing, targets: Iterable[str], now: float) -> None:
        rank = -1 if message.inner else URGENCIES - 1
        if message.priority and not message.inner:
            rank -= min(max(message.priority, 0), URGENCIES - 1)
        for target in targets:
            tag = next(self.numbers)
            new = _Message(tag, target, message.envelope, message.task_id, rank, tag, now, message.due)
            self.messages[tag] = new
            queue = self.queues.get(target)
            if queue is None or new.due is not None or queue.listeners:
                self.place(new, now)
            else:
                heappush(queue.ready, (rank, tag, tag))

    def place(self, message: _Message, now: float) -> None:
        """Put *message* among the ready or the delayed ones of its queue, and wake those who wait there."""
        queue = self.queues.get(message.queue)
        if queue is None:
            queue = self.queues[message.queue] = _Queue()
        message.owner, message.started = 0, False
        if message.due is not None and message.due > now:
            message.kind = "delayed"
            heappush(queue.delayed, (message.due, message.tag))
        else:
            message.kind = "ready"
            heappush(queue.ready, (message.rank, message.position, message.tag))
        for chime in queue.listeners:
            chime.ring()

    def promote(self, queue: _Queue, now: float) -> None:
        """Make ready what is due."""
        while queue.delayed and queue.delayed[0][0] <= now:
            due, tag = heappop(queue.delayed)
            message = self.messages.get(tag)
            if message is not None and message.kind == "delayed" and message.due == due:
                message.kind, message.since = "ready", due
                heappush(queue.ready, (message.rank, message.position, tag))

    def take(self, name: str, limit: int, now: float) -> list[_Message]:
        """Remove up to *limit* messages from the front of a queue."""
        queue = self.queues.get(name)
        if queue is None:
            return []
        self.promote(queue, now)
        taken: list[_Message] = []
        while queue.ready and len(taken) < limit:
            _, position, tag = heappop(queue.ready)
            message = self.messages.get(tag)
            if message is not None and message.kind == "ready" and message.position == position:
                message.kind = "leased"
                taken.append(message)
        return taken

    def give_back(self, message: _Message, now: float, *, interrupted: bool) -> None:
        """Return a leased message to its place in the queue; an execution of it is counted."""
        if message.started:
            message.deliveries += 1
            message.interrupted = interrupted
        message.since = now
        self.place(message, now)

    def leave(self, number: int, now: float) -> int:
        """Return everything that the owner holds and forget it."""
        owner = self.owners.pop(number, None)
        if owner is None:
            return 0
        for message in owner.held.values():
            self.give_back(message, now, interrupted=True)
        return len(owner.held)

    def is_revoked(self, task_id: str, now: float) -> bool:
        return self.revocations.get(task_id, now) > now

    def kind_of(self, message: _Message, now: float) -> Kind:
        if message.kind == "delayed" and message.due is not None and message.due <= now:
            return "ready"
        return message.kind


_spaces: dict[str, _Space] = {}


def _after_fork() -> None:
    """The child's copy of a space may have been locked by a thread that the child does not have."""
    for space in _spaces.values():
        space.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class MemoryBroker(Broker):
    """A broker that every user of the same URL in this process shares."""

    can = Capabilities(durable=False, shared=False, transactional=True)

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        name = url.partition("://")[2].partition("?")[0].strip("/")
        self.place = f"memory://{name}"
        self._space = _spaces.setdefault(name, _Space())

    def connect(self) -> None:
        """Nothing to reach."""

    def close(self) -> None:
        """Nothing to let go of: the messages stay for other users of the name."""

    def declare(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            if queue.exchange.name and queue.exchange.type not in ROUTED:
                raise BrokerError(
                    f"Exchange {queue.exchange.name!r} has type {queue.exchange.type!r}, which memory:// does not "
                    f"route: use direct, topic or fanout."
                )
        with self._space.lock:
            for queue in queues:
                self._space.queues.setdefault(queue.name, _Queue())
                if queue.exchange.name:
                    key = queue.routing_key
                    binding = (queue.exchange.name, queue.exchange.type, key, queue.name)
                    if binding not in self._space.bindings:
                        self._space.bindings.append(binding)

    def publish(self, messages: Sequence[Outgoing]) -> None:
        now = self.clock.time()
        space = self._space
        with space.lock:
            if len(messages) == 1:
                space.push(messages[0], space.targets(messages[0]), now)
                return
            targets = [space.targets(message) for message in messages]
            for message, names in zip(messages, targets, strict=True):
                space.push(message, names, now)

    def consumer(self, queues: Sequence[str], *, name: str, store: Store | None = None) -> MemoryConsumer:
        fused = store if isinstance(store, TransactionalStore) and self.fuses(store) else None
        return MemoryConsumer(self._space, queues, name, fused, self.lease, self.clock)

    def fuses(self, store: Store) -> bool:
        return isinstance(store, TransactionalStore) and store.place == self.place

    def sweep(self) -> int:
        now = self.clock.time()
        with self._space.lock:
            late = [number for number, owner in self._space.owners.items() if owner.deadline <= now]
            return sum(self._space.leave(number, now) for number in late)

    def purge(self, queue: str) -> int:
        return self._remove(lambda message: message.queue == queue and message.kind in {"ready", "delayed"})

    def stats(self, queues: Sequence[str] | None = None) -> list[QueueStats]:
        now = self.clock.time()
        with self._space.lock:
            names = sorted(set(self._space.queues if queues is None else queues))
            counts = {name: dict.fromkeys(("ready", "leased", "delayed", "dead"), 0) for name in names}
            oldest: dict[str, float] = {}
            for message in self._space.messages.values():
                if message.queue in counts:
                    kind = self._space.kind_of(message, now)
                    counts[message.queue][kind] += 1
                    if kind == "ready":
                        since = max(message.since, message.due or 0.0)
                        oldest[message.queue] = max(oldest.get(message.queue, 0.0), now - since)
            consumers = [name for owner in self._space.owners.values() for name in owner.queues]
        return [
            QueueStats(name, **counts[name], oldest=oldest.get(name), consumers=consumers.count(name)) for name in names
        ]

    def entries(self, kind: Kind, queues: Sequence[str] | None = None, limit: int = 100) -> list[Entry]:
        now = self.clock.time()
        with self._space.lock:
            found = [
                message
                for message in self._space.messages.values()
                if self._space.kind_of(message, now) == kind and (queues is None or message.queue in queues)
            ]
            owners = {number: owner.name for number, owner in self._space.owners.items()}
        found.sort(key=_order_of(kind))
        return [_entry(message, kind, owners.get(message.owner, "")) for message in found[:limit]]

    def remove(self, tags: Sequence[int | str]) -> int:
        wanted = _numbers(tags)
        return self._remove(lambda message: message.tag in wanted and message.kind != "leased")

    def replay(self, tags: Sequence[int | str]) -> int:
        now = self.clock.time()
        with self._space.lock:
            found = [self._space.messages[tag] for tag in sorted(_numbers(tags)) if tag in self._space.messages]
            dead = [message for message in found if message.kind == "dead"]
            for message in dead:
                message.deliveries, message.interrupted, message.reason = 0, False, ""
                message.position, message.since, message.due = next(self._space.numbers), now, None
                self._space.place(message, now)
            return len(dead)

    def revoke(self, task_ids: Sequence[str], ttl: float) -> None:
        now = self.clock.time()
        with self._space.lock:
            revocations = self._space.revocations
            for task_id in [task_id for task_id, until in revocations.items() if until <= now]:
                del revocations[task_id]
            revocations.update(dict.fromkeys(task_ids, now + ttl))

    def revoked(self) -> list[str]:
        now = self.clock.time()
        with self._space.lock:
            return sorted(task_id for task_id, until in self._space.revocations.items() if until > now)

    def bus(self) -> MemoryBus:
        return MemoryBus(self._space)

    def _remove(self, unwanted: Callable[[_Message], bool]) -> int:
        """Heap entries of what is removed stay until they come up, unless nothing is left at all."""
        with self._space.lock:
            messages = self._space.messages
            gone = [tag for tag, message in messages.items() if unwanted(message)]
            for tag in gone:
                del messages[tag]
            if gone:
                for queue in self._space.queues.values():
                    queue.ready = [entry for entry in queue.ready if entry[2] in messages]
                    queue.delayed = [entry for entry in queue.delayed if entry[1] in messages]
                    heapify(queue.ready)
                    heapify(queue.delayed)
            return len(gone)


class MemoryConsumer(Consumer):
    """A lease over queues of one space."""

    def __init__(
        self,
        space: _Space,
        queues: Sequence[str],
        name: str,
        store: TransactionalStore | None,
        lease: float,
        clock: Clock,
    ) -> None:
        self.queues = tuple(queues)
        self.name = name
        self._space = space
        self._store = store
        self._lease = lease
        self._clock = clock
        self._chime = Chime()
        self._woken = False
        self._turn = 0
        self._number = 0
        with space.lock:
            for queue in self.queues:
                space.queues.setdefault(queue, _Queue()).listeners.append(self._chime)
            self._register()

    def claim(self, limit: int, timeout: float = 0.0) -> list[Delivery]:
        self._check_open()
        end = time.monotonic() + timeout
        while True:
            claimed = self._claim(limit)
            left = end - time.monotonic()
            if claimed or left <= 0 or self._woken or self._chime.closed:
                self._woken = False
                return claimed
            due = self.due_in()
            self._chime.wait(left if due is None else min(left, due))

    def start(self, deliveries: Sequence[Delivery], records: Sequence[Record] = ()) -> list[Verdict]:
        self._check_records(bool(records))
        now = self._clock.time()
        verdicts: list[Verdict] = []
        with self._space.lock:
            for delivery in deliveries:
                message = self._held(delivery)
                if message is None:
                    verdicts.append("lost")
                elif self._space.is_revoked(message.task_id, now):
                    verdicts.append("revoked")
                else:
                    message.started = True
                    verdicts.append("ok")
            if self._store is not None:
                self._store.write(None, records, ())
        return verdicts

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        self._check_records(any(s.records or s.messages or s.arrivals for s in settlements))
        now = self._clock.time()
        space = self._space
        applied, joined = [], list[Outgoing]()
        with space.lock:
            # Routing can fail, and then nothing may have been done.
            targets = [[space.targets(follow_up) for follow_up in s.messages] for s in settlements]
            for sent in (a.message for s in settlements for a in s.arrivals if a.message is not None):
                space.targets(sent)
            for settlement in settlements:
                message = self._held(settlement.delivery)
                applied.append(message is not None)
                if message is not None:
                    self._end(message, settlement, now)
            for settlement, routed, ended in zip(settlements, targets, applied, strict=True):
                if ended:
                    for follow_up, names in zip(settlement.messages, routed, strict=True):
                        space.push(follow_up, names, now)
                    if self._store is not None:
                        joined += self._store.write(None, settlement.records, settlement.arrivals)
            for sent in joined:
                space.push(sent, space.targets(sent), now)
        return applied

    def release(self, deliveries: Sequence[Delivery]) -> None:
        now = self._clock.time()
        with self._space.lock:
            for delivery in deliveries:
                message = self._held(delivery)
                if message is not None:
                    del self._space.owners[self._number].held[message.tag]
                    message.started = False  # marked, perhaps, but not run: not counted
                    self._space.give_back(message, now, interrupted=False)

    def renew(self) -> bool:
        with self._space.lock:
            owner = self._space.owners.get(self._number)
            if owner is None:
                return False
            owner.deadline = self._clock.time() + self._lease
            return True

    def wake(self) -> None:
        self._woken = True
        self._chime.ring()

    def fileno(self) -> int:
        return self._chime.fileno()

    def due_in(self) -> float | None:
        now = self._clock.time()
        with self._space.lock:
            dues = [
                message.due
                for queue in self.queues
                for due, tag in self._space.queues[queue].delayed[:1]
                if (message := self._space.messages.get(tag)) is not None and message.due == due
            ]
        return max(0.0, min(dues) - now) if dues else None

    def close(self) -> None:
        with self._space.lock:
            self._space.leave(self._number, self._clock.time())
            for queue in self.queues:
                listeners = self._space.queues[queue].listeners
                if self._chime in listeners:
                    listeners.remove(self._chime)
        self._chime.close()

    def _register(self) -> None:
        self._number = next(self._space.numbers)
        deadline = self._clock.time() + self._lease
        self._space.owners[self._number] = _Owner(self.name, self.queues, deadline)

    def _check_open(self) -> None:
        if self._chime.closed:
            raise BrokerError(f"Consumer {self.name!r} is closed: ask the broker for a new one.")

    def _check_records(self, effects: bool) -> None:
        if effects and self._store is None:
            raise ValueError("This consumer has no store in the same place: store results and send messages first.")

    def _held(self, delivery: Delivery) -> _Message | None:
        message = self._space.messages.get(int(delivery.tag))
        if message is None or message.kind != "leased":
            return None
        return message if message.owner == self._number and message.fence == delivery.fence else None

    def _claim(self, limit: int) -> list[Delivery]:
        now = self._clock.time()
        space = self._space
        with space.lock:
            self._chime.clear()
            if self._number not in space.owners:
                self._register()
            held = space.owners[self._number].held
            messages = self._take(limit, now)
            for message in messages:
                message.owner, message.fence = self._number, next(space.numbers)
                message.since, message.due = now, None
                held[message.tag] = message
            if len(messages) == limit:
                self._chime.ring()
            revocations = bool(space.revocations)
            return [
                Delivery(
                    message.tag,
                    message.queue,
                    message.envelope,
                    message.fence,
                    message.deliveries,
                    message.interrupted,
                    message.deliveries > 0,
                    revocations and space.is_revoked(message.task_id, now),
                )
                for message in messages
            ]

    def _take(self, limit: int, now: float) -> list[_Message]:
        """Share *limit* among the queues, beginning after the queue that was served last."""
        if len(self.queues) == 1:
            return self._space.take(self.queues[0], limit, now)
        taken: list[_Message] = []
        active = deque(self.queues[self._turn :] + self.queues[: self._turn])
        while active and len(taken) < limit:
            name = active.popleft()
            share = max(1, (limit - len(taken)) // (len(active) + 1))
            found = self._space.take(name, share, now)
            taken += found
            if found:
                self._turn = (self.queues.index(name) + 1) % len(self.queues)
            if len(found) == share:
                active.append(name)
        return taken

    def _end(self, message: _Message, settlement: Settlement, now: float) -> None:
        del self._space.owners[self._number].held[message.tag]
        if settlement.verb == "done":
            del self._space.messages[message.tag]
        elif settlement.verb == "requeue":
            message.position = next(self._space.numbers)
            message.due = now + settlement.delay if settlement.delay > 0 else None
            self._space.give_back(message, now, interrupted=False)
        else:
            message.kind, message.since, message.reason = "dead", now, settlement.reason
            message.owner = 0
            if message.started:
                message.deliveries, message.interrupted = message.deliveries + 1, False


class MemoryBus(Bus):
    """Hands payloads to the subscriptions of the same space."""

    def __init__(self, space: _Space) -> None:
        self._space = space

    def publish(self, topic: str, payload: bytes) -> None:
        with self._space.lock:
            for subscription in self._space.subscriptions:
                subscription.offer(topic, payload)

    def subscribe(self, topics: Sequence[str]) -> MemorySubscription:
        subscription = MemorySubscription(self._space, topics)
        with self._space.lock:
            self._space.subscriptions.append(subscription)
        return subscription


class MemorySubscription(Subscription):
    """An unbounded line of what arrived."""

    def __init__(self, space: _Space, topics: Sequence[str]) -> None:
        self._space = space
        self._names = frozenset(topics)
        self._beginnings = tuple(topic[:-1] for topic in topics if topic.endswith("*"))
        self._arrived: deque[tuple[str, bytes]] = deque()
        self._chime = Chime()

    def offer(self, topic: str, payload: bytes) -> None:
        """Take (topic, payload) if it was asked for."""
        if topic in self._names or topic.startswith(self._beginnings):
            self._arrived.append((topic, payload))
            self._chime.ring()

    def get(self, timeout: float | None = None) -> tuple[str, bytes] | None:
        wait_until(self._chime, lambda: bool(self._arrived) or self._chime.closed, timeout)
        if self._chime.closed or not self._arrived:
            return None
        first = self._arrived.popleft()
        if not self._arrived:
            self._chime.clear()
            if self._arrived:
                self._chime.ring()
        return first

    def fileno(self) -> int:
        return self._chime.fileno()

    def close(self) -> None:
        with self._space.lock:
            if self in self._space.subscriptions:
                self._space.subscriptions.remove(self)
        self._chime.close()


def _numbers(tags: Sequence[int | str]) -> set[int]:
    return {int(tag) for tag in tags if str(tag).isdecimal()}


def _entry(m: _Message, kind: Kind, owner: str) -> Entry:
    return Entry(m.tag, m.queue, kind, m.task_id, m.envelope, m.since, m.due, m.deliveries, m.reason, owner)


def _order_of(kind: Kind) -> Callable[[_Message], tuple[float, ...]]:
    if kind == "delayed":
        return lambda message: (message.due or 0.0, message.tag)
    if kind == "ready":
        return lambda message: (message.rank, message.position)
    return lambda message: (message.since, message.tag)
