"""A lease over queues of one file."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from celery.backends.store import TransactionalStore
from celery.brokers.base import NOTHING, Consumer, Needs, Verdict
from celery.exceptions import BrokerError
from celery.sqlite.leases import end_lease, leave
from celery.sqlite.limits import SQL as LIMITS
from celery.sqlite.limits import Grants, Limits
from celery.sqlite.listeners import forget_unheard
from celery.sqlite.moves import SQL, file_new, next_position, numbers
from celery.sqlite.outbox import Outbox
from celery.utils.bell import Belfry, Chime
from celery.utils.clock import Clock
from celery.utils.routing import Binding
from celery.utils.sqlite import Database
from celery.utils.turns import Turns
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
        turns: Turns,
        own: Sequence[Binding] = (),
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
        self._turns = turns
        self._own = own
        self._claims = 0
        self._permits = Grants()
        with database.write(durable=False) as connection:
            self._number = self._register(connection)

    def claim(self, limit: int, timeout: float = 0.0, wanted: Mapping[str, int] = NOTHING) -> list[Delivery]:
        if self._chime.closed:
            raise BrokerError(f"Consumer {self.name!r} is closed: ask the broker for a new one.")
        end = time.monotonic() + timeout
        while True:
            self._chime.clear()
            claimed = self._claim(limit, wanted) if self._more or self._is_ready(wanted) else []
            self._more = len(claimed) == limit
            if self._more:
                self._chime.ring()
            left = end - time.monotonic()
            if claimed or left <= 0 or self._woken or self._chime.closed:
                self._woken = False
                return claimed
            due = self.due_in()
            self._chime.wait(min(left, LOOK_AGAIN, left if due is None else due))

    def start(
        self, deliveries: Sequence[Delivery], records: Sequence[Record] = (), needs: Needs = NOTHING
    ) -> list[Verdict]:
        return self.settle_and_start((), deliveries, records, needs)[1]

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return self.settle_and_start(settlements, ())[0]

    def settle_and_start(
        self,
        settlements: Sequence[Settlement],
        deliveries: Sequence[Delivery],
        records: Sequence[Record] = (),
        needs: Needs = NOTHING,
    ) -> tuple[list[bool], list[Verdict]]:
        if not (settlements or deliveries or records):
            return [], []
        store, reached = self._store, set[str]()
        effects = any(s.records or s.messages or s.arrivals for s in settlements)
        if store is None and (effects or records):
            raise ValueError("This consumer has no store in the same place: store results and send messages first.")
        with self._database.write() as connection:
            limits = Limits(connection, self._clock.time(), reached, self._number)
            applied = self._end_all(connection, settlements, reached, limits) if settlements else []
            for settlement, held in zip(settlements, applied, strict=True):
                if settlement.frees and held:
                    connection.executemany(LIMITS["free_unique"], settlement.frees)
            if effects and store is not None:
                self._write_effects(connection, store, settlements, applied, reached)
            verdicts = self._start_all(connection, deliveries, needs, limits) if deliveries else []
            if records and store is not None:
                store.write(connection, records, ())
            if needs or self._permits:
                limits.write()
        if self._permits:
            self._permits.forget([settlement.delivery for settlement in settlements])
        if needs:
            self._permits.add([d for d, verdict in zip(deliveries, verdicts, strict=True) if verdict == "ok"], needs)
        if reached:
            self._belfry.ring("messages", reached)
        if store is not None and (effects or records):
            store.announce()
        return applied, verdicts

    def park(self, deliveries: Sequence[Delivery], needs: Needs) -> list[Verdict]:
        reached: set[str] = set()
        # Not durable: a power cut that undoes it leaves them leased to nobody.
        with self._database.write(durable=False) as connection:
            held = self._still_held(connection, deliveries)
            limits = Limits(connection, self._clock.time(), reached)
            mine = self._permits.without([d for d in deliveries if (d.tag, d.fence) in held])
            parked = limits.ask(mine, needs, give=False)
        if reached:
            self._belfry.ring("messages", reached)
        return [
            "lost" if (delivery.tag, delivery.fence) not in held else "parked" if delivery.tag in parked else "ok"
            for delivery in deliveries
        ]

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

    def _start_all(
        self, connection: sqlite3.Connection, deliveries: Sequence[Delivery], needs: Needs, limits: Limits
    ) -> list[Verdict]:
        """Mark as started what is still held, not revoked, and has the permits that it needs."""
        revoked: set[int] = set()
        if connection.execute(SQL["any_revocation"]).fetchall():
            wanted = numbers([delivery.tag for delivery in deliveries])
            rows = connection.execute(SQL["revoked_among"], (wanted, self._clock.time())).fetchall()
            revoked = {tag for (tag,) in rows}
        parked = self._ask_permits(connection, deliveries, needs, revoked, limits) if needs else set()
        refused = revoked | parked
        runnable = [delivery for delivery in deliveries if delivery.tag not in refused] if refused else deliveries
        started = sum([connection.execute(SQL["start"], run).rowcount for run in _runs(runnable)])
        if not refused and started == len(deliveries):
            return ["ok"] * started
        held = self._still_held(connection, deliveries)
        return [
            "parked"
            if delivery.tag in parked and (delivery.tag, delivery.fence) not in held
            else "lost"
            if (delivery.tag, delivery.fence) not in held
            else "revoked"
            if delivery.tag in revoked
            else "ok"
            for delivery in deliveries
        ]

    def _ask_permits(
        self,
        connection: sqlite3.Connection,
        deliveries: Sequence[Delivery],
        needs: Needs,
        revoked: set[int],
        limits: Limits,
    ) -> set[int]:
        """The tags of those that are parked. What had been started before has its permits."""
        limited = self._permits.without([d for d in deliveries if d.tag in needs and d.tag not in revoked])
        if sum([connection.execute(SQL["count_leases"], run).fetchone()[0] for run in _runs(limited)]) < len(limited):
            held = self._still_held(connection, limited)
            limited = [delivery for delivery in limited if (delivery.tag, delivery.fence) in held]
        return limits.ask(limited, needs)

    @staticmethod
    def _still_held(connection: sqlite3.Connection, deliveries: Sequence[Delivery]) -> set[tuple[int, int]]:
        """(tag, fence) of those whose lease was not lost."""
        wanted = numbers([delivery.tag for delivery in deliveries])
        return set(connection.execute(SQL["leases"], (wanted,)).fetchall())

    def release(self, deliveries: Sequence[Delivery]) -> None:
        reached = {delivery.queue for delivery in deliveries}
        with self._database.write() as connection:
            back = [delivery for delivery in deliveries if end_lease(connection, delivery)]
            for delivery in back:
                connection.execute(SQL["back_in_place"], (delivery.tag,))
            if self._permits:
                limits = Limits(connection, self._clock.time(), reached, self._number)
                limits.end(self._permits.of(back))
                limits.write()
        self._permits.forget(deliveries)
        if reached:
            self._belfry.ring("messages", reached)

    def renew(self) -> bool:
        deadline = self._clock.time() + self._lease
        with self._database.write(durable=False) as connection:
            return connection.execute(SQL["renew"], (deadline, self._number)).rowcount > 0

    @contextmanager
    def renew_apart(self) -> Iterator[Callable[[], object]]:
        connection = sqlite3.connect(self._database.path, timeout=self._lease / 4, isolation_level=None)

        def renew() -> None:
            try:
                connection.execute(SQL["renew"], (self._clock.time() + self._lease, self._number))
            except sqlite3.Error as error:
                raise self._database.explain(error) from error

        try:
            yield renew
        finally:
            connection.close()

    def wake(self) -> None:
        self._woken = True
        self._chime.ring()

    def fileno(self) -> int:
        return self._chime.fileno()

    def due_in(self) -> float | None:
        now = self._clock.time()
        with self._database.read() as connection:
            queues = self._open_queues(connection)
            rows = [connection.execute(SQL["next_due"], (queue,)).fetchone() for queue in queues]
            rows += [connection.execute(LIMITS["next_gate"], (queue,)).fetchone() for queue in queues]
        dues = [row[0] for row in rows if row is not None and row[0] is not None]
        return max(0.0, min(dues) - now) if dues else None

    def close(self) -> None:
        if self._chime.closed:
            return
        self._chime.close()
        reached: set[str] = set()
        with self._database.write() as connection:
            leave(connection, self._number, self._clock.time(), reached)
            if self._own:
                forget_unheard(connection, self._clock.time(), reached)
        if reached:
            self._belfry.ring("messages", reached)

    def _register(self, connection: sqlite3.Connection) -> int:
        connection.executemany(SQL["declare"], [(queue,) for queue in self.queues])
        connection.executemany(SQL["bind"], self._own)  # while nobody listened they may have been forgotten
        row = (self.name, json.dumps(self.queues), self._clock.time() + self._lease)
        return connection.execute(SQL["register"], row).lastrowid or 0

    def _is_ready(self, wanted: Mapping[str, int]) -> bool:
        """Look without keeping writers out: whoever is woken in vain leaves no trace."""
        now = self._clock.time()
        with self._database.read() as connection:
            if connection.execute(SQL["registered"], (self._number,)).fetchone() is None:
                return True  # swept
            queues = self._open_queues(connection)
            return bool(queues) and (
                connection.execute(SQL["unfiled"]).fetchone() is not None
                or any(
                    connection.execute(SQL["any_ready"], (queue,)).fetchone() is not None
                    or connection.execute(SQL["any_due"], (queue, now)).fetchone() is not None
                    or connection.execute(LIMITS["open_gates"], (queue, now)).fetchone() is not None
                    for queue in queues
                )
                or any(
                    connection.execute(LIMITS["waits"], (key, queue)).fetchone() is not None
                    for key in wanted
                    for queue in queues
                )
            )

    def _open_queues(self, connection: sqlite3.Connection) -> Sequence[str]:
        """Those that are not paused."""
        rows = connection.execute(LIMITS["paused"]).fetchall()
        if not rows:
            return self.queues
        paused = {queue for (queue,) in rows}
        return [queue for queue in self.queues if queue not in paused]

    def _claim(self, limit: int, wanted: Mapping[str, int]) -> list[Delivery]:
        now = self._clock.time()
        # Not durable: a power cut that undoes a claim leaves the messages ready. Their start is durable.
        with self._database.write(durable=False) as connection:
            if connection.execute(SQL["registered"], (self._number,)).fetchone() is None:
                self._number = self._register(connection)
                self._permits.clear()
            file_new(connection)
            self._claims += 1
            fence = self._number << 32 | self._claims
            queues = self._open_queues(connection)
            claimed = self._take_parked(connection, queues, limit, wanted, fence, now) if wanted else []
            if len(claimed) < limit:

                def take(queue: str, count: int) -> list[Delivery]:
                    return _take(connection, queue, count, now, fence) if queue in queues else []

                claimed += self._turns.serve(limit - len(claimed), take)
            return claimed

    def _take_parked(
        self,
        connection: sqlite3.Connection,
        queues: Sequence[str],
        limit: int,
        wanted: Mapping[str, int],
        fence: int,
        now: float,
    ) -> list[Delivery]:
        limits = Limits(connection, now, set())
        found: list[Delivery] = []
        for key, count in wanted.items():
            left = min(count, limit - len(found))
            for queue in queues:
                taken = limits.take(key, queue, left, fence) if left > 0 else []
                found += taken
                left -= len(taken)
        return found

    def _end_all(
        self, connection: sqlite3.Connection, settlements: Sequence[Settlement], reached: set[str], limits: Limits
    ) -> list[bool]:
        """End the leases and what was leased; False where the lease was lost."""
        connection.execute(SQL["note_last"])
        applied = self._end_leases(connection, settlements, reached)
        some_kept = connection.execute(LIMITS["any_permit"]).fetchone() is not None
        if self._permits or some_kept:
            ended = [settlement.delivery for settlement, held in zip(settlements, applied, strict=True) if held]
            if some_kept:
                limits.free([delivery.tag for delivery in ended])
            limits.end(self._permits.of(ended))
        return applied

    def _end_leases(
        self, connection: sqlite3.Connection, settlements: Sequence[Settlement], reached: set[str]
    ) -> list[bool]:
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
    if connection.execute(LIMITS["open_gates"], (queue, now)).fetchone() is not None:
        Limits(connection, now, set()).open_gates(queue)
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
