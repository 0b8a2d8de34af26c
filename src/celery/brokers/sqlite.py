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
from celery.brokers.answers import OnReply
from celery.brokers.base import MOST_REVOKED, Broker, Capabilities, Entry, Kind, QueueStats
from celery.brokers.replies import QueuedReplies, consumed_replies
from celery.exceptions import BrokerError
from celery.sqlite.book import SQLiteBook
from celery.sqlite.bus import SQLiteBus
from celery.sqlite.consumer import SQLiteConsumer
from celery.sqlite.leases import leave
from celery.sqlite.limits import SQL as LIMITS
from celery.sqlite.limits import Limits, unpark
from celery.sqlite.listeners import any_unheard, empty, forget_unheard, own_bindings
from celery.sqlite.moves import SQL, file_new, next_position, numbers
from celery.sqlite.outbox import Outbox
from celery.utils.bell import Belfry
from celery.utils.clock import SYSTEM, Clock
from celery.utils.routing import FLEETING, ROUTED, Binding
from celery.utils.sqlite import open_database
from celery.utils.turns import Turns
from celery.wire.message import Outgoing, Queue, Unique


class SQLiteBroker(Broker):
    """A broker in one file. Options, also after a `?` in the URL: `timeout` and `lease` (seconds), `max_pages`."""

    can = Capabilities(
        durable=True,
        shared=True,
        transactional=True,
        max_bytes=999_000_000,
        limits=True,
        unique=True,
        pauses=True,
        weights=True,
        withdraws=True,
    )

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self._database, self.options = open_database(url, self.options, error=BrokerError)
        self.lease = float(self.options.get("lease", self.lease))
        self.place = f"sqlite://{self._database.path}"
        self._belfry = Belfry(Path(f"{self._database.path}.bells"))
        self._outbox = Outbox(self._database, self.clock, self._may_be_unheard)

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
            (
                queue.exchange.name,
                FLEETING if queue.fleeting else queue.exchange.type,
                queue.routing_key,
                queue.name,
            )
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

    def consumer(
        self,
        queues: Sequence[str],
        *,
        name: str,
        store: Store | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> SQLiteConsumer:
        fused = store if isinstance(store, TransactionalStore) and self.fuses(store) else None
        own = own_bindings(queue for queue in self.plan() if queue.name in queues)
        return self._listen(queues, name, fused, weights, own)

    def _listen(
        self,
        queues: Sequence[str],
        name: str,
        store: TransactionalStore | None,
        weights: Mapping[str, int] | None,
        own: Sequence[Binding],
    ) -> SQLiteConsumer:
        self.connect()
        self._database.expect_batches()
        chime = self._belfry.listen("messages", queues, changed=self._database.changes)
        turns = Turns(queues, weights, strict=self.options.get("queue_order_strategy") == "priority")
        return SQLiteConsumer(
            self._database, self._outbox, self._belfry, chime, queues, name, store, self.lease, self.clock, turns, own
        )

    def fuses(self, store: Store) -> bool:
        return isinstance(store, TransactionalStore) and store.place == self.place

    def sweep(self) -> int:
        now = self.clock.time()
        with self._database.read() as connection:
            late = connection.execute(SQL["late"], (now,)).fetchall()
            lapsed = connection.execute(LIMITS["any_lapsed"], (now,)).fetchall()
            unheard = any_unheard(connection, now)
        if not (late or lapsed or unheard):
            return 0
        reached: set[str] = set()
        with self._database.write() as connection:
            forget_unheard(connection, now, reached)
            late = connection.execute(SQL["late"], (now,)).fetchall()
            returned = sum(leave(connection, number, now, reached) for (number,) in late)
            Limits(connection, now, reached).lapse()
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
        reached: set[str] = set()
        with self._database.write() as connection:
            purged = empty(connection, queue, self.clock.time(), reached)
        if reached:
            self._belfry.ring("messages", reached)
        return purged

    def stats(self, queues: Sequence[str] | None = None) -> list[QueueStats]:
        now = self.clock.time()
        wanted = None if queues is None else json.dumps(list(queues))
        found = []
        self._file_new()
        with self._database.read() as connection:
            rows = connection.execute(SQL["stats"], {"now": now, "queues": wanted}).fetchall()
            for name, ready, leased, delayed, dead, consumers, due, parked, paused in rows:
                (since,) = connection.execute(SQL["oldest"], (name,)).fetchone()
                waiting = [moment for moment in (since, due) if moment is not None]
                oldest = max(0.0, now - min(waiting)) if waiting else None
                found.append(QueueStats(name, ready, leased, delayed, dead, oldest, consumers, parked, bool(paused)))
        return found

    def entries(self, kind: Kind, queues: Sequence[str] | None = None, limit: int = 100) -> list[Entry]:
        wanted = None if queues is None else json.dumps(list(queues))
        self._file_new()
        with self._database.read() as connection:
            asked = {"queues": wanted, "now": self.clock.time(), "limit": limit}
            rows = connection.execute(SQL[f"{kind}_entries"], asked).fetchall()
        return [Entry(*row) for row in rows]

    def remove(self, tags: Sequence[int | str]) -> int:
        reached: set[str] = set()
        with self._database.write() as connection:
            file_new(connection)
            connection.execute(SQL["note_last"])
            gone = connection.execute(SQL["remove"], (numbers(tags),)).fetchall()
            for tag, queue, rank, position, due, task_id in gone:
                connection.execute(LIMITS["free_uniques_of"], (task_id,))
                if not connection.execute(SQL["remove_ready"], (queue, rank, position, tag)).rowcount:
                    connection.execute(SQL["remove_delayed"], (queue, due, tag))
                    connection.execute(SQL["remove_dead"], (tag,))
                    unpark(connection, task_id, tag)
            Limits(connection, self.clock.time(), reached).free([row[0] for row in gone])
        if reached:
            self._belfry.ring("messages", reached)
        return len(gone)

    def replay(self, tags: Sequence[int | str]) -> int:
        now = self.clock.time()
        reached = set()
        with self._database.write() as connection:
            raised = sorted(connection.execute(SQL["exhume"], {"tags": numbers(tags), "now": now}).fetchall())
            for (tag,) in raised:
                position = next_position(connection)
                queue, rank = connection.execute(SQL["replay"], (position, now, tag)).fetchall()[0]
                connection.execute(SQL["insert_ready"], (queue, rank, position, tag))
                reached.add(queue)
        if reached:
            self._belfry.ring("messages", reached)
        return len(raised)

    def revoke(self, task_ids: Sequence[str], ttl: float, most: int = MOST_REVOKED) -> None:
        now = self.clock.time()
        with self._database.write() as connection:
            connection.execute(SQL["forget_revocations"], (now,))
            connection.executemany(SQL["revoke"], [(task_id, now + ttl) for task_id in task_ids])
            if connection.execute(SQL["too_many_revocations"], (most,)).fetchone() == (1,):
                connection.execute(SQL["limit_revocations"], (most,))

    def revoked(self) -> list[str]:
        with self._database.read() as connection:
            return [task_id for (task_id,) in connection.execute(SQL["revoked"], (self.clock.time(),))]

    def withdraw(self, task_ids: Sequence[str]) -> list[Entry]:
        found: list[Entry] = []
        with self._database.write() as connection:
            file_new(connection)
            for task_id in task_ids:
                places = unpark(connection, task_id)
                for queue, due, rank, position, tag in connection.execute(
                    LIMITS["find_delayed"], (task_id,)
                ).fetchall():
                    connection.execute(SQL["remove_delayed"], (queue, due, tag))
                    places.append((queue, rank, position, tag))
                for place in places:
                    connection.execute(LIMITS["not_due"], (place[3],))
                    connection.execute(SQL["insert_ready"], place)
                    found.append(Entry(*connection.execute(LIMITS["entry"], (place[3],)).fetchone()))
        if found:
            self._belfry.ring("messages", {entry.queue for entry in found})
        return found

    def revoke_stamps(self, stamps: Mapping[str, Sequence[str]], ttl: float, most: int = MOST_REVOKED) -> None:
        now = self.clock.time()
        rows = [(name, value, now + ttl) for name, values in stamps.items() for value in values]
        with self._database.write() as connection:
            connection.execute(LIMITS["forget_stamps"], (now,))
            connection.executemany(LIMITS["revoke_stamp"], rows)
            connection.execute(LIMITS["limit_stamps"], (most,))

    def revoked_stamps(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with self._database.read() as connection:
            for name, value in connection.execute(LIMITS["revoked_stamps"], (self.clock.time(),)):
                found.setdefault(name, []).append(value)
        return found

    def publish_once(self, message: Outgoing, unique: Unique, instead_of: str = "") -> str:
        now = self.clock.time()
        with self._database.write() as connection:
            row = connection.execute(LIMITS["unique_holder"], (unique.key, now)).fetchone()
            if row is not None and row[0] not in {message.task_id, instead_of}:
                return str(row[0])
            connection.execute(LIMITS["forget_uniques"], (now,))
            connection.execute(LIMITS["hold_unique"], (unique.key, message.task_id, unique.until))
            reached = self._outbox.send(connection, (message,))
        self._belfry.ring("messages", reached)
        return message.task_id

    def pause(self, queues: Sequence[str]) -> None:
        with self._database.write() as connection:
            connection.executemany(LIMITS["pause"], [(queue,) for queue in queues])

    def resume(self, queues: Sequence[str]) -> None:
        reached = set(queues)
        with self._database.write() as connection:
            connection.executemany(LIMITS["resume"], [(queue,) for queue in queues])
            Limits(connection, self.clock.time(), reached).resume(queues)
        self._belfry.ring("messages", reached)

    def paused(self) -> list[str]:
        with self._database.read() as connection:
            return [queue for (queue,) in connection.execute(LIMITS["paused"])]

    def book(self, name: str) -> SQLiteBook:
        return SQLiteBook(self._database, name, self.clock, self._outbox, self._belfry)

    def replies(self, on_reply: OnReply, expires: float | None) -> QueuedReplies:
        def consume(name: str) -> SQLiteConsumer:
            return self._listen([name], "replies", None, None, [("", FLEETING, name, name)])

        return consumed_replies(consume, self.lease, on_reply)

    def bus(self) -> SQLiteBus:
        return SQLiteBus(self._database, self._belfry, self.clock)
