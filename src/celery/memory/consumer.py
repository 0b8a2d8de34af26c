"""A lease over queues of one space."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from celery.backends.store import TransactionalStore
from celery.brokers.base import NOTHING, Consumer, Needs, Verdict
from celery.exceptions import BrokerError
from celery.memory.space import Line, Message, Owner, Space
from celery.utils.bell import Chime
from celery.utils.clock import Clock
from celery.utils.routing import Binding
from celery.utils.turns import Turns
from celery.wire.message import Delivery, Outgoing, Permit, Record, Settlement


class MemoryConsumer(Consumer):
    """A lease over queues of one space."""

    def __init__(
        self,
        space: Space,
        queues: Sequence[str],
        name: str,
        store: TransactionalStore | None,
        lease: float,
        clock: Clock,
        turns: Turns,
        own: Sequence[Binding] = (),
    ) -> None:
        self.queues = tuple(queues)
        self.name = name
        self._space = space
        self._store = store
        self._lease = lease
        self._clock = clock
        self._chime = Chime()
        self._woken = False
        self._turns = turns
        self._own = own
        self._number = 0
        with space.lock:
            self._register()

    def claim(self, limit: int, timeout: float = 0.0, wanted: Mapping[str, int] = NOTHING) -> list[Delivery]:
        self._check_open()
        end = time.monotonic() + timeout
        while True:
            claimed = self._claim(limit, wanted)
            left = end - time.monotonic()
            if claimed or left <= 0 or self._woken or self._chime.closed:
                self._woken = False
                return claimed
            due = self.due_in()
            self._chime.wait(left if due is None else min(left, due))

    def start(
        self, deliveries: Sequence[Delivery], records: Sequence[Record] = (), needs: Needs = NOTHING
    ) -> list[Verdict]:
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
                elif needs and not self._goes_on(
                    message, self._space.limits.ask(message, needs.get(delivery.tag, ()), now), now
                ):
                    verdicts.append("parked")
                else:
                    message.started = True
                    verdicts.append("ok")
            if self._store is not None:
                self._store.write(None, records, ())
        return verdicts

    def park(self, deliveries: Sequence[Delivery], needs: Needs) -> list[Verdict]:
        now = self._clock.time()
        verdicts: list[Verdict] = []
        with self._space.lock:
            for delivery in deliveries:
                message = self._held(delivery)
                if message is None:
                    verdicts.append("lost")
                else:
                    missing = self._space.limits.missing(message, needs.get(delivery.tag, ()), now)
                    verdicts.append("ok" if self._goes_on(message, missing, now) else "parked")
        return verdicts

    def _goes_on(self, message: Message, missing: Permit | None, now: float) -> bool:
        """Whether *message* has all it needs; it is parked if it has not."""
        if missing is None:
            return True
        del self._space.owners[self._number].held[message.tag]
        self._space.limits.park(message, missing, now)
        return False

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
            limits = self._space.limits
            queues = [queue for queue in self.queues if queue not in limits.paused]
            dues = [
                message.due
                for queue in queues
                if (line := self._space.queues.get(queue)) is not None
                for due, tag in line.delayed[:1]
                if (message := self._space.messages.get(tag)) is not None and message.due == due
            ]
            dues += [gate.due for queue in queues for gate in limits.gates.get(queue, {}).values()]
        return max(0.0, min(dues) - now) if dues else None

    def close(self) -> None:
        with self._space.lock:
            now = self._clock.time()
            self._space.leave(self._number, now)
            for queue in self.queues:
                line = self._space.queues.get(queue)
                if line is not None and self._chime in line.listeners:
                    line.listeners.remove(self._chime)
            if self._own:
                self._space.forget_unheard(now)
        self._chime.close()

    def _register(self) -> None:
        for binding in self._own:
            self._space.bind(binding)
        for queue in self.queues:  # while nobody listened some may have been forgotten
            line = self._space.queues.setdefault(queue, Line())
            if self._chime not in line.listeners:
                line.listeners.append(self._chime)
        self._number = next(self._space.numbers)
        deadline = self._clock.time() + self._lease
        self._space.owners[self._number] = Owner(self.name, self.queues, deadline)

    def _check_open(self) -> None:
        if self._chime.closed:
            raise BrokerError(f"Consumer {self.name!r} is closed: ask the broker for a new one.")

    def _check_records(self, effects: bool) -> None:
        if effects and self._store is None:
            raise ValueError("This consumer has no store in the same place: store results and send messages first.")

    def _held(self, delivery: Delivery) -> Message | None:
        message = self._space.messages.get(int(delivery.tag))
        if message is None or message.kind != "leased":
            return None
        return message if message.owner == self._number and message.fence == delivery.fence else None

    def _claim(self, limit: int, wanted: Mapping[str, int]) -> list[Delivery]:
        now = self._clock.time()
        space = self._space
        with space.lock:
            self._chime.clear()
            if self._number not in space.owners:
                self._register()
            held = space.owners[self._number].held
            messages = self._take_parked(limit, wanted) if wanted else []
            if len(messages) < limit:
                messages += self._turns.serve(limit - len(messages), lambda queue, count: space.take(queue, count, now))
            for message in messages:
                message.owner, message.fence = self._number, next(space.numbers)
                message.since, message.due = now, None
                held[message.tag] = message
                if space.waiting:
                    space.forget_waiting(message)
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

    def _take_parked(self, limit: int, wanted: Mapping[str, int]) -> list[Message]:
        taken: list[Message] = []
        limits = self._space.limits
        for key, count in wanted.items():
            left = min(count, limit - len(taken))
            for queue in self.queues:
                if left > 0 and queue not in limits.paused:
                    found = limits.take(key, queue, left)
                    taken += found
                    left -= len(found)
        for message in taken:
            message.kind = "leased"
        return taken

    def _end(self, message: Message, settlement: Settlement, now: float) -> None:
        space = self._space
        del space.owners[self._number].held[message.tag]
        for key, task_id in settlement.frees:
            space.free_unique(key, task_id)
        if settlement.verb == "done":
            space.drop(message, now)
            return
        if message.permits:
            space.limits.free(message, now)
        if settlement.verb == "requeue":
            message.position = next(space.numbers)
            message.due = now + settlement.delay if settlement.delay > 0 else None
            space.give_back(message, now, interrupted=False)
        else:
            message.kind, message.since, message.reason = "dead", now, settlement.reason
            message.owner = 0
            if message.started:
                message.deliveries, message.interrupted = message.deliveries + 1, False
