"""How leases end, on an open transaction."""

from __future__ import annotations

import sqlite3

from celery.sqlite.limits import Limits
from celery.sqlite.moves import SQL
from celery.wire.message import Delivery


def leave(connection: sqlite3.Connection, number: int, now: float, reached: set[str]) -> int:
    """Return what consumer *number* holds, and forget the consumer."""
    fences = (number << 32, (number << 32) + 0xFFFFFFFF)
    reached.update(queue for (queue,) in connection.execute(SQL["queues_of"], fences).fetchall())
    connection.execute(SQL["interrupt"], (now, *fences))
    connection.execute(SQL["give_back"], fences)
    returned = connection.execute(SQL["drop_leases"], fences).rowcount
    connection.execute(SQL["unregister"], (number,))
    Limits(connection, now, reached, number).leave()
    return returned


def end_lease(connection: sqlite3.Connection, delivery: Delivery) -> list[tuple[int]]:
    """End one lease: [(whether it was started,)], or nothing if it was lost."""
    return connection.execute(SQL["end_lease"], (delivery.tag, delivery.fence)).fetchall()
