"""Permits, what is parked for want of one, and whom a free one goes to: on an open transaction."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from celery.brokers.base import GRANTED, Needs
from celery.utils.pace import Pace
from celery.utils.sqlite import queries
from celery.wire.message import Delivery, Permit

SQL = queries("limits")

Head = tuple[int, int, int, int]
"""Rank, position and id of a parked message, and the slots of the permit that it waits for."""


class Grants:
    """The permits with which messages of one consumer were started that have not ended."""

    def __init__(self) -> None:
        self._by_tag: dict[int | str, tuple[int, Sequence[Permit]]] = {}
        """With the fence under which it was started: what a lost lease had is nobody's business."""

    def __bool__(self) -> bool:
        return bool(self._by_tag)

    def of(self, deliveries: Iterable[Delivery]) -> list[Sequence[Permit]]:
        """The permits of those that have some."""
        found = [(self._by_tag.get(delivery.tag), delivery.fence) for delivery in deliveries]
        return [known[1] for known, fence in found if known is not None and known[0] == fence]

    def without(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Those that have none."""
        if self._by_tag.keys().isdisjoint([delivery.tag for delivery in deliveries]):
            return deliveries
        return [delivery for delivery in deliveries if not self.of([delivery])]

    def add(self, started: Iterable[Delivery], needs: Needs) -> None:
        """These have started with what they need; those that had before keep what they have."""
        known = self._by_tag
        for delivery in started:
            tag, fence = delivery.tag, delivery.fence
            if tag in needs and (tag not in known or known[tag][0] != fence):
                known[tag] = fence, needs[tag]

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """These have ended."""
        known = self._by_tag
        for delivery in deliveries:
            tag = delivery.tag
            if tag in known and known[tag][0] == delivery.fence:
                del known[tag]

    def clear(self) -> None:
        self._by_tag.clear()


class Limits:
    """What one transaction does with permits. `reached` is given the queues that have something ready by it.

    Slots of started messages are counted for each consumer; it remembers by itself which message has which.  What
    *consumer* takes and frees is written by `write`, once for a key: most batches free as many as they take.
    """

    def __init__(self, connection: sqlite3.Connection, now: float, reached: set[str], consumer: int = 0) -> None:
        self._execute = connection.execute
        self._connection = connection
        self._now = now
        self._reached = reached
        self._consumer = consumer
        self._stored: dict[str, int] = {}
        self._changes: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._paused: set[str] | None = None

    # -- asking ------------------------------------------------------------------------------------------------------

    def ask(self, deliveries: Sequence[Delivery], needs: Needs, *, give: bool = True) -> set[int]:
        """Give the deliveries, whose leases hold, what they need; the tags of those that are parked instead.

        Without *give* those that could have it get nothing.
        """
        granted = self._granted(deliveries)
        groups = _groups(deliveries, needs)
        self._read({permit.key for (first, *_) in groups.values() for permit in needs[first.tag] if permit.slots})
        parked: list[tuple[Delivery, Permit]] = []
        for (queue, _), group in groups.items():
            permits = needs[group[0].tag]
            sure = 0 if granted or not give else self._enough_for(permits, queue, len(group))
            self._give(permits, queue, sure)
            for delivery in group[sure:]:
                kept = {permit.key for permit in permits if (permit.key, delivery.tag) in granted}
                missing = next((permit for permit in permits if not self._may(permit, queue, permit.key in kept)), None)
                if missing is not None:
                    parked.append((delivery, missing))
                elif give:
                    self._ungrant(kept, int(delivery.tag))
                    self._give(permits, queue, 1)
        for delivery, permit in parked:
            self.park(delivery, permit)
        return {int(delivery.tag) for delivery, _ in parked}

    def _granted(self, deliveries: Sequence[Delivery]) -> set[tuple[str, int | str]]:
        """(key, tag) of what is kept for those of them that were woken."""
        if self._execute(SQL["any_permit"]).fetchone() is None:
            return set()
        ids = json.dumps([delivery.tag for delivery in deliveries])
        return set(self._execute(SQL["granted"], (ids,)).fetchall())

    def _ungrant(self, keys: Iterable[str], tag: int) -> None:
        for key in keys:
            self._execute(SQL["forget"], (key, tag))
            self._stored.pop(key, None)

    def _enough_for(self, permits: Sequence[Permit], queue: str, most: int) -> int:
        """How many may start, of *most* for whom none is kept."""
        for permit in permits:
            if permit.slots:
                most = min(most, permit.slots - self._count(permit.key))
            elif permit.interval and not self._waits(permit.key, queue):
                most = min(most, _pace(permit).available(self._next(permit.key), self._now))
            else:
                return 0
        return max(0, most)

    def _may(self, permit: Permit, queue: str, granted: bool) -> bool:
        if permit.slots:
            return granted or self._count(permit.key) < permit.slots
        if permit.interval and (granted or not self._waits(permit.key, queue)):
            return _pace(permit).available(self._next(permit.key), self._now) > 0
        return False

    def _give(self, permits: Sequence[Permit], queue: str, count: int) -> None:
        for permit in permits if count else ():
            if permit.slots:
                self._changes[permit.key] = self._changes.get(permit.key, 0) + count
            else:
                self._pass_gate(permit, queue, count)

    def _pass_gate(self, permit: Permit, queue: str, count: int) -> None:
        """So many have started: the next may after them."""
        following = self._rates[permit.key] = _pace(permit).after(self._next(permit.key), self._now, count)
        self._execute(SQL["set_next_start"], (permit.key, following))
        if self._waits(permit.key, queue):
            self._execute(SQL["gate"], (queue, permit.key, following, permit.interval, permit.burst))

    # -- counting ----------------------------------------------------------------------------------------------------

    def end(self, ended: Iterable[Sequence[Permit]]) -> None:
        """What was started with these permits has ended: its slots go to others."""
        counts: dict[str, int] = {}
        for permits, count in _alike(list(ended)):
            for permit in permits:
                if permit.slots:
                    counts[permit.key] = counts.get(permit.key, 0) + count
        for key, count in counts.items():
            self._changes[key] = self._changes.get(key, 0) - count
        self.wake_all(counts)

    def leave(self) -> None:
        """The consumer is gone, and all its slots go to others."""
        self.wake_all([key for (key,) in self._execute(SQL["slots_of"], (self._consumer,)).fetchall()])

    def write(self) -> None:
        """What the consumer has taken and freed."""
        changes = [(key, self._consumer, count) for key, count in self._changes.items() if count]
        self._connection.executemany(SQL["change"], changes)
        self._connection.executemany(SQL["none_left"], [change[:2] for change in changes if change[2] < 0])
        self._changes.clear()
        self._stored.clear()

    def _read(self, keys: Collection[str]) -> None:
        found = dict(self._execute(SQL["taken"], {"keys": json.dumps(list(keys))}).fetchall()) if keys else {}
        for key in keys:
            self._stored[key] = found.get(key, 0)

    def _count(self, key: str) -> int:
        """How many slots of the key are taken."""
        if key not in self._stored:
            self._read([key])
        return self._stored[key] + self._changes.get(key, 0)

    def _next(self, key: str) -> float:
        following = self._rates.get(key)
        if following is None:
            row = self._execute(SQL["next_start"], (key,)).fetchone()
            following = self._rates[key] = 0.0 if row is None else row[0]
        return following

    def _waits(self, key: str, queue: str) -> bool:
        return self._execute(SQL["waits"], (key, queue)).fetchone() is not None

    # -- parking -----------------------------------------------------------------------------------------------------

    def park(self, delivery: Delivery, permit: Permit) -> None:
        """Keep a message aside until there is a permit: now there is none. Its lease ends."""
        tag = int(delivery.tag)
        self._execute("DELETE FROM leased WHERE id = ?", (tag,))
        self.free([tag])
        queue, rank, position, task_id = self._execute(SQL["where"], (tag,)).fetchone()
        self._reached.add(queue)
        self._execute(SQL["park"], (permit.key, queue, rank, position, tag, permit.slots, task_id))
        if permit.interval:
            due = _pace(permit).at(self._next(permit.key), self._now)
            self._execute(SQL["gate"], (queue, permit.key, due, permit.interval, permit.burst))

    def take(self, key: str, queue: str, count: int, fence: int) -> list[Delivery]:
        """Lease up to *count* messages from the front of what is parked under *key*."""
        found = []
        for rank, position, tag, _ in self._heads(key, queue, count):
            self._execute(SQL["unpark"], (key, queue, rank, position, tag))
            self._execute(SQL["lease"], (tag, fence, self._now))
            row = self._execute(SQL["wanted"], (self._now, tag)).fetchone()
            _, envelope, deliveries, interrupted, revoked = row
            found.append(
                Delivery(tag, queue, envelope, fence, deliveries, interrupted == 1, deliveries > 0, revoked == 1)
            )
        return found

    def _heads(self, key: str, queue: str, count: int) -> list[Head]:
        return self._execute(SQL["heads"], (key, queue, count)).fetchall()

    # -- waking ------------------------------------------------------------------------------------------------------

    def free(self, ids: Iterable[int | str]) -> None:
        """What is kept for these messages goes to others."""
        if self._execute(SQL["any_permit"]).fetchone() is not None:
            freed = self._execute(SQL["free"], (json.dumps(list(ids)),)).fetchall()
            self.wake_all({key for (key,) in freed})

    def wake_all(self, keys: Iterable[str]) -> None:
        """Give the free slots of *keys* to those that have waited longest, in whatever queue."""
        some = None
        for key in keys:
            self._stored.pop(key, None)
            some = self._execute(SQL["any_parked"]).fetchone() is not None if some is None else some
            while some and self._wake_one(key):
                pass

    def _wake_one(self, key: str) -> bool:
        heads = [(head, queue) for queue in self._queues(key) for head in self._heads(key, queue, 1)]
        if not heads:
            return False
        head, queue = min(heads)
        if self._count(key) >= head[3]:
            return False
        self._wake(key, queue, head)
        return True

    def _queues(self, key: str) -> Iterator[str]:
        """The queues with something parked under *key*, but for paused ones."""
        row = self._execute(SQL["next_queue"], (key, "")).fetchone()
        while row is not None:
            if row[0] not in self.paused:
                yield row[0]
            row = self._execute(SQL["next_queue"], (key, row[0])).fetchone()

    @property
    def paused(self) -> set[str]:
        """The paused queues."""
        if self._paused is None:
            self._paused = {queue for (queue,) in self._execute(SQL["paused"]).fetchall()}
        return self._paused

    def _wake(self, key: str, queue: str, head: Head) -> None:
        rank, position, tag, _ = head
        self._execute(SQL["unpark"], (key, queue, rank, position, tag))
        self._make_ready(key, queue, head)

    def _make_ready(self, key: str, queue: str, head: Head) -> None:
        rank, position, tag, _ = head
        self._execute(SQL["grant"], (key, tag, self._now + GRANTED))
        self._stored.pop(key, None)
        self._execute("INSERT INTO ready (queue, rank, position, id) VALUES (?, ?, ?, ?)", (queue, rank, position, tag))
        self._reached.add(queue)

    def open_gates(self, queue: str) -> None:
        """Wake those whose rate lets them start now."""
        for key, interval, burst in self._execute(SQL["open_gates"], (queue, self._now)).fetchall():
            pace = Pace(interval, burst)
            available = pace.available(self._next(key), self._now)
            for head in self._heads(key, queue, available):
                self._wake(key, queue, head)
            if not self._waits(key, queue):
                self._execute(SQL["no_gate"], (queue, key))
            else:
                due = self._now + GRANTED if available else pace.at(self._next(key), self._now)
                self._execute(SQL["gate"], (queue, key, due, interval, burst))

    def lapse(self) -> None:
        """Take back what was kept for messages that did not come for it."""
        self.wake_all({key for (key,) in self._execute(SQL["lapsed"], (self._now,)).fetchall()})

    def resume(self, queues: Sequence[str]) -> None:
        """Wake those that could not be because their queues were paused, which they are no more."""
        rows = self._execute(SQL["parked_keys"], (json.dumps(list(queues)),)).fetchall()
        self.wake_all({key for (key,) in rows})


def unpark(connection: sqlite3.Connection, task_id: str, tag: int | None = None) -> list[tuple[str, int, int, int]]:
    """Take what is parked of a task (or the message *tag* of it) out: (queue, rank, position, id) of each."""
    rows = connection.execute(SQL["find_parked"], (task_id, tag is None, tag)).fetchall()
    connection.executemany(SQL["unpark"], rows)
    return [row[1:] for row in rows]


def _groups(deliveries: Sequence[Delivery], needs: Needs) -> dict[tuple[str, int], list[Delivery]]:
    """*deliveries* by queue and by what they need, where that is the same object: mostly that of the one before."""
    groups: dict[tuple[str, int], list[Delivery]] = {}
    queue, permits, group = "", None, list[Delivery]()
    for delivery in deliveries:
        if needs[delivery.tag] is not permits or delivery.queue != queue:
            queue, permits = delivery.queue, needs[delivery.tag]
            group = groups.setdefault((queue, id(permits)), [])
        group.append(delivery)
    return groups


def _alike(ended: list[Sequence[Permit]]) -> list[tuple[Sequence[Permit], int]]:
    """Each of *ended* once, and how often it is there, as the same object."""
    each = {id(permits): permits for permits in ended}
    return [(each[key], count) for key, count in Counter(map(id, ended)).items()]


def _pace(permit: Permit) -> Pace:
    return Pace(permit.interval, permit.burst)
