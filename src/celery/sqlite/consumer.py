"""A lease over queues of one file."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import deque
from collections.abc import Sequence

from celery.backends.store import TransactionalStore
from celery.brokers.base import Consumer, Verdict
from celery.exceptions import BrokerError
from celery.sqlite.moves import SQL, end_lease, file_new, leave, next_position, numbers
from celery.sqlite.outbox import Outbox
from celery.utils.bell import Belfry, Chime
from celery.utils.clock import Clock
from celery.utils.sqlite import Database
from celery.wire.message import Delivery, Record, Settlement

LOOK_AGAIN = 1.0
"""Seconds after which a waiting claim looks by itself, should a bell have failed."""
PROMOTED = 1000
"""Delayed messages made ready at once when they are due."""


class SQLiteConsumer(Consumer):
    """A lease over queues of one file."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
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
            connection.executemany(SQL["declare"], [(queue,) for queue in self.queues])
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
        if connection.execute(SQL["any_revocation"]).fetchall():
            wanted = numbers([delivery.tag for delivery in deliveries])
            rows = connection.execute(SQL["revoked_among"], (wanted, self._clock.time())).fetchall()
            revoked = {tag for (tag,) in rows}
        runnable = [delivery for delivery in deliveries if delivery.tag not in revoked] if revoked else deliveries
        started = sum([connection.execute(SQL["start"], run).rowcount for run in _runs(runnable)])
        if not revoked and started == len(deliveries):
            return ["ok"] * started
        held = set(connection.execute(SQL["leases"], (numbers([delivery.tag for delivery in deliveries]),)).fetchall())
        return [
            "lost" if (delivery.tag, delivery.fence) not in held else "revoked" if delivery.tag in revoked else "ok"
            for delivery in deliveries
        ]

    def release(self, deliveries: Sequence[Delivery]) -> None:
        with self._database.write() as connection:
            for delivery in deliveries:
                if end_lease(connection, delivery):
                    connection.execute(SQL["back_in_place"], (delivery.tag,))
        if deliveries:
            self._belfry.ring("messages", {delivery.queue for delivery in deliveries})

    def renew(self) -> bool:
        deadline = self._clock.time() + self._lease
        with self._database.write(durable=False) as connection:
            return connection.execute(SQL["renew"], (deadline, self._number)).rowcount > 0

    def wake(self) -> None:
        self._woken = True
        self._chime.ring()

    def fileno(self) -> int:
        return self._chime.fileno()

    def due_in(self) -> float | None:
        now = self._clock.time()
        with self._database.read() as connection:
            rows = [connection.execute(SQL["next_due"], (queue,)).fetchone() for queue in self.queues]
        dues = [row[0] for row in rows if row is not None]
        return max(0.0, min(dues) - now) if dues else None

    def close(self) -> None:
        if self._chime.closed:
            return
        self._chime.close()
        reached: set[str] = set()
        with self._database.write() as connection:
            leave(connection, self._number, self._clock.time(), reached)
        if reached:
            self._belfry.ring("messages", reached)

    def _register(self, connection: sqlite3.Connection) -> int:
        row = (self.name, json.dumps(self.queues), self._clock.time() + self._lease)
        return connection.execute(SQL["register"], row).lastrowid or 0

    def _is_ready(self) -> bool:
        """Look without keeping writers out: whoever is woken in vain leaves no trace."""
        now = self._clock.time()
        with self._database.read() as connection:
            swept = connection.execute(SQL["registered"], (self._number,)).fetchone() is None
            return (
                swept
                or connection.execute(SQL["unfiled"]).fetchone() is not None
                or any(
                    connection.execute(SQL["any_ready"], (queue,)).fetchone() is not None
                    or connection.execute(SQL["any_due"], (queue, now)).fetchone() is not None
                    for queue in self.queues
                )
            )

    def _claim(self, limit: int) -> list[Delivery]:
        now = self._clock.time()
        # Not durable: a power cut that undoes a claim leaves the messages ready. Their start is durable.
        with self._database.write(durable=False) as connection:
            if connection.execute(SQL["registered"], (self._number,)).fetchone() is None:
                self._number = self._register(connection)
            file_new(connection)
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
        connection.execute(SQL["note_last"])
        if all(settlement.verb == "done" for settlement in settlements):
            # Nearly always: neighbours that all end well, and nothing was lost.
            connection.execute("SAVEPOINT ending")
            runs = _runs([settlement.delivery for settlement in settlements])
            if sum(connection.execute(SQL["end_leases"], run).rowcount for run in runs) == len(settlements):
                connection.executemany(SQL["delete_messages"], [run[:2] for run in runs])
                return [True] * len(settlements)
            connection.execute("ROLLBACK TO ending")
        now = self._clock.time()
        return [self._end(connection, settlement, now, reached) for settlement in settlements]

    def _end(self, connection: sqlite3.Connection, settlement: Settlement, now: float, reached: set[str]) -> bool:
        delivery = settlement.delivery
        lease = end_lease(connection, delivery)
        if not lease:
            return False
        ((started,),) = lease
        if settlement.verb == "done":
            connection.execute(SQL["delete_messages"], (delivery.tag, delivery.tag))
        elif settlement.verb == "requeue":
            due = now + settlement.delay if settlement.delay > 0 else None
            position = next_position(connection)
            row = (position, due, now, started, started, delivery.tag)
            queue, rank = connection.execute(SQL["requeue"], row).fetchall()[0]
            if due is None:
                connection.execute(SQL["insert_ready"], (queue, rank, position, delivery.tag))
            else:
                connection.execute(SQL["insert_delayed"], (queue, due, delivery.tag))
            reached.add(queue)
        else:
            connection.execute(SQL["count_execution"], (started, started, now, delivery.tag))
            connection.execute(SQL["bury"], (delivery.tag, now, settlement.reason))
        return True


def _take(connection: sqlite3.Connection, queue: str, limit: int, now: float, fence: int) -> list[Delivery]:
    """Lease up to *limit* messages from the front of *queue*."""
    if connection.execute(SQL["any_due"], (queue, now)).fetchone() is not None:
        promoted = (queue, now, max(limit, PROMOTED))
        connection.execute(SQL["promote"], promoted)
        connection.execute(SQL["promoted"], (queue, *promoted))
    rows = connection.execute(SQL["front"], (now, queue, limit)).fetchall()
    if not rows:
        return []
    last = rows[-1][:3]
    connection.execute(SQL["lease"], (fence, now, queue, *last))
    connection.execute(SQL["leave_ready"], (queue, *last))
    return [
        Delivery(tag, queue, envelope, fence, deliveries, interrupted == 1, deliveries > 0, revoked == 1)
        for _, _, tag, envelope, deliveries, interrupted, revoked in rows
    ]


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
