"""A broker inside this process: `memory://name`. Ends with the process; for tests, development and eager programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from celery.backends.store import Store, TransactionalStore
from celery.brokers.answers import OnReply
from celery.brokers.base import MOST_REVOKED, Broker, Capabilities, Entry, Kind, QueueStats
from celery.brokers.replies import QueuedReplies, consumed_replies
from celery.exceptions import BrokerError
from celery.memory.book import MemoryBook
from celery.memory.bus import MemoryBus
from celery.memory.consumer import MemoryConsumer
from celery.memory.space import SPACES, Line, Message, Space
from celery.utils.clock import SYSTEM, Clock
from celery.utils.routing import FLEETING, ROUTED, Binding
from celery.utils.turns import Turns
from celery.wire.message import Outgoing, Queue, Unique


class MemoryBroker(Broker):
    """A broker that every user of the same URL in this process shares."""

    can = Capabilities(
        durable=False,
        shared=False,
        transactional=True,
        limits=True,
        unique=True,
        pauses=True,
        weights=True,
        withdraws=True,
    )

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        name = url.partition("://")[2].partition("?")[0].strip("/")
        self.place = f"memory://{name}"
        self._space = SPACES.setdefault(name, Space())

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
                self._space.queues.setdefault(queue.name, Line())
                if queue.exchange.name:
                    self._space.bind(_binding(queue))

    def publish(self, messages: Sequence[Outgoing]) -> None:
        now = self.clock.time()
        space = self._space
        if (len(messages) != 1 or messages[0].exchange) and any(message.exchange for message in messages):
            self._note_fleeting()
        with space.lock:
            if len(messages) == 1:
                space.push(messages[0], space.targets(messages[0]), now)
                return
            targets = [space.targets(message) for message in messages]
            for message, names in zip(messages, targets, strict=True):
                space.push(message, names, now)

    def consumer(
        self,
        queues: Sequence[str],
        *,
        name: str,
        store: Store | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> MemoryConsumer:
        self._note_fleeting()
        fused = store if isinstance(store, TransactionalStore) and self.fuses(store) else None
        turns = Turns(queues, weights, strict=self.options.get("queue_order_strategy") == "priority")
        own = [_binding(queue) for queue in self.plan() if queue.fleeting and queue.name in queues]
        return MemoryConsumer(self._space, queues, name, fused, self.lease, self.clock, turns, own)

    def _note_fleeting(self) -> None:
        self._space.fleeting.update(queue.exchange.name for queue in self.plan() if queue.fleeting)

    def fuses(self, store: Store) -> bool:
        return isinstance(store, TransactionalStore) and store.place == self.place

    def sweep(self) -> int:
        now = self.clock.time()
        with self._space.lock:
            late = [number for number, owner in self._space.owners.items() if owner.deadline <= now]
            swept = sum(self._space.leave(number, now) for number in late)
            self._space.limits.lapse(now)
            self._space.forget_unheard(now)
            return swept

    def purge(self, queue: str) -> int:
        with self._space.lock:
            return self._space.empty(queue, self.clock.time())

    def stats(self, queues: Sequence[str] | None = None) -> list[QueueStats]:
        now = self.clock.time()
        with self._space.lock:
            names = sorted(set(self._space.queues if queues is None else queues))
            counts = {name: dict.fromkeys(("ready", "leased", "delayed", "parked", "dead"), 0) for name in names}
            oldest: dict[str, float] = {}
            for message in self._space.messages.values():
                if message.queue in counts:
                    kind = self._space.kind_of(message, now)
                    counts[message.queue][kind] += 1
                    if kind == "ready":
                        since = max(message.since, message.due or 0.0)
                        oldest[message.queue] = max(oldest.get(message.queue, 0.0), now - since)
            consumers = [name for owner in self._space.owners.values() for name in owner.queues]
            paused = set(self._space.limits.paused)
        return [
            QueueStats(
                name,
                **counts[name],
                oldest=oldest.get(name),
                consumers=consumers.count(name),
                paused=name in paused,
            )
            for name in names
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
        with self._space.lock:
            unwanted = [m for m in self._space.messages.values() if m.tag in wanted and m.kind != "leased"]
            return self._space.remove(unwanted, self.clock.time())

    def replay(self, tags: Sequence[int | str]) -> int:
        now = self.clock.time()
        with self._space.lock:
            found = [self._space.messages[tag] for tag in sorted(_numbers(tags)) if tag in self._space.messages]
            unheard = self._space.unheard()  # of these nobody would get it
            dead = [message for message in found if message.kind == "dead" and message.queue not in unheard]
            for message in dead:
                message.deliveries, message.interrupted, message.reason = 0, False, ""
                message.position, message.since, message.due = next(self._space.numbers), now, None
                self._space.place(message, now)
            return len(dead)

    def revoke(self, task_ids: Sequence[str], ttl: float, most: int = MOST_REVOKED) -> None:
        with self._space.lock:
            _note(self._space.revocations, task_ids, self.clock.time(), ttl, most)

    def revoked(self) -> list[str]:
        now = self.clock.time()
        with self._space.lock:
            return sorted(task_id for task_id, until in self._space.revocations.items() if until > now)

    def withdraw(self, task_ids: Sequence[str]) -> list[Entry]:
        now, space = self.clock.time(), self._space
        found = []
        with space.lock:
            for tag in [tag for task_id in task_ids for tag in sorted(space.waiting.get(task_id, ()))]:
                message = space.messages[tag]
                if message.kind in {"delayed", "parked"}:
                    message.due = message.permit = None
                    space.forget_waiting(message)
                    space.place(message, now)
                    found.append(_entry(message, "ready", ""))
        return found

    def revoke_stamps(self, stamps: Mapping[str, Sequence[str]], ttl: float, most: int = MOST_REVOKED) -> None:
        pairs = [(name, value) for name, values in stamps.items() for value in values]
        with self._space.lock:
            _note(self._space.revoked_stamps, pairs, self.clock.time(), ttl, most)

    def revoked_stamps(self) -> dict[str, list[str]]:
        now = self.clock.time()
        found: dict[str, list[str]] = {}
        with self._space.lock:
            for name, value in sorted(pair for pair, until in self._space.revoked_stamps.items() if until > now):
                found.setdefault(name, []).append(value)
        return found

    def publish_once(self, message: Outgoing, unique: Unique, instead_of: str = "") -> str:
        now, space = self.clock.time(), self._space
        with space.lock:
            targets = space.targets(message)
            holder, until = space.uniques.get(unique.key, ("", 0.0))
            if until > now and holder not in {message.task_id, instead_of}:
                return holder
            if unique.until > now:
                space.hold_unique(unique, message.task_id, now)
            space.push(message, targets, now)
        return message.task_id

    def pause(self, queues: Sequence[str]) -> None:
        with self._space.lock:
            self._space.limits.pause(queues)

    def resume(self, queues: Sequence[str]) -> None:
        with self._space.lock:
            self._space.limits.resume(queues, self.clock.time())

    def paused(self) -> list[str]:
        with self._space.lock:
            return sorted(self._space.limits.paused)

    def book(self, name: str) -> MemoryBook:
        return MemoryBook(self._space, name, self.clock)

    def replies(self, on_reply: OnReply, expires: float | None) -> QueuedReplies:
        def consume(name: str) -> MemoryConsumer:
            own = [("", FLEETING, name, name)]
            return MemoryConsumer(
                self._space, [name], "replies", None, self.lease, self.clock, Turns([name], None), own
            )

        return consumed_replies(consume, self.lease, on_reply)

    def bus(self) -> MemoryBus:
        return MemoryBus(self._space)


def _binding(queue: Queue) -> Binding:
    kind = FLEETING if queue.fleeting else queue.exchange.type
    return queue.exchange.name, kind, queue.routing_key, queue.name


Name = TypeVar("Name")


def _note(records: dict[Name, float], names: Sequence[Name], now: float, ttl: float, most: int) -> None:
    """Have *names* in *records* for *ttl* seconds; forget what has ended, and of too many those that end first."""
    for name in [name for name, until in records.items() if until <= now]:
        del records[name]
    for name in names:
        records[name] = max(records.get(name, 0.0), now + ttl)
    if len(records) > most:
        for name in sorted(records, key=lambda name: records[name])[: len(records) - most]:
            del records[name]


def _numbers(tags: Sequence[int | str]) -> set[int]:
    return {int(tag) for tag in tags if str(tag).isdecimal()}


def _entry(m: Message, kind: Kind, owner: str) -> Entry:
    reason = m.permit.key if kind == "parked" and m.permit is not None else m.reason
    return Entry(m.tag, m.queue, kind, m.task_id, m.envelope, m.since, m.due, m.deliveries, reason, owner)


def _order_of(kind: Kind) -> Callable[[Message], tuple[float, ...]]:
    if kind == "delayed":
        return lambda message: (message.due or 0.0, message.tag)
    if kind == "ready":
        return lambda message: (message.rank, message.position)
    return lambda message: (message.since, message.tag)
