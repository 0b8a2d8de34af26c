"""The embedded broker: one SQLite file, `sqlite:///relative.db` or `sqlite:////absolute.db`.

Durable (what `publish` returned from survives a power cut) and shared by all processes of a machine.  The statements
are in `celery/sql/broker.sql`; every method is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from celery.backends.store import Store, TransactionalStore
from celery.brokers.base import Broker, Capabilities, Consumer, Entry, Kind, QueueStats, Verdict
from celery.brokers.sqlitebus import SQLiteBus
from celery.exceptions import BrokerError
from celery.utils.bell import Belfry, Chime
from celery.utils.clock import SYSTEM, Clock
from celery.utils.routing import ROUTED, routes
from celery.utils.sqlite import Database, open_database, queries
from celery.wire.message import Delivery, Outgoing, Queue, Record, Settlement

LEAST_URGENT = 9
LOOK_AGAIN = 1.0
"""Seconds after which a waiting claim looks by itself, should a bell have failed."""
PROMOTED = 1000
"""Delayed messages made ready at once when they are due."""

_SQL = queries("broker")


class SQLiteBroker(Broker):
    """A broker in one file. Options, also after a `?` in the URL: `timeout` and `lease` (seconds), `max_pages`."""

    can = Capabilities(durable=True, shared=True, transactional=True, max_bytes=999_000_000)

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self._database, self.options = open_database(url, self.options, error=BrokerError)
        self.lease = float(self.options.get("lease", self.lease))
        self.place = f"sqlite://{self._database.path}"
        self._belfry = Belfry(Path(f"{self._database.path}.bells"))
        self._outbox = _Outbox(self._database, self.clock)

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
            connection.executemany(_SQL["declare"], [(queue.name,) for queue in queues])
            connection.executemany(_SQL["bind"], bound)

    def publish(self, messages: Sequence[Outgoing]) -> None:
        if not messages:
            return
        outbox, database = self._outbox, self._database
        with database.step() as connection:
            if len(messages) == 1 and outbox.knows(messages[0]):
                reached = {messages[0].routing_key}
                database.execute(connection, _SQL["insert"], outbox.row(messages[0]))
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
            if not connection.execute(_SQL["late"], (now,)).fetchall():
                return 0
        reached: set[str] = set()
        with self._database.write() as connection:
            late = connection.execute(_SQL["late"], (now,)).fetchall()
            returned = sum(_leave(connection, number, now, reached) for (number,) in late)
        if reached:
            self._belfry.ring("messages", reached)
        return returned

    def _file_new(self) -> None:
        """Bring new messages to their places, for whoever reads those."""
        with self._database.read() as connection:
            new = connection.execute(_SQL["unfiled"]).fetchall()
        if new:
            with self._database.write(durable=False) as connection:
                _file_new(connection)

    def purge(self, queue: str) -> int:
        with self._database.write() as connection:
            _file_new(connection)
            connection.execute(_SQL["note_last"])
            purged = connection.execute(_SQL["purge_messages"], (queue, queue)).rowcount
            connection.execute(_SQL["purge_ready"], (queue,))
            connection.execute(_SQL["purge_delayed"], (queue,))
        return purged

    def stats(self, queues: Sequence[str] | None = None) -> list[QueueStats]:
        now = self.clock.time()
        wanted = None if queues is None else json.dumps(list(queues))
        found = []
        self._file_new()
        with self._database.read() as connection:
            rows = connection.execute(_SQL["stats"], {"now": now, "queues": wanted}).fetchall()
            for name, ready, leased, delayed, dead, consumers, due in rows:
                (since,) = connection.execute(_SQL["oldest"], (name,)).fetchone()
                waiting = [moment for moment in (since, due) if moment is not None]
                oldest = max(0.0, now - min(waiting)) if waiting else None
                found.append(QueueStats(name, ready, leased, delayed, dead, oldest, consumers))
        return found

    def entries(self, kind: Kind, queues: Sequence[str] | None = None, limit: int = 100) -> list[Entry]:
        wanted = None if queues is None else json.dumps(list(queues))
        self._file_new()
        with self._database.read() as connection:
            asked = {"queues": wanted, "now": self.clock.time(), "limit": limit}
            rows = connection.execute(_SQL[f"{kind}_entries"], asked).fetchall()
        return [Entry(*row) for row in rows]

    def remove(self, tags: Sequence[int | str]) -> int:
        with self._database.write() as connection:
            _file_new(connection)
            connection.execute(_SQL["note_last"])
            gone = connection.execute(_SQL["remove"], (_numbers(tags),)).fetchall()
            for tag, queue, rank, position, due in gone:
                if not connection.execute(_SQL["remove_ready"], (queue, rank, position, tag)).rowcount:
                    connection.execute(_SQL["remove_delayed"], (queue, due, tag))
                    connection.execute(_SQL["remove_dead"], (tag,))
        return len(gone)

    def replay(self, tags: Sequence[int | str]) -> int:
        now = self.clock.time()
        reached = set()
        with self._database.write() as connection:
            raised = sorted(connection.execute(_SQL["exhume"], (_numbers(tags),)).fetchall())
            for (tag,) in raised:
                position = _next_position(connection)
                queue, rank = connection.execute(_SQL["replay"], (position, now, tag)).fetchall()[0]
                connection.execute(_SQL["insert_ready"], (queue, rank, position, tag))
                reached.add(queue)
        if reached:
            self._belfry.ring("messages", reached)
        return len(raised)

    def revoke(self, task_ids: Sequence[str], ttl: float) -> None:
        now = self.clock.time()
        with self._database.write() as connection:
            connection.execute(_SQL["forget_revocations"], (now,))
            connection.executemany(_SQL["revoke"], [(task_id, now + ttl) for task_id in task_ids])

    def revoked(self) -> list[str]:
        with self._database.read() as connection:
            return [task_id for (task_id,) in connection.execute(_SQL["revoked"], (self.clock.time(),))]

    def bus(self) -> SQLiteBus:
        return SQLiteBus(self._database, self._belfry, self.clock)


class _Outbox:
    """Puts messages into their queues, on an open transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: set[str] = set()
        self._generation = -1

    def send(self, connection: sqlite3.Connection, messages: Sequence[Outgoing]) -> set[str]:
        """Insert *messages*; the queues they reached."""
        now = self._clock.time()
        rows = []
        for message in messages:
            if message.routing_key and not message.exchange:
                rows.append(_row(message.routing_key, message, now))
            else:
                rows += [_row(queue, message, now) for queue in self._targets(connection, message)]
        if len(rows) == 1:
            connection.execute(_SQL["insert"], rows[0])
        else:
            (last,) = connection.execute(_SQL["last"]).fetchone()
            connection.executemany(_SQL["insert_after"], [(tag, *row) for tag, row in enumerate(rows, last + 1)])
        reached = {row[0] for row in rows}
        self._declare(connection, reached)
        return reached

    def _targets(self, connection: sqlite3.Connection, message: Outgoing) -> Iterable[str]:
        """The queues that a message for an exchange reaches."""
        exchange, key = message.exchange, message.routing_key
        found = routes(connection.execute(_SQL["bindings"], (exchange,)).fetchall(), exchange, key) if exchange else ()
        if not key or not found:
            raise BrokerError(
                f"No queue is bound to exchange {exchange!r} with routing key {key!r}: declare the queue, or correct "
                f"the route of the task."
            )
        return found

    def knows(self, message: Outgoing) -> bool:
        """Whether it goes to one queue, which has been noted: then its row is all there is to be written."""
        return (
            not message.exchange
            and message.routing_key in self._known
            and self._generation == self._database.generation
        )

    def row(self, message: Outgoing) -> tuple[Any, ...]:
        """What `send` inserts for a message that it knows."""
        return _row(message.routing_key, message, self._clock.time())

    def _declare(self, connection: sqlite3.Connection, queues: set[str]) -> None:
        """Note queues that are used for the first time. What is remembered of it holds for one opening of the file."""
        if self._generation != self._database.generation:
            self._generation = self._database.generation
            self._known = set()
        for queue in queues - self._known:
            # One that was there before stays; one that is new may still be undone with this transaction.
            if not connection.execute(_SQL["declare"], (queue,)).rowcount:
                self._known.add(queue)


