"""Publishing with confirms: what returns is with the broker.

A batch is one write; its confirms are waited for together.  Batches of several threads share the channel.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import msgspec

from celery.amqp import frames
from celery.amqp.address import trouble
from celery.amqp.channel import Refused
from celery.amqp.connection import Connection, Guest
from celery.exceptions import BrokerError

DEFAULT = "amq.default"
"""The server's name for the exchange without one."""
WINDOW = 2000
"""Messages on their way before the next are written."""
PIECE = 500
"""Messages in one write."""


class Letter(msgspec.Struct):
    """A message ready for the wire: where to, and its properties as `frames.encode_properties` has them."""

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    flags: int = frames.MANDATORY


class NotOurs(BrokerError):
    """The server ended the channel because of what somebody else has sent on it. Ours may be there, or not."""


class Waiter(Guest):
    """One batch. `returned`: the (exchange, key) for which there was no queue, and `back`: what was sent there;
    `refused`: how many were nacked."""

    __slots__ = ("_away", "back", "error", "left", "letters", "most", "nacked", "pieces", "returned", "routes")

    def __init__(self, letters: Sequence[Letter]) -> None:
        self.letters = letters
        self.routes = {(letter.exchange, letter.routing_key) for letter in letters}
        self.left = self.most = 0
        """How many are on their way, and may be when it goes on."""
        self.nacked: list[int] = []
        """Their numbers on the channel."""
        self.pieces: list[tuple[int, int]] = []
        """The number of the first letter of each piece, and its place in the batch."""
        self.returned: dict[tuple[str, str], str] = {}
        self.back: list[Letter] = []
        self._away: dict[tuple[str, str, bytes], list[Letter]] | None = None
        """What has not come back, once something has."""
        self.error: BrokerError | None = None

    def is_served(self) -> bool:
        return self.left <= self.most or self.error is not None

    def says(self, error: BrokerError) -> BrokerError:
        """What the end of the channel by *error* means for this batch."""
        if not isinstance(error, Refused):
            return error
        # The server names the exchange that one may not, or cannot, send to, and nobody's message.
        if any(f"'{exchange or DEFAULT}'" in str(error) for exchange, _ in self.routes):
            return error
        found = NotOurs(str(error))
        found.temporary = True
        return found

    def take_back(self, exchange: str, key: str, properties: bytes, reason: str) -> bool:
        """One that the server says came back; False if it is none of this batch."""
        if (exchange, key) not in self.routes:
            return False
        if self._away is None:
            self._away = {}
            for letter in self.letters:
                self._away.setdefault((letter.exchange, letter.routing_key, letter.properties), []).append(letter)
        alike = self._away.get((exchange, key, properties))
        if not alike:
            return False
        self.returned[exchange, key] = reason
        self.back.append(alike.pop(0))
        return True

    def take_all_back(self, exchange: str, key: str, reason: str) -> None:
        """One came back which may be any of those that were sent there."""
        if (exchange, key) in self.routes:
            self.returned[exchange, key] = reason
            self._away = {}
            others = [letter for letter in self.back if (letter.exchange, letter.routing_key) != (exchange, key)]
            self.back = others + [
                letter for letter in self.letters if (letter.exchange, letter.routing_key) == (exchange, key)
            ]

    @property
    def refused(self) -> int:
        return len(self.nacked)

    def refused_of(self, letters: Sequence[Letter]) -> list[Letter]:
        """Those of the batch that were nacked."""
        found = []
        for number in self.nacked:
            first, place = max(piece for piece in self.pieces if piece[0] <= number)
            found.append(letters[place + number - first])
        return found


