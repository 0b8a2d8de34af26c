"""Results in this process: `memory://name`. Ends with the process; for tests, development and eager programs."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from celery.backends.store import TERMINAL, Store, StoreCapabilities, Watch, in_order, messages_of
from celery.utils.bell import Chime
from celery.utils.clock import SYSTEM, Clock
from celery.wire.message import Arrival, Outgoing, Record

JOIN_KEPT = 86_400.0
"""Seconds a completed join is kept, so that a late copy of one of its parts is recognised."""


class _Value(msgspec.Struct):
    value: bytes
    final: int = 0
    writer: str = ""
    expires: float | None = None


class _Join(msgspec.Struct):
    parts: dict[str, bytes] = msgspec.field(default_factory=dict)
    grown: set[str] = msgspec.field(default_factory=set)
    completed: float | None = None
    last: str = ""
    """The index of the part that completed it."""


class _Space:
    """What all stores of one name share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: dict[str, _Value] = {}
        self.joins: dict[str, _Join] = {}
        self.watches: set[MemoryWatch] = set()


_spaces: dict[str, _Space] = {}


def _after_fork() -> None:
    """The child's copy of a space may have been locked by a thread that the child does not have."""
    for space in _spaces.values():
        space.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class MemoryStore(Store):
    """A store that every user of the same URL in this process shares."""

    can = StoreCapabilities(durable=False, shared=False, notify=True, expire=True)

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        name = url.partition("://")[2].partition("?")[0].strip("/")
        self.place = f"memory://{name}"
        self._space = _spaces.setdefault(name, _Space())

    def close(self) -> None:
        """Nothing to let go of: the values stay for other users of the name."""

    def put(self, records: Sequence[Record]) -> list[bool]:
        with self._space.lock:
            return self._put(records)

    def write(self, transaction: object, records: Sequence[Record], arrivals: Sequence[Arrival]) -> list[Outgoing]:
        """Apply the effects of a settlement at once, as a broker that `fuses` with this store asks."""
        if not (records or arrivals):
            return []
        with self._space.lock:
            self._put(records)
            return messages_of(arrivals, self._arrive(arrivals)) if arrivals else []

    def announce(self) -> None:
        """Nothing to do: watches were woken by `write`."""

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._space.lock:
            return [None if (found := self._live(key)) is None else found.value for key in keys]

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        with self._space.lock:
            self._space.values[key] = _Value(value, expires=self._expiry(ttl))
            self._wake({key})

    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        with self._space.lock:
            if self._live(key) is not None:
                return False
            self._space.values[key] = _Value(value, expires=self._expiry(ttl))
            self._wake({key})
            return True

    def delete(self, keys: Sequence[str]) -> int:
        with self._space.lock:
            found = 0
            for key in keys:
                found += self._live(key) is not None or key in self._space.joins
                self._space.values.pop(key, None)
                self._space.joins.pop(key, None)
            return found

    def watch(self, keys: Sequence[str]) -> MemoryWatch:
        watch = MemoryWatch(self._space, frozenset(keys))
        with self._space.lock:
            self._space.watches.add(watch)
        return watch

    def arrive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        with self._space.lock:
            return self._arrive(arrivals)

    def arrived(self, group: str) -> list[bytes]:
        with self._space.lock:
            join = self._space.joins.get(group)
            parts = list(join.parts.items()) if join is not None else []
        return in_order(parts)

    def expire(self) -> int:
        now = self.clock.time()
        with self._space.lock:
            values, joins = self._space.values, self._space.joins
            gone = [key for key, value in values.items() if value.expires is not None and value.expires <= now]
            for key in gone:
                del values[key]
            done = [
                group
                for group, join in joins.items()
                if join.completed is not None and join.completed + JOIN_KEPT <= now
            ]
            for group in done:
                del joins[group]
            return len(gone) + len(done)

    def _put(self, records: Sequence[Record]) -> list[bool]:
        stored = []
        for record in records:
            final = TERMINAL.get(record.state, 0)
            old = self._live(record.key)
            wins = old is None or not old.final or (old.final == 1 and final > 0 and record.writer != old.writer)
            if wins:
                self._space.values[record.key] = _Value(record.value, final, record.writer, self._expiry(record.ttl))
            stored.append(wins)
        if self._space.watches:
            self._wake({record.key for record, wins in zip(records, stored, strict=True) if wins})
        return stored

    def _arrive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        completed = []
        for arrival in arrivals:
            join = self._space.joins.get(arrival.group)
            if join is None:
                join = self._space.joins[arrival.group] = _Join()
            if join.completed is None:
                if arrival.grows:
                    join.grown.add(arrival.index)
                else:
                    join.parts.setdefault(arrival.index, arrival.value)
                    if len(join.parts) == arrival.size + len(join.grown):
                        join.completed, join.last = self.clock.time(), arrival.index
            completed.append(join.completed is not None and join.last == arrival.index)
        return completed

    def _live(self, key: str) -> _Value | None:
        value = self._space.values.get(key)
        if value is not None and value.expires is not None and value.expires <= self.clock.time():
            del self._space.values[key]
            return None
        return value

    def _expiry(self, ttl: float | None) -> float | None:
        return None if ttl is None else self.clock.time() + ttl

    def _wake(self, keys: Collection[str]) -> None:
        for watch in self._space.watches:
            if not watch.keys.isdisjoint(keys):
                watch.ring()


class MemoryWatch(Watch):
    """Rung by every write to one of its keys."""

    def __init__(self, space: _Space, keys: frozenset[str]) -> None:
        self.keys = keys
        self._space = space
        self._chime = Chime()

    def wait(self, timeout: float | None = None) -> bool:
        return self._chime.wait(timeout)

    def ring(self) -> None:
        self._chime.ring()

    def close(self) -> None:
        with self._space.lock:
            self._space.watches.discard(self)
        self._chime.close()
