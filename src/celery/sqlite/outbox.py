"""Publishing: the rows that messages become."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celery.exceptions import BrokerError
from celery.sqlite.moves import SQL
from celery.utils.clock import Clock
from celery.utils.routing import FLEETING, routes
from celery.utils.sqlite import Database
from celery.wire.message import Outgoing

LEAST_URGENT = 9


class Outbox:
    """Puts messages into their queues, on an open transaction."""

    def __init__(self, database: Database, clock: Clock, may_be_unheard: Callable[[str], bool]) -> None:
        self._may_be_unheard = may_be_unheard
        self._database = database
        self._clock = clock
        self._known: set[str] = set()
        self._generation = -1

    def send(self, connection: sqlite3.Connection, messages: Sequence[Outgoing]) -> set[str]:
        """Insert *messages*; the queues they reached."""
        now = self._clock.time()
        rows = []
        for message in messages:
            if message.reply and not connection.execute(SQL["listens"], (message.routing_key, now)).fetchone():
                continue  # whoever wanted it has gone
            if message.routing_key and not message.exchange:
                rows.append(row_of(message.routing_key, message, now))
            else:
                rows += [row_of(queue, message, now) for queue in self._targets(connection, message)]
        if len(rows) == 1:
            connection.execute(SQL["insert"], rows[0])
        else:
            (last,) = connection.execute(SQL["last"]).fetchone()
            connection.executemany(SQL["insert_after"], [(tag, *row) for tag, row in enumerate(rows, last + 1)])
        reached = {row[0] for row in rows}
        self._declare(connection, reached)
        return reached

    def _targets(self, connection: sqlite3.Connection, message: Outgoing) -> Iterable[str]:
        """The queues that a message for an exchange reaches."""
        exchange, key = message.exchange, message.routing_key
        bound = connection.execute(SQL["bindings"], (exchange,)).fetchall() if exchange else []
        now = self._clock.time()
        heard = [b for b in bound if b[1] != FLEETING or connection.execute(SQL["listens"], (b[3], now)).fetchone()]
        found = routes(heard, exchange, key) if exchange else ()
        if not found and (len(heard) < len(bound) or self._may_be_unheard(exchange)):
            return ()  # for those who listen, of whom there is none
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
            and not message.reply
            and message.routing_key in self._known
            and self._generation == self._database.generation
        )

    def row(self, message: Outgoing) -> tuple[Any, ...]:
        """What `send` inserts for a message that it knows."""
        return row_of(message.routing_key, message, self._clock.time())

    def _declare(self, connection: sqlite3.Connection, queues: set[str]) -> None:
        """Note queues that are used for the first time. What is remembered of it holds for one opening of the file."""
        if self._generation != self._database.generation:
            self._generation = self._database.generation
            self._known = set()
        for queue in queues - self._known:
            # One that was there before stays; one that is new may still be undone with this transaction.
            if not connection.execute(SQL["declare"], (queue,)).rowcount:
                self._known.add(queue)


def row_of(queue: str, message: Outgoing, now: float) -> tuple[Any, ...]:
    """(queue, rank, due, since, task id, envelope) of *message* in *queue*."""
    rank, priority, due = LEAST_URGENT, message.priority, message.due
    if message.inner:
        rank = -1
    elif priority:
        rank -= min(max(priority, 0), LEAST_URGENT)
    return queue, rank, due if due is not None and due > now else None, now, message.task_id, message.envelope