class Publisher:
    """A channel in confirm mode. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._channel = connection.channel()
        self._channel.call(frames.method(self._channel.number, frames.CONFIRM_SELECT, b"\0"), frames.CONFIRM_SELECT_OK)
        self._lock = threading.Lock()
        self._sent = 0
        self._low = 1
        """No confirm is missing below it."""
        self._pending: dict[int, Waiter] = {}
        self._waiters: set[Waiter] = set()
        self._channel.on_confirm = self._confirmed
        self._channel.on_return = self._returned
        self._channel.on_end = self._ended

    @property
    def usable(self) -> bool:
        return self._channel.usable

    @property
    def idle(self) -> bool:
        """Whether nobody waits for it."""
        return not self._waiters

    def publish(self, letters: Sequence[Letter], patience: float) -> Waiter:
        """Returns when the broker has said yes or no to each. Raises `BrokerError` after *patience* seconds without
        a confirm, or when the connection or the channel ended: then some may be there. `NotOurs` says that the channel
        did so for others."""
        waiter = Waiter(letters)
        number, room = self._channel.number, self.connection.frame_max
        with self._lock:
            self._waiters.add(waiter)
        try:
            for start in range(0, len(letters), PIECE):
                piece = letters[start : start + PIECE]
                data = b"".join(
                    [
                        frames.publish(
                            number,
                            letter.exchange,
                            letter.routing_key,
                            letter.properties,
                            letter.body,
                            room,
                            letter.flags,
                        )
                        for letter in piece
                    ]
                )
                with self._lock:
                    waiter.left += len(piece)
                    waiter.pieces.append((self._sent + 1, start))
                    for count in range(self._sent + 1, self._sent + len(piece) + 1):
                        self._pending[count] = waiter
                    self._sent += len(piece)
                    self._send(data, waiter)
                last = start + PIECE >= len(letters)
                self._wait(waiter, 0 if last else WINDOW - PIECE, patience)
        finally:
            with self._lock:
                self._waiters.discard(waiter)
        return waiter

    def close(self) -> None:
        self._channel.close()

    def _send(self, data: bytes, waiter: Waiter) -> None:
        try:
            self._channel.send(data)
        except Refused as error:
            raise waiter.says(error) from None

    def _wait(self, waiter: Waiter, most: int, patience: float) -> None:
        """Until at most so many are on their way; *patience* counts from the last confirm."""
        waiter.most = most
        left, until = waiter.left, time.monotonic() + patience
        while not waiter.is_served():
            if waiter.left != left:
                left, until = waiter.left, time.monotonic() + patience
            self.connection.host(waiter, until)
            if waiter.left == left and time.monotonic() >= until and not waiter.is_served():
                raise self._late(patience)
        if waiter.error is not None and waiter.left:
            raise waiter.error

    def _late(self, patience: float) -> BrokerError:
        where, blocked = self.connection.where, self.connection.blocked
        if blocked:
            return trouble(f"RabbitMQ at {where} takes no messages for now: {blocked}.")
        error = trouble(f"RabbitMQ at {where} has confirmed nothing for {patience:g} s.")
        self.connection.fail(error)
        return error

    # -- on the connection's thread --------------------------------------------------------------------------------

    def _confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        with self._lock:
            numbers = range(self._low, tag + 1) if multiple else (tag,)
            for number in numbers:
                waiter = self._pending.pop(number, None)
                if waiter is not None:
                    waiter.left -= 1
                    if not taken:
                        waiter.nacked.append(number)
                    if waiter.left == waiter.most:
                        waiter.wake()
            if multiple:
                self._low = tag + 1

    def _returned(self, exchange: str, key: str, properties: bytes, reason: str) -> None:
        # What others have sent there, or this batch a moment later, may have been taken: it is not to be sent again.
        with self._lock:
            if not any(waiter.take_back(exchange, key, properties, reason) for waiter in self._waiters):
                for waiter in self._waiters:  # the server gives back the properties as they are, by all we know
                    waiter.take_all_back(exchange, key, reason)

    def _ended(self, error: BrokerError) -> None:
        with self._lock:
            for waiter in self._waiters:
                waiter.error = waiter.says(error)
                waiter.wake()
            self._pending.clear()
