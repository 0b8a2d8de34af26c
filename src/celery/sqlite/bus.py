"""The bus of the embedded broker: payloads pass through a table of the same SQLite file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from celery.brokers.base import NO_SLOT, Bus, Slot, Subscription
from celery.utils.bell import Belfry, Chime
from celery.utils.clock import Clock
from celery.utils.sqlite import Database, queries
from celery.wire.protocol import encode_plain

LOOK_AGAIN = 1.0
"""Seconds after which a waiting subscription looks by itself, should a bell have failed."""
LIMIT = 500
"""Messages read at once."""
BUS_KEPT = 60.0
"""Seconds a message is kept for a subscriber that is busy."""

_SQL = queries("bus")


class SQLiteBus(Bus):
    """Payloads pass through a table and are forgotten after a minute; when nobody listens they are not written.

    Whoever listens wakes up for the exchanges of its topics only: events, of which there are many, do not disturb those
    who wait for commands.
    """

    def __init__(self, database: Database, belfry: Belfry, clock: Clock) -> None:
        self._database = database
        self._belfry = belfry
        self._clock = clock

    def publish(self, topic: str, payload: bytes) -> None:
        exchange = {_exchange(topic)}
        if not self._belfry.hears("bus", exchange):
            return
        now = self._clock.time()
        with self._database.write(durable=False) as connection:
            oldest = connection.execute(_SQL["oldest"]).fetchone()
            if oldest is not None and oldest[0] <= now:
                connection.execute(_SQL["forget"], (now,))
            connection.execute(_SQL["publish"], (topic, payload, now + BUS_KEPT))
        self._belfry.ring("bus", exchange)

    def hears(self, topic: str) -> bool:
        return self._belfry.hears("bus", {_exchange(topic)})

    def subscribe(self, topics: Sequence[str], slot: Slot = NO_SLOT) -> SQLiteSubscription:
        with self._database.read():
            pass  # the file is there, and with it the folder for the bells
        exchanges = {_exchange(topic) for topic in topics}
        heard = () if any("*" in exchange for exchange in exchanges) else exchanges
        chime = self._belfry.listen("bus", heard, changed=self._database.changes)
        return SQLiteSubscription(self._database, chime, topics)


class SQLiteSubscription(Subscription):
    """Reads the table of the bus from where it was at the start."""

    def __init__(self, database: Database, chime: Chime, topics: Sequence[str]) -> None:
        self._database = database
        self._chime = chime
        beginnings = [topic[:-1] for topic in topics if topic.endswith("*")]
        self._wanted = {"names": encode_plain(list(topics)).decode(), "beginnings": encode_plain(beginnings).decode()}
        self._arrived: deque[tuple[str, bytes]] = deque()
        with database.read() as connection:
            row = connection.execute(_SQL["last"]).fetchone()
        self._last = 0 if row is None else row[0]

    def get(self, timeout: float | None = None) -> tuple[str, bytes] | None:
        end = None if timeout is None else time.monotonic() + timeout
        while not self._chime.closed:
            self._chime.clear()
            if not self._arrived:
                self._read()
            if self._arrived:
                self._chime.ring()
                return self._arrived.popleft()
            left = LOOK_AGAIN if end is None else end - time.monotonic()
            if left <= 0:
                return None
            self._chime.wait(min(left, LOOK_AGAIN))
        return None

    def fileno(self) -> int:
        return self._chime.fileno()

    def close(self) -> None:
        self._chime.close()

    def _read(self) -> None:
        with self._database.read() as connection:
            last = connection.execute(_SQL["last"]).fetchone()
            rows = connection.execute(_SQL["read"], {"after": self._last, "limit": LIMIT, **self._wanted}).fetchall()
        ids = [self._last, *(row[0] for row in rows)]
        # What is between the last of these and the last of all was for others.
        self._last = ids[-1] if last is None or len(rows) == LIMIT else max(ids[-1], last[0])
        self._arrived.extend((topic, payload) for _, topic, payload in rows)


def _exchange(topic: str) -> str:
    """The part of a topic before its routing key."""
    return topic.partition("/")[0]
