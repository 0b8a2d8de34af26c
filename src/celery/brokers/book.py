"""The schedule book: what beats keep in a store that they share, so that any number of them send each tick once.

A beat leads while it holds the lease, whose token is a fence: who has lost it changes nothing any more.  The state of
an entry is bytes to the store.  It is advanced by comparing and setting, and the messages of the tick are sent in the
same atomic step where the book is in the broker (`sends`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from celery.wire.message import Outgoing

HISTORY = 20
"""Ticks that are remembered of each entry."""


class Lead(msgspec.Struct, frozen=True):
    """Who leads. Times are the store's clock, in Unix seconds."""

    token: int
    """The fence of whoever asked; 0: somebody else leads, or nobody."""
    leader: str
    """The name of who leads; empty: nobody."""
    left: float
    """Seconds until the lease ends."""
    now: float
    version: int
    """Grows whenever a definition is written: then they are to be read again."""


class Advance(msgspec.Struct, frozen=True):
    """One entry goes from the state *old* (empty: it has none) to *new*, and *messages* are sent."""

    name: str
    old: bytes
    new: bytes
    note: bytes = b""
    """A line of its history; empty: none."""
    messages: tuple[Outgoing, ...] = ()


class Book(ABC):
    """One book: that of the beats of one application. Thread-safe. Raises the errors of the store that it is in."""

    sends = False
    """Whether `advance` sends the messages; if not, whoever advances has sent them before."""

    @abstractmethod
    def lead(self, who: str, ttl: float) -> Lead:
        """Take the lease for *ttl* seconds if it is free, or keep it; *ttl* 0 only looks. *who* names one beat."""

    @abstractmethod
    def resign(self, token: int) -> None:
        """Give the lease back, if *token* is still its fence."""

    @abstractmethod
    def advance(self, token: int, ttl: float, advances: Sequence[Advance]) -> list[bool] | None:
        """Advance entries in one atomic step, and keep the lease for *ttl* seconds. None: it is lost, nothing was done.

        False where an entry is in another state than *old*; repeating what was done is True.
        """

    @abstractmethod
    def states(self) -> dict[str, bytes]:
        """The state of every entry that has one."""

    @abstractmethod
    def definitions(self) -> dict[str, bytes]:
        """The entries that are defined here, by name."""

    @abstractmethod
    def paused(self) -> frozenset[str]:
        """The names of the entries that rest."""

    @abstractmethod
    def define(self, definitions: Mapping[str, bytes | None]) -> None:
        """Write definitions, or, with None, remove them together with all that is known of the entry."""

    @abstractmethod
    def pause(self, names: Sequence[str], *, paused: bool) -> None:
        """Have entries rest, or go on."""

    @abstractmethod
    def note(self, name: str, note: bytes) -> None:
        """Add a line to the history of an entry."""

    @abstractmethod
    def history(self, name: str) -> list[bytes]:
        """The latest lines, newest first."""
