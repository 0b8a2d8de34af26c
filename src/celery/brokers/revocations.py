"""Revocations of a broker that cannot keep any: in the result store, for whoever starts later; with none, in memory.

One key holds them all.  Writers take turns by a key that only one can add; readers look whether anything has changed,
by a second, small key.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from celery.backends.store import Store
from celery.brokers.base import MOST_REVOKED, Broker
from celery.utils.clock import SYSTEM, Clock
from celery.utils.uuids import uuid

KEY, VERSION, TURN = "celeriac-revoked", "celeriac-revoked-version", "celeriac-revoked-turn"
TURN_KEPT = 5.0
"""Seconds after which the turn of a writer that died ends."""
PAUSE = 0.02
MOST_BYTES = 1_000_000
"""Of the list: memcached takes no larger value."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, float]).decode


class Revocations:
    """Task ids, with the Unix time at which each ends. Thread-safe. Raises what the store raises.

    *store*: gives the store, if there is one; asked when it is needed.
    """

    def __init__(self, store: Callable[[], Store | None] = lambda: None, clock: Clock = SYSTEM) -> None:
        self.store = store
        self._clock = clock
        self._known: Mapping[str, float] = {}
        self._version: bytes | None = None

    def __bool__(self) -> bool:
        """Whether there may be any, as far as is known here."""
        return bool(self._known)

    def __contains__(self, task_id: str) -> bool:
        return self._known.get(task_id, 0.0) > self._clock.time()

    def ids(self) -> list[str]:
        """Those that hold now, as far as is known here."""
        return sorted(living(self._known, self._clock.time(), MOST_REVOKED))

    def refresh(self) -> None:
        """Know what others have recorded."""
        store = self.store()
        if store is None:
            return
        [version] = store.get([VERSION])
        if version == self._version:
            return
        if version is None:
            self._known = {}
        else:
            [value] = store.get([KEY])
            self._known = {} if value is None else _decode(value)
        self._version = version

    def add(self, task_ids: Sequence[str], ttl: float, most: int = MOST_REVOKED) -> None:
        """Record these for *ttl* seconds; of more than *most* those that would end first are dropped."""
        now = self._clock.time()
        fresh = dict.fromkeys(task_ids, now + ttl)
        store = self.store()
        if store is None:
            self._known = living({**self._known, **fresh}, now, most)
            return
        self.refresh()
        if all(self._known.get(task_id, 0.0) > now + 0.9 * ttl for task_id in fresh):
            return  # somebody who was told as well has been here
        turn = uuid().encode()
        self._take_turn(store, turn)
        try:
            [value] = store.get([KEY])
            known = living({**({} if value is None else _decode(value)), **fresh}, now, most)
            while len(encoded := _encode(known)) > MOST_BYTES:
                known = living(known, now, len(known) * 9 // 10)
            kept = max(known.values(), default=now) - now
            store.set(KEY, encoded, max(kept, TURN_KEPT))
            store.set(VERSION, turn, max(kept, TURN_KEPT))
            self._known, self._version = known, turn
        finally:
            if store.get([TURN]) == [turn]:
                store.delete([TURN])

    def _take_turn(self, store: Store, turn: bytes) -> None:
        """Returns when it is ours; at the latest when that of whoever had it must have ended."""
        until = time.monotonic() + TURN_KEPT + 1.0
        while not store.add(TURN, turn, TURN_KEPT) and time.monotonic() < until:
            time.sleep(PAUSE * random.uniform(0.5, 1.5))


def living(found: Mapping[str, float], now: float, most: int) -> dict[str, float]:
    """Those of *found* that hold at *now*, at most so many: those that end last."""
    kept = {task_id: until for task_id, until in found.items() if until > now}
    if len(kept) > most:
        kept = dict(sorted(kept.items(), key=lambda pair: pair[1])[len(kept) - most :])
    return kept


class RevokesAside(Broker):
    """A broker whose revocations are in the result store, if there is one; else only its own consumers see them."""

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self.revocations = Revocations(self._store_aside, clock)

    def _store_aside(self) -> Store | None:
        return self.aside()  # which is named when the broker has been made

    def revoke(self, task_ids: Sequence[str], ttl: float, most: int = MOST_REVOKED) -> None:
        if task_ids:
            self.revocations.add(task_ids, ttl, most)

    def revoked(self) -> list[str]:
        self.revocations.refresh()
        return self.revocations.ids()