class SQLiteConsumer(Consumer):
    """A lease over queues of one file."""

    def __init__(
        self,
        database: Database,
        outbox: _Outbox,
        belfry: Belfry,
        chime: Chime,
        queues: Sequence[str],
        name: str,
        store: TransactionalStore | None,
        lease: float,
        clock: Clock,
    ) -> None:
        self.queues = tuple(queues)
        self.name = name
        self._database = database
        self._outbox = outbox
        self._belfry = belfry
        self._chime = chime
        self._store = store
        self._lease = lease
        self._clock = clock
        self._woken = False
        self._more = False
        self._turn = 0
        self._claims = 0
        with database.write(durable=False) as connection:
            connection.executemany(_SQL["declare"], [(queue,) for queue in self.queues])
            self._number = self._register(connection)

    def claim(self, limit: int, timeout: float = 0.0) -> list[Delivery]:
        if self._chime.closed:
            raise BrokerError(f"Consumer {self.name!r} is closed: ask the broker for a new one.")
        end = time.monotonic() + timeout
        while True:
            self._chime.clear()
            claimed = self._claim(limit) if self._more or self._is_ready() else []
            self._more = len(claimed) == limit
            if self._more:
                self._chime.ring()
            left = end - time.monotonic()
            if claimed or left <= 0 or self._woken or self._chime.closed:
                self._woken = False
                return claimed
            due = self.due_in()
            self._chime.wait(min(left, LOOK_AGAIN, left if due is None else due))

    def start(self, deliveries: Sequence[Delivery], records: Sequence[Record] = ()) -> list[Verdict]:
        return self.settle_and_start((), deliveries, records)[1]

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return self.settle_and_start(settlements, ())[0]

    def settle_and_start(
        self, settlements: Sequence[Settlement], deliveries: Sequence[Delivery], records: Sequence[Record] = ()
    ) -> tuple[list[bool], list[Verdict]]:
        if not (settlements or deliveries or records):
            return [], []
        store, reached = self._store, set[str]()
        effects = any(s.records or s.messages or s.arrivals for s in settlements)
        if store is None and (effects or records):
            raise ValueError("This consumer has no store in the same place: store results and send messages first.")
        with self._database.write() as connection:
            applied = self._end_all(connection, settlements, reached) if settlements else []
            if effects and store is not None:
                self._write_effects(connection, store, settlements, applied, reached)
            verdicts = self._start_all(connection, deliveries) if deliveries else []
            if records and store is not None:
                store.write(connection, records, ())
        if reached:
            self._belfry.ring("messages", reached)
        if store is not None and (effects or records):
            store.announce()
        return applied, verdicts

    def _write_effects(
        self,
        connection: sqlite3.Connection,
        store: TransactionalStore,
        settlements: Sequence[Settlement],
        applied: Sequence[bool],
        reached: set[str],
    ) -> None:
        """Send and store what comes of the settlements that were applied."""
        ended = [settlement for settlement, held in zip(settlements, applied, strict=True) if held]
        messages = [message for settlement in ended for message in settlement.messages]
        records = [record for settlement in ended for record in settlement.records]
        arrivals = [arrival for settlement in ended for arrival in settlement.arrivals]
        if records or arrivals:
            messages += store.write(connection, records, arrivals)
        if messages:
            reached |= self._outbox.send(connection, messages)

    def _start_all(self, connection: sqlite3.Connection, deliveries: Sequence[Delivery]) -> list[Verdict]:
        """Mark as started what is still held and not revoked."""
        revoked: set[int] = set()
        if connection.execute(_SQL["any_revocation"]).fetchall():
            wanted = _numbers([delivery.tag for delivery in deliveries])
            rows = connection.execute(_SQL["revoked_among"], (wanted, self._clock.time())).fetchall()
            revoked = {tag for (tag,) in rows}
        runnable = [delivery for delivery in deliveries if delivery.tag not in revoked] if revoked else deliveries
        started = sum([connection.execute(_SQL["start"], run).rowcount for run in _runs(runnable)])
        if not revoked and started == len(deliveries):
            return ["ok"] * started
        held = set(
            connection.execute(_SQL["leases"], (_numbers([delivery.tag for delivery in deliveries]),)).fetchall()
        )
        return [
            "lost" if (delivery.tag, delivery.fence) not in held else "revoked" if delivery.tag in revoked else "ok"
            for delivery in deliveries
        ]

    def release(self, deliveries: Sequence[Delivery]) -> None:
        with self._database.write() as connection:
            for delivery in deliveries:
                if _end(connection, delivery):
                    connection.execute(_SQL["back_in_place"], (delivery.tag,))
        if deliveries:
            self._belfry.ring("messages", {delivery.queue for delivery in deliveries})

    def renew(self) -> bool:
        deadline = self._clock.time() + self._lease
        with self._database.write(durable=False) as connection:
            return connection.execute(_SQL["renew"], (deadline, self._number)).rowcount > 0

    def wake(self) -> None:
        self._woken = True
        self._chime.ring()

    def fileno(self) -> int:
        return self._chime.fileno()

    def due_in(self) -> float | None:
        now = self._clock.time()
        with self._database.read() as connection:
            rows = [connection.execute(_SQL["next_due"], (queue,)).fetchone() for queue in self.queues]
        dues = [row[0] for row in rows if row is not None]
        return max(0.0, min(dues) - now) if dues else None

    def close(self) -> None:
        if self._chime.closed:
            return
        self._chime.close()
        reached: set[str] = set()
        with self._database.write() as connection:
            _leave(connection, self._number, self._clock.time(), reached)
        if reached:
            self._belfry.ring("messages", reached)

    def _register(self, connection: sqlite3.Connection) -> int:
        row = (self.name, json.dumps(self.queues), self._clock.time() + self._lease)
        return connection.execute(_SQL["register"], row).lastrowid or 0

    def _is_ready(self) -> bool:
        """Look without keeping writers out: whoever is woken in vain leaves no trace."""
        now = self._clock.time()
        with self._database.read() as connection:
            swept = connection.execute(_SQL["registered"], (self._number,)).fetchone() is None
            return (
                swept
                or connection.execute(_SQL["unfiled"]).fetchone() is not None
                or any(
                    connection.execute(_SQL["any_ready"], (queue,)).fetchone() is not None
                    or connection.execute(_SQL["any_due"], (queue, now)).fetchone() is not None
                    for queue in self.queues
                )
            )

    def _claim(self, limit: int) -> list[Delivery]:
        now = self._clock.time()
        # Not durable: a power cut that undoes a claim leaves the messages ready. Their start is durable.
        with self._database.write(durable=False) as connection:
            if connection.execute(_SQL["registered"], (self._number,)).fetchone() is None:
                self._number = self._register(connection)
            _file_new(connection)
            self._claims += 1
            fence = self._number << 32 | self._claims
            if len(self.queues) == 1:
                return _take(connection, self.queues[0], limit, now, fence)
            claimed: list[Delivery] = []
            active = deque(self.queues[self._turn :] + self.queues[: self._turn])
            while active and len(claimed) < limit:
                queue = active.popleft()
                share = max(1, (limit - len(claimed)) // (len(active) + 1))
                found = _take(connection, queue, share, now, fence)
                claimed += found
                if found:
                    self._turn = (self.queues.index(queue) + 1) % len(self.queues)
                if len(found) == share:
                    active.append(queue)
            return claimed

    def _end_all(
        self, connection: sqlite3.Connection, settlements: Sequence[Settlement], reached: set[str]
    ) -> list[bool]:
        """End the leases and what was leased; False where the lease was lost."""
        connection.execute(_SQL["note_last"])
        if all(settlement.verb == "done" for settlement in settlements):
            # Nearly always: neighbours that all end well, and nothing was lost.
            connection.execute("SAVEPOINT ending")
            runs = _runs([settlement.delivery for settlement in settlements])
            if sum(connection.execute(_SQL["end_leases"], run).rowcount for run in runs) == len(settlements):
                connection.executemany(_SQL["delete_messages"], [run[:2] for run in runs])
                return [True] * len(settlements)
            connection.execute("ROLLBACK TO ending")
        now = self._clock.time()
        return [self._end(connection, settlement, now, reached) for settlement in settlements]

    def _end(self, connection: sqlite3.Connection, settlement: Settlement, now: float, reached: set[str]) -> bool:
        delivery = settlement.delivery
        lease = _end(connection, delivery)
        if not lease:
            return False
        ((started,),) = lease
        if settlement.verb == "done":
            connection.execute(_SQL["delete_messages"], (delivery.tag, delivery.tag))
        elif settlement.verb == "requeue":
            due = now + settlement.delay if settlement.delay > 0 else None
            position = _next_position(connection)
            row = (position, due, now, started, started, delivery.tag)
            queue, rank = connection.execute(_SQL["requeue"], row).fetchall()[0]
            if due is None:
                connection.execute(_SQL["insert_ready"], (queue, rank, position, delivery.tag))
            else:
                connection.execute(_SQL["insert_delayed"], (queue, due, delivery.tag))
            reached.add(queue)
        else:
            connection.execute(_SQL["count_execution"], (started, started, now, delivery.tag))
            connection.execute(_SQL["bury"], (delivery.tag, now, settlement.reason))
        return True


def _row(queue: str, message: Outgoing, now: float) -> tuple[Any, ...]:
    """(queue, rank, due, since, task id, envelope) of *message* in *queue*."""
    rank, priority, due = LEAST_URGENT, message.priority, message.due
    if message.inner:
        rank = -1
    elif priority:
        rank -= min(max(priority, 0), LEAST_URGENT)
    return queue, rank, due if due is not None and due > now else None, now, message.task_id, message.envelope


def _take(connection: sqlite3.Connection, queue: str, limit: int, now: float, fence: int) -> list[Delivery]:
    """Lease up to *limit* messages from the front of *queue*."""
    if connection.execute(_SQL["any_due"], (queue, now)).fetchone() is not None:
        promoted = (queue, now, max(limit, PROMOTED))
        connection.execute(_SQL["promote"], promoted)
        connection.execute(_SQL["promoted"], (queue, *promoted))
    rows = connection.execute(_SQL["front"], (now, queue, limit)).fetchall()
    if not rows:
        return []
    last = rows[-1][:3]
    connection.execute(_SQL["lease"], (fence, now, queue, *last))
    connection.execute(_SQL["leave_ready"], (queue, *last))
    return [
        Delivery(tag, queue, envelope, fence, deliveries, interrupted == 1, deliveries > 0, revoked == 1)
        for _, _, tag, envelope, deliveries, interrupted, revoked in rows
    ]


def _leave(connection: sqlite3.Connection, number: int, now: float, reached: set[str]) -> int:
    """Return what consumer *number* holds, and forget the consumer."""
    fences = (number << 32, (number << 32) + 0xFFFFFFFF)
    reached.update(queue for (queue,) in connection.execute(_SQL["queues_of"], fences).fetchall())
    connection.execute(_SQL["interrupt"], (now, *fences))
    connection.execute(_SQL["give_back"], fences)
    returned = connection.execute(_SQL["drop_leases"], fences).rowcount
    connection.execute(_SQL["unregister"], (number,))
    return returned


def _end(connection: sqlite3.Connection, delivery: Delivery) -> list[tuple[int]]:
    """End one lease: [(whether it was started,)], or nothing if it was lost."""
    return connection.execute(_SQL["end_lease"], (delivery.tag, delivery.fence)).fetchall()


def _file_new(connection: sqlite3.Connection) -> None:
    """Give the messages that were sent since the last time their rows in `ready` and `delayed`."""
    for (last,) in connection.execute(_SQL["unfiled"]).fetchall():
        connection.execute(_SQL["file_ready"])
        connection.execute(_SQL["file_delayed"])
        connection.execute(_SQL["filed"], (last,))


def _next_position(connection: sqlite3.Connection) -> int:
    """A place behind everything that is there."""
    (position,) = connection.execute(_SQL["next_position"]).fetchall()[0]
    return int(position)


def _runs(deliveries: Sequence[Delivery]) -> list[tuple[int, int, int]]:
    """*deliveries* as (first tag, last tag, fence) of neighbours: most of a batch was claimed in one piece."""
    runs: list[tuple[int, int, int]] = []
    first = last = fence = -1
    for tag, its_fence in sorted([(int(delivery.tag), delivery.fence) for delivery in deliveries]):
        if tag == last + 1 and its_fence == fence:
            last = tag
            continue
        if fence != -1:
            runs.append((first, last, fence))
        first = last = tag
        fence = its_fence
    if fence != -1:
        runs.append((first, last, fence))
    return runs


def _numbers(tags: Sequence[int | str]) -> str:
    """*tags* for `json_each`; what is no tag of ours is left out."""
    return json.dumps([int(tag) for tag in tags if str(tag).isdecimal()])
