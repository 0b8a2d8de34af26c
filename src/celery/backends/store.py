"""The store port: results as bytes under keys, waiting without polling, and joins.

Encoding, task states and exceptions are the business of `celery.backends.base`; a driver moves bytes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import msgspec

from celery.brokers.book import Book
from celery.utils.clock import SYSTEM, Clock
from celery.wire.message import Arrival, Outgoing, Record

TERMINAL: Mapping[str, int] = {"SUCCESS": 2, "FAILURE": 1, "REVOKED": 1}
"""How final a state is: 2 is never replaced, 1 only by a terminal record of another writer, absent: 0."""


def place_of(index: str) -> float:
    """Where the part of a join stands: the number behind the last colon of its index; last, where there is none."""
    _, _, number = index.rpartition(":")
    return float(number) if number.isdecimal() else math.inf


def in_order(parts: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """The values of *parts*, pairs of index and value, as `Store.arrived` gives them."""
    return [value for _, value in sorted((place_of(index), value) for index, value in parts)]


def messages_of(arrivals: Sequence[Arrival], completed: Sequence[bool]) -> list[Outgoing]:
    """The messages that are to be sent after `Store.arrive` has answered *completed*."""
    pairs = zip(arrivals, completed, strict=True)
    return [arrival.message for arrival, completes in pairs if completes and arrival.message is not None]


class StoreCapabilities(msgspec.Struct, frozen=True):
    """Facts about a store, read instead of the driver's name."""

    durable: bool = False
    shared: bool = False
    notify: bool = True
    """`watch` wakes on writes instead of looking again at intervals."""
    expire: bool = True
    """Values end by themselves after their ttl."""
    shared_joins: bool = False
    """Workers of original Celery count in the same joins, and read from the store how many parts they have."""


class Store(ABC):
    """A connection to one URL. Thread-safe; connects lazily; safe to use after a fork (it reconnects).

    Methods raise `celery.exceptions.BackendError` when the store cannot be reached or refuses.
    """

    can: StoreCapabilities = StoreCapabilities()

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        self.url = url
        self.options: dict[str, Any] = dict(options or {})
        self.clock = clock

    @abstractmethod
    def close(self) -> None:
        """Let go of every connection. May be called twice; the store may be used again."""

    @abstractmethod
    def put(self, records: Sequence[Record]) -> list[bool]:
        """Store results in one atomic step; False where an earlier terminal state stays (see `Record`)."""

    @abstractmethod
    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values, None where there is none or it has expired."""

    @abstractmethod
    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Store plainly, whatever was there."""

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> None:
        """`set` for several, in as few steps as can be. For notes that nobody waits for: `watch` may miss them."""
        for key, value in values.items():
            self.set(key, value, ttl)

    @abstractmethod
    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        """Store only if the key is absent or expired; whether it was stored."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> int:
        """Remove; how many there were."""

    @abstractmethod
    def watch(self, keys: Sequence[str]) -> Watch:
        """Be told of writes to *keys* from now on. Read the keys after this call: then no write can be missed."""

    @abstractmethod
    def arrive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        """Record parts of joins, each in an atomic step, idempotently. Sends nothing.

        True for the one that completes its join, also when the very same one is repeated: whoever is told so sends the
        arrival's message, and may have crashed before.  Nothing is recorded in a join that is complete.  Its parts are
        kept for a day from then on; those of one that is not complete have no end.
        """

    @abstractmethod
    def arrived(self, group: str) -> list[bytes]:
        """The values of the parts of a join, in the order of their places; of parts with one place, of the values."""

    def book(self, name: str) -> Book | None:
        """The schedule book *name*, for beats whose broker has none; None where there is none."""
        return None

    @abstractmethod
    def expire(self) -> int:
        """Delete what has expired; how many. Does nothing where the store does it by itself.

        May return before all of it is deleted, so that no caller waits for long: 0 says that nothing is left.
        """


@runtime_checkable
class TransactionalStore(Protocol):
    """A store that can write inside the transaction of a broker that lives in the same place."""

    place: str
    """Where it lives: a broker `fuses` with a store whose place is its own."""

    def write(self, transaction: Any, records: Sequence[Record], arrivals: Sequence[Arrival]) -> list[Outgoing]:
        """Write as `put` and `arrive` do, on the broker's open *transaction* (its driver's connection).

        The messages of the joins that are complete now, for the broker to send in the same transaction.
        """

    def announce(self) -> None:
        """Wake those who watch; the broker calls it once its transaction is committed."""


class Watch(ABC):
    """Waits for writes to some keys. One thread, except `ring` and `close`."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> bool:
        """Block until one of the keys may have been written since the last `wait` (or since the watch was made).

        False when *timeout* seconds passed first. May wake without a write; never misses one.
        """

    def written(self) -> Mapping[str, bytes | None] | None:
        """The keys that may have been written since the last call, up to `close`; None: any of them may.

        Each with what was written last where that is known, so that it need not be read.
        """
        return None

    def ring(self) -> None:
        """Make `wait` return, now or when it is called next. Any thread; never blocks."""
        # Enough for a watch that cannot say what was written: its user makes another one and reads everything.
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop watching. Idempotent; a waiting `wait` returns."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
