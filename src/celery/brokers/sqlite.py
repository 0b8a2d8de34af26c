"""The embedded broker: one SQLite file, `sqlite:///relative.db` or `sqlite:////absolute.db`.

Durable (what `publish` returned from survives a power cut) and shared by all processes of a machine.  The statements
are in `celery/sql/broker.sql`; every method is one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from celery.backends.store import Store, TransactionalStore
from celery.brokers.base import Broker, Capabilities, Entry, Kind, QueueStats
from celery.exceptions import BrokerError
from celery.sqlite.bus import SQLiteBus
from celery.sqlite.consumer import SQLiteConsumer
from celery.sqlite.moves import SQL, file_new, leave, next_position, numbers
from celery.sqlite.outbox import Outbox
from celery.utils.bell import Belfry
from celery.utils.clock import SYSTEM, Clock
from celery.utils.routing import ROUTED
from celery.utils.sqlite import open_database
from celery.wire.message import Outgoing, Queue


class SQLiteBroker(Broker):
    """A broker in one file. Options, also after a `?` in the URL: `timeout` and `lease` (seconds), `max_pages`."""

    can = Capabilities(durable=True, shared=True, transactional=True, max_bytes=999_000_000)

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self._database, self.options = open_database(url, self.options, error=BrokerError)
        self.lease = float(self.options.get("lease", self.lease))
        self.place = f"sqlite://{self._database.path}"
        self._belfry = Belfry(Path(f"{self._database.path}.bells"))
        self._outbox = Outbox(self._database, self.clock)

    def connect(self) -> None:
        with self._database.read():
            return

    def close(self) -> None:
        self._database.close()
        self._belfry.close()

    def declare(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            if queue.exchange.name and queue.exchange.type not in ROUTED:
                raise BrokerError(
                    f"Exchange {queue.exchange.name!r} has type {queue.exchange.type!r}, which sqlite:// does not "
                    f"route: use direct, topic or fanout."
                )
        bound = [
            (queue.exchange.name, queue.exchange.type, queue.routing_key, queue.name)
            for queue in queues
            if queue.exchange.name
        ]
        with self._database.write() as connection:
            connection.executemany(SQL["declare"], [(queue.name,) for queue in queues])
            connection.executemany(SQL["bind"], bound)

    def publish(self, messages: Sequence[Outgoing]) -> None:
        if not messages:
            return
        outbox, database = self._outbox, self._database
        with database.step() as connection:
            if len(messages) == 1 and outbox.knows(messages[0]):
                reached = {messages[0].routing_key}
                database.execute(connection, SQL["insert"], outbox.row(messages[0]))
            else:
                database.begin(connection)
                reached = outbox.send(connection, messages)
        self._belfry.ring("messages", reached)

    def consumer(self, queues: Sequence[str], *, name: str, store: Store | None = None) -> SQLiteConsumer:
        fused = store if isinstance(store, TransactionalStore) and self.fuses(store) else None
        self.connect()
        self._database.expect_batches()
        chime = self._belfry.listen("messages", queues, changed=self._database.changes)
        return SQLiteConsumer(
            self._database, self._outbox, self._belfry, chime, queues, name, fused, self.lease, self.clock
        )

    def fuses(self, store: Store) -> bool:
        return isinstance(store, TransactionalStore) and store.place == self.place

    def sweep(self) -> int:
        now = self.clock.time()
        with self._database.read() as connection:
            if not connection.execute(SQL["late"], (now,)).fetchall():
                return 0
        reached: set[str] = set()
        with self._database.write() as connection:
            late = connection.execute(SQL["late"], (now,)).fetchall()
            returned = sum(leave(connection, number, now, reached) for (number,) in late)
        if reached:
            self._belfry.ring("messages", reached)
        return returned

    def _file_new(self) -> None:
        """Bring new messages to their places, for whoever reads those."""
        with self._database.read() as connection:
            new = connection.execute(SQL["unfiled"]).fetchall()
        if new:
            with self._database.write(durable=False) as connection:
                file_new(connection)

    def purge(self, queue: str) -> int:
        with self._database.write() as connection:
            file_new(connection)
            connection.execute(SQL["note_last"])
            purged = connection.execute(SQL["purge_messages"], (queue, queue)).rowcount
            connection.execute(SQL["purge_ready"], (queue,))
            connection.execute(SQL["purge_delayed"], (queue,))
        return purged

    def stats(self, queues: Sequence[str] | None = None) -> list[QueueStats]:
        now = self.clock.time()
        wanted = None if queues is None else json.dumps(list(queues))
        found = []
        self._file_new()
        with self._database.read() as connection:
            rows = connection.execute(SQL["stats"], {"now": now, "queues": wanted}).fetchall()
            for name, ready, leased, delayed, dead, consumers, due in rows:
                (since,) = connection.execute(SQL["oldest"], (name,)).fetchone()
                waiting = [moment for moment in (since, due) if moment is not None]
                oldest = max(0.0, now - min(waiting)) if waiting else None
                found.append(QueueStats(name, ready, leased, delayed, dead, oldest, consumers))
        return found

    def entries(self, kind: Kind, queues: Sequence[str] | None = None, limit: int = 100) -> list[Entry]:
        wanted = None if queues is None else json.dumps(list(queues))
        self._file_new()
        with self._database.read() as connection:
            asked = {"queues": wanted, "now": self.clock.time(), "limit": limit}
            rows = connection.execute(SQL[f"{kind}_entries"], asked).fetchall()
        return [Entry(*row) for row in rows]

    def remove(self, tags: Sequence[int | str]) -> int:
        with self._database.write() as connection:
            file_new(connection)
            connection.execute(SQL["note_last"])
            gone = connection.execute(SQL["remove"], (numbers(tags),)).fetchall()
            for tag, queue, rank, position, due in gone:
                if not connection.execute(SQL["remove_ready"], (queue, rank, position, tag)).rowcount:
                    connection.execute(SQL["remove_delayed"], (queue, due, tag))
                    connection.execute(SQL["remove_dead"], (tag,))
        return len(gone)

    def replay(self, tags: Sequence[int | str]) -> int:
        now = self.clock.time()
        reached = set()
        with self._database.write() as connection:
            raised = sorted(connection.execute(SQL["exhume"], (numbers(tags),)).fetchall())
            for (tag,) in raised:
                position = next_position(connection)
                queue, rank = connection.execute(SQL["replay"], (position, now, tag)).fetchall()[0]
                connection.execute(SQL["insert_ready"], (queue, rank, position, tag))
                reached.add(queue)
        if reached:
            self._belfry.ring("messages", reached)
        return len(raised)

    def revoke(self, task_ids: Sequence[str], ttl: float) -> None:
        now = self.clock.time()
        with self._database.write() as connection:
            connection.execute(SQL["forget_revocations"], (now,))
            connection.executemany(SQL["revoke"], [(task_id, now + ttl) for task_id in task_ids])

    def revoked(self) -> list[str]:
        with self._database.read() as connection:
            return [task_id for (task_id,) in connection.execute(SQL["revoked"], (self.clock.time(),))]

    def bus(self) -> SQLiteBus:
        return SQLiteBus(self._database, self._belfry, self.clock)
