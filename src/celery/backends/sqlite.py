"""Results in a SQLite file: `sqlite:///relative.db` or `sqlite:////absolute.db`. Durable, and shared by processes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from celery.backends.store import TERMINAL, Store, StoreCapabilities, Watch, in_order, messages_of
from celery.exceptions import BackendError
from celery.sqlite.book import SQLiteBook
from celery.utils.bell import Belfry, Chime
from celery.utils.clock import SYSTEM, Clock
from celery.utils.sqlite import open_database, queries
from celery.wire.message import Arrival, Outgoing, Record

JOIN_KEPT = 86_400.0
"""Seconds a completed join is kept, so that a late copy of one of its parts is recognised."""

EXPIRE_FOR = 0.5
"""Seconds after which `expire` returns although there is more: its caller has leases to renew."""

_SQL = queries("store")


class SQLiteStore(Store):
    """A store in one file. Options, also after a `?` in the URL: `timeout` (seconds), `max_pages` (of 4 KiB)."""

    can = StoreCapabilities(durable=True, shared=True, notify=True, expire=True)

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self._database, self.options = open_database(url, self.options, error=BackendError)
        self.place = f"sqlite://{self._database.path}"
        self._belfry = Belfry(Path(f"{self._database.path}.bells"))

    def close(self) -> None:
        self._database.close()
        self._belfry.close()

    def put(self, records: Sequence[Record]) -> list[bool]:
        if not records:
            return []
        now = self.clock.time()
        with self._database.write() as connection:
            stored = [connection.execute(_SQL["put"], row).rowcount > 0 for row in _rows(records, now)]
        self.announce()
        return stored

    def write(self, transaction: Any, records: Sequence[Record], arrivals: Sequence[Arrival]) -> list[Outgoing]:
        """Write on the *transaction* of a broker on the same file: an `sqlite3.Connection`."""
        now = self.clock.time()
        if records:
            transaction.executemany(_SQL["put"], _rows(records, now))
        return messages_of(arrivals, _arrive(transaction, arrivals, now)) if arrivals else []

    def announce(self) -> None:
        self._belfry.ring("results")

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        now = self.clock.time()
        values: list[bytes | None] = []
        with self._database.read() as connection:
            for key in keys:
                row = connection.execute(_SQL["get"], (key, now)).fetchone()
                values.append(None if row is None else row[0])
        return values

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        with self._database.write() as connection:
            connection.execute(_SQL["set"], (key, value, self._expiry(ttl)))
        self.announce()

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> None:
        if values:
            until = self._expiry(ttl)
            with self._database.write() as connection:
                connection.executemany(_SQL["set"], [(key, value, until) for key, value in values.items()])

    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        with self._database.write() as connection:
            row = (key, value, self._expiry(ttl), self.clock.time())
            stored = connection.execute(_SQL["add"], row).rowcount > 0
        if stored:
            self.announce()
        return stored

    def delete(self, keys: Sequence[str]) -> int:
        now = self.clock.time()
        found = 0
        with self._database.write() as connection:
            for key in keys:
                lived = connection.execute(_SQL["delete"], (key, now)).fetchall()
                joined = connection.execute(_SQL["delete_join"], (key,)).rowcount
                connection.execute(_SQL["delete_parts"], (key,))
                found += lived == [(1,)] or joined > 0
        return found

    def watch(self, keys: Sequence[str]) -> SQLiteWatch:
        return SQLiteWatch(self._belfry.listen("results", changed=self._database.changes))

    def arrive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        with self._database.write() as connection:
            return _arrive(connection, arrivals, self.clock.time())

    def arrived(self, group: str) -> list[bytes]:
        with self._database.read() as connection:
            parts = connection.execute(_SQL["parts"], (group,)).fetchall()
        return in_order(parts)

    def expire(self) -> int:
        now = self.clock.time()
        gone, until = 0, time.monotonic() + EXPIRE_FOR
        while True:
            # In portions, so that other writers get their turn.
            with self._database.write() as connection:
                portion = connection.execute(_SQL["expire"], (now,)).rowcount
                joins = connection.execute(_SQL["old_joins"], (now - JOIN_KEPT,)).fetchall()
                connection.executemany(_SQL["delete_parts"], joins)
                connection.executemany(_SQL["delete_join"], joins)
            gone += portion + len(joins)
            if (not portion and not joins) or time.monotonic() >= until:
                return gone

    def book(self, name: str) -> SQLiteBook:
        return SQLiteBook(self._database, name, self.clock, None, self._belfry)

    def _expiry(self, ttl: float | None) -> float | None:
        return None if ttl is None else self.clock.time() + ttl


class SQLiteWatch(Watch):
    """Rung by every write of results to the file: whoever waits looks at the keys again."""

    def __init__(self, chime: Chime) -> None:
        self._chime = chime

    def wait(self, timeout: float | None = None) -> bool:
        return self._chime.wait(timeout)

    def ring(self) -> None:
        self._chime.ring()

    def close(self) -> None:
        self._chime.close()


def _rows(records: Sequence[Record], now: float) -> list[tuple[Any, ...]]:
    return [
        (
            record.key,
            record.value,
            TERMINAL.get(record.state, 0),
            record.writer,
            None if record.ttl is None else now + record.ttl,
            now,
        )
        for record in records
    ]


def _arrive(connection: sqlite3.Connection, arrivals: Sequence[Arrival], now: float) -> list[bool]:
    completed = []
    for arrival in arrivals:
        group, index = arrival.group, arrival.index
        value = b"" if arrival.grows else arrival.value
        if connection.execute(_SQL["add_part"], (group, index, value, group)).rowcount:
            change = -1 if arrival.grows else 1
            (arrived,) = connection.execute(_SQL["count_part"], (group, change, change)).fetchall()[0]
            completes = arrived == arrival.size and not arrival.grows
            if completes:
                connection.execute(_SQL["complete"], (now, index, group))
        else:
            completes = connection.execute(_SQL["completed_by"], (group,)).fetchall() == [(index,)]
        completed.append(completes)
    return completed
