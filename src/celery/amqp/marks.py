"""What a broker of AMQP cannot keep, in the result store: which messages were started, by whom, and who lives.

A message that comes again has been started before if there is a mark, so many times as the mark says; it has ended if
the mark says so, and only its acknowledgement was lost.  Marks are read for messages that come again only.

A mark names the consumer that started the message.  Each of those renews a sign of life, a key that ends by itself: as
long as it is there the message is being run, whatever became of the connection that it came by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from celery.backends.store import Store
from celery.brokers.base import LEASE
from celery.utils.clock import SYSTEM, Clock

PREFIX, ALIVE = "celeriac-started-", "celeriac-alive-"
KEPT = 7 * 86_400.0
"""Seconds."""
ENDED_KEPT = 86_400.0
"""Seconds for which a copy of a message that has ended is known for one."""
ENDED = -1


class Mark(msgspec.Struct, frozen=True):
    """How often a message was started (`ENDED`: it has ended), by whom last, and whether that one lives."""

    count: int
    owner: str = ""
    alive: bool = False

    @property
    def ended(self) -> bool:
        return self.count == ENDED


UNMARKED = Mark(0)


class Marks:
    """Those of the consumer *owner*, in *store*; with none, nothing is remembered. Raises what the store raises.

    *lease*: the seconds for which a sign of life holds. One thread writes and reads, any may `sign`.
    """

    def __init__(self, store: Store | None, owner: str = "", lease: float = LEASE, clock: Clock = SYSTEM) -> None:
        self.owner = owner
        self._store = store
        self._lease = lease
        self._clock = clock
        self._signed_at: float | None = None
        self._doubts_until = 0.0

    def __bool__(self) -> bool:
        return self._store is not None

    def read(self, names: Sequence[str]) -> dict[str, Mark]:
        """Those that there are. Our own are alive."""
        if self._store is None or not names:
            return {}
        found: dict[str, Mark] = {}
        for name, value in zip(names, self._store.get([PREFIX + name for name in names]), strict=True):
            if value is not None:
                count, _, owner = value.decode().partition(" ")
                found[name] = Mark(int(count), owner, owner == self.owner)
        others = sorted({mark.owner for mark in found.values() if mark.owner and not (mark.alive or mark.ended)})
        if not others:
            return found
        signs = self._store.get([ALIVE + owner for owner in others])
        living = {owner for owner, sign in zip(others, signs, strict=True) if sign is not None or self._doubtful()}
        return {
            name: msgspec.structs.replace(mark, alive=True) if mark.owner in living else mark
            for name, mark in found.items()
        }

    def running(self, names: Sequence[str]) -> set[str]:
        """Those that are run by others, who live."""
        return {name for name, mark in self.read(names).items() if mark.alive and mark.owner != self.owner}

    def _doubtful(self) -> bool:
        """Whether the store, or this process, stood still: then signs of the living may have ended as well."""
        now = self._clock.monotonic()
        return self._signed_at is not None and (now - self._signed_at > self._lease or now < self._doubts_until)

    def write(self, counts: Mapping[str, int]) -> None:
        """Say that these were started so many times, now by us."""
        if self._store is None or not counts:
            return
        now = self._clock.monotonic()
        if self._signed_at is None or now - self._signed_at > self._lease / 2:
            self.sign()
        self._store.set_many({PREFIX + name: f"{count} {self.owner}".encode() for name, count in counts.items()}, KEPT)

    def end(self, names: Sequence[str]) -> None:
        """Say that these have ended."""
        if self._store is not None and names:
            self._store.set_many(dict.fromkeys([PREFIX + name for name in names], b"%d" % ENDED), ENDED_KEPT)

    def sign(self) -> None:
        """Renew the sign of life."""
        if self._store is None:
            return
        now = self._clock.monotonic()
        self._store.set(ALIVE + self.owner, b"1", self._lease)
        if self._signed_at is not None and now - self._signed_at > self._lease:
            self._doubts_until = now + self._lease / 2
        self._signed_at = now

    def clear(self, names: Sequence[str]) -> None:
        if self._store is not None and names:
            self._store.delete([PREFIX + name for name in names])

    def resign(self) -> None:
        """This consumer runs nothing any more: what it had started and not ended was interrupted."""
        if self._store is not None and self._signed_at is not None:
            self._signed_at = None
            self._store.delete([ALIVE + self.owner])
