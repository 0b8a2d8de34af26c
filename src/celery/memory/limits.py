"""Permits, what is parked for want of one, and paused queues of one space. Everything is called with its lock held."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import msgspec

from celery.brokers.base import GRANTED
from celery.utils.pace import Pace
from celery.wire.message import Permit

if TYPE_CHECKING:
    from celery.memory.space import Message, Space

Order = tuple[int, int, int]
"""Rank, position and tag."""


class Gate(msgspec.Struct):
    """When the next of those that wait for a rate is woken."""

    due: float
    pace: Pace


class Limits:
    """What a space knows of limits."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._holders: dict[str, dict[int, float | None]] = {}
        """Of each key the tags that have a permit: None, or until when it is kept for a message that was woken."""
        self._rates: dict[str, float] = {}
        self._parked: dict[str, dict[str, list[Order]]] = {}
        """By key and queue. An entry counts only while its message is still parked under the key."""
        self.gates: dict[str, dict[str, Gate]] = {}
        """By queue and key."""
        self.paused: set[str] = set()

    # -- permits -----------------------------------------------------------------------------------------------------

    def missing(self, message: Message, needs: Sequence[Permit], now: float) -> Permit | None:
        """The first permit that *message* could not get now."""
        for permit in needs:
            if not self._may(message, permit, now):
                return permit
        return None

    def ask(self, message: Message, needs: Sequence[Permit], now: float) -> Permit | None:
        """Give *message* all permits it needs, or none: then the one that it has to wait for."""
        missing = self.missing(message, needs, now)
        if missing is not None:
            return missing
        message.permits = tuple([permit.key for permit in needs if permit.slots])
        for permit in needs:
            if permit.slots:
                self._holders.setdefault(permit.key, {})[message.tag] = None
            else:
                self._forget(permit.key, message.tag)
                self._rates[permit.key] = _pace(permit).after(self._rates.get(permit.key, 0.0), now)
                self._arm(message.queue, permit, self._rates[permit.key])
        return None

    def _may(self, message: Message, permit: Permit, now: float) -> bool:
        holders = self._holders.get(permit.key, ())
        woken = message.tag in holders
        if permit.slots:
            return woken or len(holders) < permit.slots
        if permit.interval and (woken or not self._waits(permit.key, message.queue)):
            return _pace(permit).available(self._rates.get(permit.key, 0.0), now) > 0
        return False

    def free(self, message: Message, now: float, *, keep_granted: bool = False) -> None:
        """Its permits go to others: its lease has ended, or it is gone.

        *keep_granted*: not those that it was woken for and has not come for yet.
        """
        keys = message.permits
        if keep_granted:
            keys = tuple(key for key in keys if self._holders.get(key, {}).get(message.tag) is None)
        message.permits = tuple([key for key in message.permits if key not in keys]) if keep_granted else ()
        for key in keys:
            self._forget(key, message.tag)
            self.wake(key, now)

    def _forget(self, key: str, tag: int) -> None:
        holders = self._holders.get(key)
        if holders is not None and holders.pop(tag, 0) != 0 and not holders:
            del self._holders[key]

    # -- parking -----------------------------------------------------------------------------------------------------

    def park(self, message: Message, permit: Permit, now: float) -> None:
        """Keep *message* aside until there is a permit: now there is none."""
        self.free(message, now)
        message.kind, message.owner, message.started, message.permit = "parked", 0, False, permit
        lines = self._parked.setdefault(permit.key, {})
        heappush(lines.setdefault(message.queue, []), (message.rank, message.position, message.tag))
        self._space.note_waiting(message)
        if permit.interval:
            due = _pace(permit).at(self._rates.get(permit.key, 0.0), now)
            self.gates.setdefault(message.queue, {})[permit.key] = Gate(due, _pace(permit))
        self._space.ring(message.queue)

    def _grant(self, message: Message, key: str, now: float) -> None:
        self._holders.setdefault(key, {})[message.tag] = now + GRANTED
        message.permits = (*message.permits, key)
        self._space.place(message, now)

    def take(self, key: str, queue: str, count: int) -> list[Message]:
        """Remove up to *count* messages from the front of what is parked under *key*."""
        taken: list[Message] = []
        lines = self._parked.get(key, {})
        while len(taken) < count and self._first(key, queue) is not None:
            _, _, tag = heappop(lines[queue])
            taken.append(self._space.messages[tag])
        if queue in lines and not lines[queue]:
            del lines[queue]
            if not lines:
                del self._parked[key]
        return taken

    def _first(self, key: str, queue: str) -> Message | None:
        line = self._parked.get(key, {}).get(queue, [])
        while line:
            _, position, tag = line[0]
            message = self._space.messages.get(tag)
            if message is not None and message.is_parked(key) and message.position == position:
                return message
            heappop(line)
        return None

    def _waits(self, key: str, queue: str) -> bool:
        return self._first(key, queue) is not None

    # -- waking ------------------------------------------------------------------------------------------------------

    def wake(self, key: str, now: float) -> None:
        """Give the free slots of *key* to those that have waited longest, in whatever queue."""
        while key in self._parked:
            heads = [
                head
                for queue in list(self._parked.get(key, ()))
                if queue not in self.paused and (head := self._first(key, queue)) is not None
            ]
            if not heads:
                return
            first = min(heads, key=lambda message: (message.rank, message.position))
            if first.permit is None or len(self._holders.get(key, ())) >= first.permit.slots:
                return
            self.take(key, first.queue, 1)
            self._grant(first, key, now)

    def promote(self, queue: str, now: float) -> None:
        """Wake those whose rate lets them start now."""
        gates = self.gates.get(queue, {})
        for key in [key for key, gate in gates.items() if gate.due <= now]:
            gate = gates[key]
            available = gate.pace.available(self._rates.get(key, 0.0), now)
            for message in self.take(key, queue, available):
                self._grant(message, key, now)
            if not self._waits(key, queue):
                del gates[key]
            elif available:
                gate.due = now + GRANTED
            else:
                gate.due = gate.pace.at(self._rates.get(key, 0.0), now)

    def _arm(self, queue: str, permit: Permit, due: float) -> None:
        """One has started: the next may after it."""
        if self._waits(permit.key, queue):
            self.gates.setdefault(queue, {})[permit.key] = Gate(due, _pace(permit))

    def lapse(self, now: float) -> None:
        """Take back what was kept for messages that did not come for it."""
        for key, holders in list(self._holders.items()):
            for tag in [tag for tag, until in holders.items() if until is not None and until <= now]:
                message = self._space.messages.get(tag)
                if message is not None:
                    message.permits = tuple(other for other in message.permits if other != key)
                self._forget(key, tag)
                self.wake(key, now)

    # -- pauses ------------------------------------------------------------------------------------------------------

    def pause(self, queues: Sequence[str]) -> None:
        self.paused.update(queues)

    def resume(self, queues: Sequence[str], now: float) -> None:
        self.paused.difference_update(queues)
        for queue in queues:
            for key in [key for key, lines in self._parked.items() if queue in lines]:
                self.wake(key, now)
            self._space.ring(queue)


def _pace(permit: Permit) -> Pace:
    return Pace(permit.interval, permit.burst)
