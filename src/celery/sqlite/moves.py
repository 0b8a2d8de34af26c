"""Steps that messages take in the file, each on an open transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from celery.utils.sqlite import queries

SQL = queries("broker")


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
