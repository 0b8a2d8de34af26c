"""A broker's connections: one that publishes and declares, and one for each consumer. Thread-safe; survives a fork.

Publishers have a connection of their own, because a server that is short of memory or disk stops reading from those
who publish: acknowledgements must get through.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from celery.amqp.address import Address, trouble
from celery.amqp.channel import Channel
from celery.amqp.connection import Connection
from celery.amqp.messages import said_again
from celery.amqp.publisher import Letter, NotOurs, Publisher, Waiter
from celery.exceptions import BrokerError

Found = TypeVar("Found")
PAUSES = 0.05, 1.0
"""Seconds before the second attempt, and the most before any."""


class Link:
    """*options*: those of `celery.amqp.address`."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.address = Address(url, options)
        self.timeout = self.address.timeout
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._publisher: Publisher | None = None
        self._control: Channel | None = None
        self._casting: tuple[Channel, set[str]] | None = None

    def introduce(self, who: str) -> None:
        """Connections from now on are listed under this name."""
        self.address.client_properties.setdefault("connection_name", who)

    def open(self, deadline: float | None = None, *, watched: bool = True) -> Connection:
        """A new connection, for whoever asks to close. Raises `BrokerError`.

        It is *watched*, as one has to be on which somebody only listens.
        """
        until = time.monotonic() + self.timeout if deadline is None else deadline
        greeted = self.address.connect(until)
        return Connection(greeted, str(self.address), self.timeout, watched=watched)

    def connection(self) -> Connection:
        """The one that publishes; remade if it has ended."""
        if os.getpid() != self._pid:  # a fork: the lock may be held by a thread that is not here
            self._lock, self._pid = threading.RLock(), os.getpid()
        with self._lock:
            found = self._connection
            if found is None or not found.usable:
                self._drop()
                found = self._connection = self.open(watched=False)
            return found

    def retried(self, work: Callable[[], Found], timeout: float | None = None) -> Found:
        """What *work* returns, asked again while its error is temporary and there is time."""
        until, pause = time.monotonic() + (self.timeout if timeout is None else timeout), PAUSES[0]
        while True:
            try:
                return work()
            except BrokerError as error:
                left = until - time.monotonic()
                if not error.temporary or left <= pause:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSES[1])

    def publish(self, letters: Sequence[Letter]) -> Waiter:
        """Every letter is confirmed, returned or refused when this returns; sent again if the connection ended.

        One that is refused is sent again as long as there is time, its queue may only be about to get a new leader: on
        another channel, because RabbitMQ refuses for ever on one that asked while there was none.
        """
        until = time.monotonic() + self.timeout
        waiter = self._publish(letters)
        pause = PAUSES[0]
        while waiter.refused and time.monotonic() + pause < until:
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])
            letters = waiter.refused_of(letters)
            self._leave_channel()
            again = self._publish(letters)
            again.returned.update(waiter.returned)
            again.back += waiter.back
            waiter = again
        return waiter

    def _publish(self, letters: Sequence[Letter]) -> Waiter:
        first, attempts = time.time(), itertools.count()

        def once() -> Waiter:
            nonlocal letters
            if next(attempts) == 1:  # the first may have arrived all the same
                letters = [said_again(letter, first) for letter in letters]
            publisher = self._publishing()
            connection = publisher.connection
            if not connection.flowing.wait(self.timeout) and connection.blocked:
                raise trouble(f"RabbitMQ at {connection.where} takes no messages for now: {connection.blocked}.")
            try:
                return publisher.publish(letters, self.timeout)
            except NotOurs:
                return self._publish_apart([said_again(letter, first) for letter in letters])

        return self.retried(once)

    def _publish_apart(self, letters: Sequence[Letter]) -> Waiter:
        """On a channel that nobody else can have ended."""
        publisher = Publisher(self.connection())
        try:
            return publisher.publish(letters, self.timeout)
        finally:
            publisher.close()

    def control(self, work: Callable[[Channel], Found]) -> Found:
        """Make requests on the channel that is kept for them. Raises `Refused` for what the server refuses."""

        def once() -> Found:
            self.connection()
            with self._lock:
                return work(self._controlling())

        return self.retried(once)

    def cast(self, work: Callable[[Channel, set[str]], None]) -> None:
        """Send on the channel for what is not confirmed; *work* gets it, and the exchanges that were declared on it."""

        def once() -> None:
            connection = self.connection()
            with self._lock:
                found = self._casting
                if found is None or not found[0].usable:
                    found = self._casting = connection.channel(), set()
                work(*found)

        self.retried(once)

    def close(self) -> None:
        """Idempotent; it may be used again."""
        with self._lock:
            self._drop()

    def _publishing(self) -> Publisher:
        connection = self.connection()
        with self._lock:
            found = self._publisher
            if found is None or not found.usable:
                found = self._publisher = Publisher(connection)
            return found

    def _leave_channel(self) -> None:
        """Have others publish on a new one."""
        with self._lock:
            former, self._publisher = self._publisher, None
        if former is not None and former.idle:
            former.close()

    def _controlling(self) -> Channel:
        found = self._control
        if found is None or not found.usable:
            found = self._control = self.connection().channel()
        return found

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._publisher = self._control = self._casting = None
        if connection is not None:
            with suppress(BrokerError):
                connection.close()
