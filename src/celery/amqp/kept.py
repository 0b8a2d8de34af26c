"""What a consumer keeps without acknowledging it: others run it, and no copy of it can wait in the queues of delays.

That happens where the user's rights are narrow, or while the node takes no messages.  Whoever keeps a message looks
again whether its owner lives, less often each time, but at least once in a lease.  It goes back to its queue, for
whoever gets it to keep, before the server loses its patience with one that does not acknowledge.

The caller's lock guards it; times are monotonic seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from celery.amqp.frames import Delivered
from celery.amqp.held import Claimed
from celery.amqp.messages import name_of
from celery.amqp.publisher import Letter
from celery.exceptions import BrokerError
from celery.utils.log import get_logger

logger = get_logger(__name__)

SOONEST = 1.0
"""Seconds until a message is looked at for the second time, at least half of which are between any two looks."""


class OneKept(NamedTuple):
    source: str
    came: Delivered
    again: float
    """When to look at it again."""


class Kept:
    """*lease*: the most seconds between two looks. *patience*: the most that one message is kept for."""

    def __init__(self, lease: float, patience: float) -> None:
        self._lease = lease
        self._patience = patience
        self._messages: dict[int, OneKept] = {}
        """By tag."""
        self._since: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, found: Claimed, now: float) -> None:
        for source, came in found:
            self._since[came.tag] = now
            self._messages[came.tag] = OneKept(source, came, now + SOONEST)

    def due(self, now: float) -> list[OneKept]:
        """Those to look at again: if it is time for one of them, also those whose time comes soon."""
        found = [kept for kept in self._messages.values() if kept.again <= now + SOONEST / 2]
        return found if any(kept.again <= now for kept in found) else []

    def due_in(self, now: float) -> float | None:
        """Seconds until `due` finds something; None if nothing is kept."""
        return max(0.0, min(kept.again for kept in self._messages.values()) - now) if self._messages else None

    def looked(self, due: Sequence[OneKept], running: Collection[str], now: float) -> tuple[Claimed, list[int]]:
        """Of those that were *due*, those whose names are not of the *running* ones, and tags of those to give back.

        They are no longer here.  What is here no more, with its connection or because somebody else has looked, is none
        of them.
        """
        free: Claimed = []
        back: list[int] = []
        for kept in due:
            tag = kept.came.tag
            if self._messages.get(tag) is not kept:
                continue
            age = now - self._since[tag]
            if name_of(kept.came) in running and age < self._patience:
                self._messages[tag] = kept._replace(again=now + min(max(SOONEST, age), self._lease))
                continue
            del self._messages[tag], self._since[tag]
            if age < self._patience:
                free.append((kept.source, kept.came))
            else:
                back.append(tag)
        return free, back

    def clear(self) -> None:
        self._messages.clear()
        self._since.clear()


class Departures:
    """Sends copies of messages, by *send*; where that is refused it *warns* once, and tries again after a *lease*.

    It *says* when it can again. Any thread.
    """

    def __init__(self, send: Callable[[Sequence[Letter]], object], lease: float, warns: str, says: str) -> None:
        self._send = send
        self._lease = lease
        self._warns, self._says = warns, says
        self._lock = threading.Lock()
        self._refused_at: float | None = None

    def sent(self, letters: Callable[[], Sequence[Letter]], now: float) -> bool:
        """Whether the broker has taken them all. *letters* makes them, and may raise `BrokerError` as well."""
        if self._refused_at is not None and now - self._refused_at < self._lease:
            return False
        try:
            self._send(letters())
        except BrokerError as error:
            if self._changed(now):
                logger.warning("%s %s", self._warns, error)
            return False
        if self._refused_at is not None and self._changed(None):
            logger.warning("%s", self._says)
        return True

    def _changed(self, refused_at: float | None) -> bool:
        with self._lock:
            before, self._refused_at = self._refused_at, refused_at
        return (before is None) is not (refused_at is None)
