"""What a broker of AMQP cannot keep, in the result store: which messages were started, and which have ended.

A message that comes again has been started before if there is a mark, so many times as the mark says; it has ended if
the mark says so, and only its acknowledgement was lost.  Marks are read for messages that come again only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from celery.backends.store import Store
from celery.wire.message import Record

PREFIX = "celeriac-started-"
KEPT = 7 * 86_400.0
"""Seconds."""
ENDED = -1


class Marks:
    """In *store*; with none, nothing is remembered. Raises what the store raises."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    def __bool__(self) -> bool:
        return self._store is not None

    def read(self, names: Sequence[str]) -> dict[str, int]:
        """How often each was started, `ENDED` for what has ended; those without a mark are missing."""
        if self._store is None or not names:
            return {}
        values = self._store.get([PREFIX + name for name in names])
        return {name: int(value) for name, value in zip(names, values, strict=True) if value is not None}

    def write(self, counts: Mapping[str, int]) -> None:
        if self._store is not None and counts:
            self._store.put([Record(PREFIX + name, b"%d" % n, "STARTED", "", KEPT) for name, n in counts.items()])

    def clear(self, names: Sequence[str]) -> None:
        if self._store is not None and names:
            self._store.delete([PREFIX + name for name in names])
