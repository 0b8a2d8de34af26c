"""The messages, queues and owners that all brokers of one name in this process share."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

import msgspec

from celery.brokers.base import Kind
from celery.exceptions import BrokerError
from celery.memory.limits import Limits
from celery.utils.bell import Chime
from celery.utils.routing import FLEETING, Binding, routes
from celery.wire.message import Outgoing, Permit, Unique

if TYPE_CHECKING:
    from celery.memory.bus import MemorySubscription

URGENCIES = 10
REMOVED = frozenset({"ready", "delayed", "parked"})
"""What goes when a queue is emptied."""


class Message(msgspec.Struct):
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
    permit: Permit | None = None
    """What it is parked for."""
    permits: tuple[str, ...] = ()
    """Keys of the permits that it has, or that are kept for it."""

    def is_parked(self, key: str) -> bool:
        return self.kind == "parked" and self.permit is not None and self.permit.key == key


class Line:
    """Heaps of what is ready and what is delayed. An entry counts only while its message is still in that state."""

    def __init__(self) -> None:
        self.ready: list[tuple[int, int, int]] = []
        self.delayed: list[tuple[float, int]] = []
        self.listeners: list[Chime] = []


class Owner:
    """One registration of a consumer; a swept consumer registers again, so that its old leases stay lost."""

    def __init__(self, name: str, queues: Sequence[str], deadline: float) -> None:
        self.name = name
        self.queues = queues
        self.deadline = deadline
        self.held: dict[int, Message] = {}


class Space:
    """What all brokers of one name share. Its methods are called with its lock held."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        self.queues: dict[str, Line] = {}
        self.bindings: list[Binding] = []
        self.fleeting: set[str] = set()
        """Exchanges for those who listen, of whom there may be none."""
        self.messages: dict[int, Message] = {}
        self.owners: dict[int, Owner] = {}
        self.limits = Limits(self)
        self.revocations: dict[str, float] = {}
        self.revoked_stamps: dict[tuple[str, str], float] = {}
        self.uniques: dict[str, tuple[str, float]] = {}
        """Keys to the task that holds them, and until when."""
        self._uniques_kept = 100
        self.waiting: dict[str, set[int]] = {}
        """Of tasks the tags of messages that are, or were, delayed or parked."""
        self.subscriptions: list[MemorySubscription] = []
        self.books: dict[str, Any] = {}
        """The pages of schedule books, by name."""

    def targets(self, message: Outgoing) -> tuple[str, ...]:
        if not message.exchange and message.routing_key:
            return (message.routing_key,)
        bound = [binding for binding in self.bindings if binding[0] == message.exchange]
        heard = [b for b in bound if b[1] != FLEETING or (b[3] in self.queues and self.queues[b[3]].listeners)]
        found = routes(heard, message.exchange, message.routing_key)
        if not found and (len(heard) < len(bound) or message.exchange in self.fleeting):
            return ()  # for those who listen, of whom there is none
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
        if message.reply:
            targets = [name for name in targets if name in self.queues and self.queues[name].listeners]
        for target in targets:
            tag = next(self.numbers)
            new = Message(tag, target, message.envelope, message.task_id, rank, tag, now, message.due)
            self.messages[tag] = new
            queue = self.queues.get(target)
            if queue is None or new.due is not None or queue.listeners:
                self.place(new, now)
            else:
                heappush(queue.ready, (rank, tag, tag))

    def place(self, message: Message, now: float) -> None:
        """Put *message* among the ready or the delayed ones of its queue, and wake those who wait there."""
        queue = self.queues.get(message.queue)
        if queue is None:
            queue = self.queues[message.queue] = Line()
        message.owner, message.started = 0, False
        if message.due is not None and message.due > now:
            message.kind = "delayed"
            heappush(queue.delayed, (message.due, message.tag))
            self.note_waiting(message)
        else:
            message.kind = "ready"
            heappush(queue.ready, (message.rank, message.position, message.tag))
        for chime in queue.listeners:
            chime.ring()

    def note_waiting(self, message: Message) -> None:
        """It can be found by its task from now on."""
        self.waiting.setdefault(message.task_id, set()).add(message.tag)

    def forget_waiting(self, message: Message) -> None:
        tags = self.waiting.get(message.task_id)
        if tags is not None:
            tags.discard(message.tag)
            if not tags:
                del self.waiting[message.task_id]

    def ring(self, name: str) -> None:
        """Wake those who wait at a queue."""
        queue = self.queues.get(name)
        for chime in queue.listeners if queue is not None else ():
            chime.ring()

    def promote(self, queue: Line, now: float) -> None:
        """Make ready what is due."""
        while queue.delayed and queue.delayed[0][0] <= now:
            due, tag = heappop(queue.delayed)
            message = self.messages.get(tag)
            if message is not None and message.kind == "delayed" and message.due == due:
                message.kind, message.since = "ready", due
                heappush(queue.ready, (message.rank, message.position, tag))

    def take(self, name: str, limit: int, now: float) -> list[Message]:
        """Remove up to *limit* messages from the front of a queue."""
        queue = self.queues.get(name)
        if queue is None or name in self.limits.paused:
            return []
        self.promote(queue, now)
        if self.limits.gates:
            self.limits.promote(name, now)
        taken: list[Message] = []
        while queue.ready and len(taken) < limit:
            _, position, tag = heappop(queue.ready)
            message = self.messages.get(tag)
            if message is not None and message.kind == "ready" and message.position == position:
                message.kind = "leased"
                taken.append(message)
        return taken

    def give_back(self, message: Message, now: float, *, interrupted: bool) -> None:
        """Return a leased message to its place in the queue; an execution of it is counted."""
        if message.started:
            message.deliveries += 1
            message.interrupted = interrupted
        message.since = now
        if message.permits:
            self.limits.free(message, now, keep_granted=True)
        self.place(message, now)

    def drop(self, message: Message, now: float) -> None:
        """It is no more."""
        del self.messages[message.tag]
        if message.permits:
            self.limits.free(message, now)
        if self.waiting:
            self.forget_waiting(message)

    def remove(self, gone: Sequence[Message], now: float) -> int:
        """Delete messages that nobody has claimed; how many there were."""
        for message in gone:
            self.drop(message, now)
        if gone:
            self.free_uniques_of({message.task_id for message in gone})
            for queue in self.queues.values():
                queue.ready = [entry for entry in queue.ready if entry[2] in self.messages]
                queue.delayed = [entry for entry in queue.delayed if entry[1] in self.messages]
                heapify(queue.ready)
                heapify(queue.delayed)
        return len(gone)

    def empty(self, name: str, now: float) -> int:
        """Delete what is ready, delayed or parked in a queue; how many there were."""
        return self.remove([m for m in self.messages.values() if m.queue == name and m.kind in REMOVED], now)

    def bind(self, binding: Binding) -> None:
        if binding not in self.bindings:
            self.bindings.append(binding)

    def unheard(self) -> set[str]:
        """Queues that were one listener's own to which nobody listens."""
        own = {binding[3] for binding in self.bindings if binding[1] == FLEETING}
        return own.difference(*(owner.queues for owner in self.owners.values())) if own else own

    def forget_unheard(self, now: float) -> None:
        """They go, with what is in them; with dead messages they stay known."""
        for name in self.unheard():
            self.empty(name, now)
            self.limits.paused.discard(name)
            if not any(message.queue == name for message in self.messages.values()):
                self.queues.pop(name, None)
                self.bindings = [binding for binding in self.bindings if binding[3] != name]

    def leave(self, number: int, now: float) -> int:
        """Return everything that the owner holds and forget it; how much there was. What only it heard is no more."""
        owner = self.owners.pop(number, None)
        if owner is None:
            return 0
        unheard, returned = self.unheard(), 0
        for message in owner.held.values():
            if message.queue in unheard:
                self.drop(message, now)
            else:
                self.give_back(message, now, interrupted=True)
                returned += 1
        return returned

    def hold_unique(self, unique: Unique, task_id: str, now: float) -> None:
        """The key belongs to that task; those that have lapsed are forgotten when there are twice as many as before."""
        self.uniques[unique.key] = task_id, unique.until
        if len(self.uniques) > self._uniques_kept:
            self.uniques = {key: held for key, held in self.uniques.items() if held[1] > now}
            self._uniques_kept = max(100, 2 * len(self.uniques))

    def free_uniques_of(self, task_ids: Collection[str]) -> None:
        """Their messages are gone."""
        if self.uniques:
            self.uniques = {key: held for key, held in self.uniques.items() if held[0] not in task_ids}

    def free_unique(self, key: str, task_id: str) -> None:
        """The key is free, if that task holds it."""
        held = self.uniques.get(key)
        if held is not None and held[0] == task_id:
            del self.uniques[key]

    def is_revoked(self, task_id: str, now: float) -> bool:
        return self.revocations.get(task_id, now) > now

    def kind_of(self, message: Message, now: float) -> Kind:
        if message.kind == "delayed" and message.due is not None and message.due <= now:
            return "ready"
        return message.kind


SPACES: dict[str, Space] = {}


def _after_fork() -> None:
    """The child's copy of a space may have been locked by a thread that the child does not have."""
    for space in SPACES.values():
        space.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
