"""Queues that are one listener's own, and emptying them and others: on an open transaction.

Such a queue is bound as `FLEETING`.  When nobody has a lease over it any more it goes, with what is in it; dead
messages stay, and their queue is known as long as there are some.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from celery.sqlite.limits import SQL as LIMITS
from celery.sqlite.limits import Limits
from celery.sqlite.moves import SQL, file_new
from celery.utils.routing import FLEETING, Binding
from celery.wire.message import Queue


def own_bindings(queues: Iterable[Queue]) -> list[Binding]:
    """How those of these are bound that are a listener's own."""
    return [(queue.exchange.name, FLEETING, queue.routing_key, queue.name) for queue in queues if queue.fleeting]


def empty(connection: sqlite3.Connection, queue: str, now: float, reached: set[str]) -> int:
    """Delete what is ready, delayed or parked; how many there were. *reached*: queues in which that wakes something."""
    file_new(connection)
    connection.execute(SQL["note_last"])
    connection.execute(LIMITS["purge_uniques"], {"queue": queue})
    freed = connection.execute(LIMITS["purge_permits"], (queue, queue)).fetchall()
    purged = connection.execute(SQL["purge_messages"], (queue, queue)).rowcount
    purged += connection.execute(LIMITS["purge_messages"], (queue,)).rowcount
    for statement in (SQL["purge_ready"], SQL["purge_delayed"], LIMITS["purge_parked"], LIMITS["purge_gates"]):
        connection.execute(statement, (queue,))
    Limits(connection, now, reached).wake_all({key for (key,) in freed})
    return purged


def forget(connection: sqlite3.Connection, queue: str, now: float, reached: set[str]) -> None:
    """Delete a queue with what is in it or claimed, but for its dead messages: with some of them it stays known."""
    connection.execute(SQL["note_last"])
    connection.executemany(SQL["forget_lease"], connection.execute(SQL["forget_leased"], (queue,)).fetchall())
    empty(connection, queue, now, reached)
    connection.execute(LIMITS["resume"], (queue,))
    if connection.execute(SQL["has_dead"], (queue,)).fetchone() is None:
        connection.execute(SQL["forget"], (queue,))
        connection.execute(SQL["unbind"], (queue,))


def any_unheard(connection: sqlite3.Connection, now: float) -> bool:
    """Whether there is anything to forget."""
    return connection.execute(SQL["unheard"], {"now": now}).fetchone() is not None


def forget_unheard(connection: sqlite3.Connection, now: float, reached: set[str]) -> None:
    """Of queues that were a listener's own, those go that nobody listens to."""
    file_new(connection)
    for (queue,) in connection.execute(SQL["unheard"], {"now": now}).fetchall():
        forget(connection, queue, now, reached)


__all__ = ["any_unheard", "empty", "forget", "forget_unheard", "own_bindings"]
