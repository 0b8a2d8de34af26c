"""Joins without a result store: their parts wait in a queue of their own until all are there.

`celeriac.join.<group>` has a message for each part that has arrived; one that comes twice has two.  After a part has
been confirmed its worker asks how many there are: if there are enough, it sends the task that sees to the join.  That
one takes them all as the only consumer, counts each part once, and if one is missing gives them back: whoever brings
it will look again.  Once the body has been sent the queue is deleted; for some minutes an empty one,
`celeriac.joined.<group>`, says so to parts that come late.

A queue to which nothing has come for a week is gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery.amqp import frames
from celery.amqp.address import trouble
from celery.amqp.connection import Channel, Refused
from celery.amqp.frames import Delivered, Properties, encode_properties
from celery.amqp.link import Link
from celery.amqp.publisher import Letter
from celery.amqp.tables import encode_table
from celery.brokers.answers import Held, Joins
from celery.exceptions import BrokerError
from celery.wire.message import Arrival

OPEN, DONE = "celeriac.join.", "celeriac.joined."
INDEX, SIZE, GROWS = "celeriac_index", "celeriac_size", "celeriac_grows"
KEPT, REMEMBERED = 7 * 86_400_000, 600_000
"""Milliseconds: for a join that is not complete, since its last part; for the fact that it is."""
NOT_FOUND, REFUSED, PRECONDITION_FAILED = 404, 403, 406
QUORUM = {"x-queue-type": "quorum", "x-single-active-consumer": True, "x-delivery-limit": 1_000_000_000}
"""It knows no exclusive consumers, and newer servers would drop what is given back for the twentieth time."""
PASSIVE, DURABLE = 1, 2
EXCLUSIVE = 4
PERSISTENT = 2


class RabbitJoins(Joins):
    """*send* publishes letters with confirms. *quorum*: whether queues are to be of that kind."""

    def __init__(
        self, link: Link, send: Callable[[Sequence[Letter]], None], quorum: Callable[[], bool] = lambda: False
    ) -> None:
        self._link = link
        self._send = send
        self._quorum = quorum

    def arrive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        groups: dict[str, list[int]] = {}
        for position, arrival in enumerate(arrivals):
            groups.setdefault(arrival.group, []).append(position)
        kind = QUORUM if self._quorum() else {}
        for group in groups:
            try:
                self._link.control(lambda channel, group=group: _have(channel, OPEN + group, KEPT, kind))  # type: ignore[misc]
            except Refused as error:
                if error.code != PRECONDITION_FAILED:  # it is there, and of the other kind
                    raise
        self._send([_letter(arrival) for arrival in arrivals])
        answers = [False] * len(arrivals)
        for group, positions in groups.items():
            parts = [position for position in positions if not arrivals[position].grows]
            size = max((arrivals[position].size for position in parts), default=0)
            if size and len(parts) < size:
                there = self._link.control(lambda channel, group=group: _count(channel, OPEN + group))  # type: ignore[misc]
            else:
                there = len(parts), 0
            if size and there is not None and there[0] >= size:
                answers[parts[-1]] = True
        return answers

    def hold(self, group: str) -> Held | None:
        link = self._link
        channel = link.retried(lambda: link.connection().channel())
        held = RabbitHeld(channel, group, link.timeout)
        try:
            if held.take():
                return held
        except BaseException:
            held.close()
            raise
        held.close()
        return None


class RabbitHeld(Held):
    """One who takes the parts of a join on a channel of its own."""

    def __init__(self, channel: Channel, group: str, timeout: float) -> None:
        self._channel = channel
        self._group = group
        self._timeout = timeout
        self._came: list[Delivered] = []
        self._wanted = 0
        self._round = 0
        self._all = threading.Event()
        self.parts: list[tuple[str, bytes]] = []

    def take(self) -> bool:
        """Whether it is complete: then its parts are held."""
        channel, name = self._channel, OPEN + self._group
        channel.on_message = self._arrived
        channel.on_end = lambda error: self._all.set()
        if self._ask(DONE + self._group) is not None:
            _delete(channel, name)
            return False
        there, consumers = self._ask(name) or (0, 0)
        if consumers:
            raise self._busy()
        while there:
            self._wanted, self._came = there, []
            self._round += 1
            self._all.clear()
            self._consume(name)
            if not self._all.wait(self._timeout):
                raise trouble(f"RabbitMQ at {channel.connection.where} does not give out the parts of a chord.")
            if channel.ended is not None:
                raise channel.ended
            if self._complete():
                return True
            channel.send(frames.cancel(channel.number, str(self._round)))
            channel.send(frames.method(channel.number, frames.BASIC_NACK, bytes(8), b"\x03"))
            # One that came meanwhile was counted by nobody: it was here that the others were.
            before, there = there, self._returned(name, there)
            if there <= before:
                return False
        return False

    def _returned(self, name: str, least: int) -> int:
        """How many are ready, once those that were given back are. A queue of the kind quorum takes a moment."""
        until = time.monotonic() + self._timeout
        while True:
            found = _count(self._channel, name)
            if found is None or found[0] >= least or time.monotonic() > until:
                return 0 if found is None else found[0]
            time.sleep(0.01)

    def _ask(self, name: str) -> tuple[int, int] | None:
        """`_count` on a channel of its own, which the answer may close."""
        channel = self._channel.connection.channel()
        try:
            return _count(channel, name)
        finally:
            channel.close()

    def _consume(self, name: str) -> None:
        number = self._channel.number
        args = (b"\0\0", frames.short(name), frames.short(str(self._round)), bytes((EXCLUSIVE,)), encode_table({}))
        try:
            self._channel.call(frames.method(number, frames.BASIC_CONSUME, *args), frames.BASIC_CONSUME_OK)
        except Refused as error:
            if error.code == REFUSED:
                raise self._busy() from error
            raise

    def _busy(self) -> BrokerError:
        return trouble(f"Somebody else sees to the chord {self._group} now.")

    def _arrived(self, came: Delivered) -> None:
        if came.consumer != str(self._round):
            return  # of a former round, on its way when that ended
        self._came.append(came)
        if len(self._came) >= self._wanted:
            self._all.set()

    def _complete(self) -> bool:
        parts: dict[str, bytes] = {}
        grown: set[str] = set()
        size = 0
        for came in list(self._came):
            headers = came.properties.headers or {}
            index = str(headers.get(INDEX))
            if headers.get(GROWS):
                grown.add(index)
            else:
                parts.setdefault(index, came.body)
                size = max(size, int(headers.get(SIZE) or 0))
        self.parts = list(parts.items())
        return bool(size) and len(parts) >= size + len(grown)

    def finish(self) -> None:
        _have(self._channel, DONE + self._group, REMEMBERED, {})
        _delete(self._channel, OPEN + self._group)

    def close(self) -> None:
        self._channel.on_end = None
        self._channel.close()  # what it has not acknowledged goes back


def _letter(arrival: Arrival) -> Letter:
    headers = {INDEX: arrival.index, SIZE: arrival.size, GROWS: arrival.grows}
    properties = encode_properties(Properties(headers=headers, delivery_mode=PERSISTENT))
    return Letter("", OPEN + arrival.group, properties, arrival.value)


def _have(channel: Channel, name: str, kept: int, kind: Mapping[str, Any]) -> None:
    data = frames.queue_declare(channel.number, name, DURABLE, {"x-expires": kept, **kind})
    channel.call(data, frames.QUEUE_DECLARE_OK)


def _count(channel: Channel, name: str) -> tuple[int, int] | None:
    """Messages that are ready, and consumers; None, and the channel is closed, where there is no such queue."""
    try:
        answer = channel.call(frames.queue_declare(channel.number, name, PASSIVE, {}), frames.QUEUE_DECLARE_OK)
    except Refused as error:
        if error.code != NOT_FOUND:
            raise
        return None
    answer.short()
    return int(answer.number(4)), int(answer.number(4))


def _delete(channel: Channel, name: str) -> None:
    data = frames.method(channel.number, frames.QUEUE_DELETE, b"\0\0", frames.short(name), b"\0")
    channel.call(data, frames.QUEUE_DELETE_OK)
