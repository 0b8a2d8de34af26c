"""The schedule book in a SQLite file. The statements are in `celery/sql/book.sql`; every method is one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from celery.brokers.book import HISTORY, Advance, Book, Lead
from celery.sqlite.outbox import Outbox
from celery.utils.bell import Belfry
from celery.utils.clock import Clock
from celery.utils.sqlite import Database, queries

_SQL = queries("book")


class SQLiteBook(Book):
    """A book in one file; without an *outbox* it is one of a result store, which sends nothing."""

    def __init__(self, database: Database, name: str, clock: Clock, outbox: Outbox | None, belfry: Belfry) -> None:
        self.sends = outbox is not None
        self._database = database
        self._name = name
        self._clock = clock
        self._outbox = outbox
        self._belfry = belfry

    def lead(self, who: str, ttl: float) -> Lead:
        now = self._clock.time()
        if not ttl:
            with self._database.read() as connection:
                return self._look(connection, who, now)
        with self._database.write(durable=False) as connection:
            connection.execute(_SQL["open"], (self._name,))
            connection.execute(_SQL["take"], {"book": self._name, "who": who, "now": now, "until": now + ttl})
            return self._look(connection, who, now)

    def _look(self, connection: sqlite3.Connection, who: str, now: float) -> Lead:
        row = connection.execute(_SQL["leader"], (self._name,)).fetchone() or (0, "", 0.0, 0)
        token, leader, until, version = row
        held = until > now
        return Lead(token if held and leader == who else 0, leader if held else "", max(0.0, until - now), now, version)

    def resign(self, token: int) -> None:
        with self._database.write(durable=False) as connection:
            connection.execute(_SQL["resign"], (self._name, token))

    def advance(self, token: int, ttl: float, advances: Sequence[Advance]) -> list[bool] | None:
        now, reached = self._clock.time(), set[str]()
        with self._database.write() as connection:
            if not connection.execute(_SQL["keep"], (now + ttl, self._name, token, now)).rowcount:
                return None
            done = [self._advance(connection, advance, reached) for advance in advances]
        if reached:
            self._belfry.ring("messages", reached)
        return done

    def _advance(self, connection: sqlite3.Connection, advance: Advance, reached: set[str]) -> bool:
        row = connection.execute(_SQL["state"], (self._name, advance.name)).fetchone()
        state = row[0] if row else b""
        if state != advance.old:
            return bool(state == advance.new)
        connection.execute(_SQL["set_state"], (self._name, advance.name, advance.new))
        self._note(connection, advance.name, advance.note)
        if advance.messages and self._outbox is not None:
            reached |= self._outbox.send(connection, advance.messages)
        return True

    def states(self) -> dict[str, bytes]:
        return self._all("states")

    def definitions(self) -> dict[str, bytes]:
        return self._all("definitions")

    def _all(self, what: str) -> dict[str, bytes]:
        with self._database.read() as connection:
            return dict(connection.execute(_SQL[what], (self._name,)).fetchall())

    def paused(self) -> frozenset[str]:
        with self._database.read() as connection:
            return frozenset(name for (name,) in connection.execute(_SQL["resting"], (self._name,)))

    def define(self, definitions: Mapping[str, bytes | None]) -> None:
        with self._database.write() as connection:
            for name, definition in definitions.items():
                if definition is None:
                    for what in ("forget_definition", "forget_state", "forget_rest", "forget_history"):
                        connection.execute(_SQL[what], (self._name, name))
                else:
                    connection.execute(_SQL["define"], (self._name, name, definition))
            self._changed(connection)

    def pause(self, names: Sequence[str], *, paused: bool) -> None:
        with self._database.write() as connection:
            connection.executemany(_SQL["rest" if paused else "forget_rest"], [(self._name, name) for name in names])
            self._changed(connection)

    def _changed(self, connection: sqlite3.Connection) -> None:
        connection.execute(_SQL["open"], (self._name,))
        connection.execute(_SQL["changed"], (self._name,))

    def note(self, name: str, note: bytes) -> None:
        with self._database.write() as connection:
            self._note(connection, name, note)

    def _note(self, connection: sqlite3.Connection, name: str, note: bytes) -> None:
        if note:
            connection.execute(_SQL["note"], (self._name, name, note))
            connection.execute(_SQL["trim"], (self._name, name, self._name, name, HISTORY))

    def history(self, name: str) -> list[bytes]:
        with self._database.read() as connection:
            return [note for (note,) in connection.execute(_SQL["history"], (self._name, name))]
