"""Steps that messages take in the file, each on an open transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from celery.utils.sqlite import queries
from celery.wire.message import Delivery

SQL = queries("broker")


def leave(connection: sqlite3.Connection, number: int, now: float, reached: set[str]) -> int:
    """Return what consumer *number* holds, and forget the consumer."""
    fences = (number << 32, (number << 32) + 0xFFFFFFFF)
    reached.update(queue for (queue,) in connection.execute(SQL["queues_of"], fences).fetchall())
    connection.execute(SQL["interrupt"], (now, *fences))
    connection.execute(SQL["give_back"], fences)
    returned = connection.execute(SQL["drop_leases"], fences).rowcount
    connection.execute(SQL["unregister"], (number,))
    return returned


def end_lease(connection: sqlite3.Connection, delivery: Delivery) -> list[tuple[int]]:
    """End one lease: [(whether it was started,)], or nothing if it was lost."""
    return connection.execute(SQL["end_lease"], (delivery.tag, delivery.fence)).fetchall()


def file_new(connection: sqlite3.Connection) -> None:
    """Give the messages that were sent since the last time their rows in `ready` and `delayed`."""
    for (last,) in connection.execute(SQL["unfiled"]).fetchall():
        connection.execute(SQL["file_ready"])
        connection.execute(SQL["file_delayed"])
        connection.execute(SQL["filed"], (last,))


def next_position(connection: sqlite3.Connection) -> int:
    """A place behind everything that is there."""
    (position,) = connection.execute(SQL["next_position"]).fetchall()[0]
    return int(position)


def numbers(tags: Sequence[int | str]) -> str:
    """*tags* for `json_each`; what is no tag of ours is left out."""
    return json.dumps([int(tag) for tag in tags if str(tag).isdecimal()])
