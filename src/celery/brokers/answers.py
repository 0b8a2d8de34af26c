"""Ports for results that travel as messages: reply queues, and the joins of those who have no result store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import msgspec

from celery.wire.message import Arrival


class Reply(msgspec.Struct, frozen=True):
    """A message that came to a reply queue. `task_id`: whose result it is."""

    task_id: str
    content_type: str
    content_encoding: str
    body: bytes


OnReply = Callable[[Reply], None]
"""Called for each message that comes, by a thread of the broker's: it must not block."""


class Replies(ABC):
    """The reply queues of one process. Thread-safe; begins anew after a fork.

    A queue outlives a lost connection, which is remade: nothing that came meanwhile is lost.  It goes with `close`, or
    some minutes after its process.
    """

    @abstractmethod
    def open(self, name: str) -> None:
        """Have the queue *name*, and listen to it. Cheap if that is so. Raises `BrokerError`."""

    @abstractmethod
    def close(self) -> None:
        """Delete the queues. Idempotent; they may be opened again."""


class Held(ABC):
    """The parts of a complete join, which nobody else sees while they are held."""

    parts: list[tuple[str, bytes]]
    """Pairs of index and value: each part once."""

    @abstractmethod
    def finish(self) -> None:
        """What was to follow has been sent: forget the join."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; if it is not finished, it is as before. Idempotent."""


class Joins(ABC):
    """Joins that a broker keeps, for apps without a result store. Thread-safe. Raises `BrokerError`."""

    @abstractmethod
    def arrive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        """Record parts of joins, idempotently. Sends nothing.

        True for those after which their join *may* be complete: whoever is told so sends the arrival's message, and
        whoever runs that asks `hold`.
        """

    @abstractmethod
    def hold(self, group: str) -> Held | None:
        """The parts of a join if it is complete, None if it is not, or is finished.

        Raises `BrokerError`, which is temporary, while somebody else holds them.
        """


__all__ = ["Held", "Joins", "OnReply", "Replies", "Reply"]
