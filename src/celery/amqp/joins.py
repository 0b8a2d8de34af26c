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
from celery.amqp.channel import Channel, Refused
from celery.amqp.frames import Delivered, Properties, encode_properties
from celery.amqp.link import Link
from celery.amqp.messages import QUORUM
from celery.amqp.publisher import Letter
from celery.amqp.tables import encode_table
from celery.brokers.answers import Held, Joins
from celery.exceptions import BrokerError
from celery.wire.message import Arrival, Queue

OPEN, DONE = "celeriac.join.", "celeriac.joined."
INDEX, SIZE, GROWS = "celeriac_index", "celeriac_size", "celeriac_grows"
KEPT, REMEMBERED = 7 * 86_400_000, 600_000
"""Milliseconds: for a join that is not complete, since its last part; for the fact that it is."""
NOT_FOUND, REFUSED, PRECONDITION_FAILED = 404, 403, 406
KIND = {**QUORUM, "x-single-active-consumer": True}
"""A queue of the kind quorum, which knows no exclusive consumers."""
PATIENCE = 2.0
"""Seconds that whoever looks waits for another who does; in a queue of the kind quorum also for one who has gone."""
PASSIVE, DURABLE = 1, 2
EXCLUSIVE = 4
PERSISTENT = 2
AWAY = "inaccessible"
"""In what the server says of a queue of the kind classic, by the same number, while its node is down."""


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
        kind = KIND if self._quorum() else {}
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
        held = RabbitHeld(self._link, group)
        try:
            if held.take():
                return held
        except BaseException:
            held.close()
            raise
        held.close()
        return None


def queue_of_join(name: str, quorum: bool) -> Queue:
    """The queue of that *name* as `arrive` declares it, for whoever finds that it is gone."""
    return Queue(name, arguments={"x-expires": KEPT, **(KIND if quorum else {})})


class RabbitHeld(Held):
    """One who takes the parts of a join, each time on a channel of its own.

    They are given back by closing it: the server takes back what was delivered and the consumer in one step, so that
    whoever looks next sees all parts.  After a cancel and a nack it might see those that came meanwhile, and only them.
    """

    def __init__(self, link: Link, group: str) -> None:
        self._link = link
        self._group = group
        self._channel: Channel | None = None
        self._came: list[Delivered] = []
        self._wanted = 0
        self._cancelled = False
        self._all = threading.Event()
        self.parts: list[tuple[str, bytes]] = []

    def take(self) -> bool:
        """Whether it is complete: then its parts are held."""
        name = OPEN + self._group
        if self._is_done():
            return False
        there = self._free(name)
        while there:
            channel = self._consume(name, there)
            if not self._all.wait(self._link.timeout):
                raise trouble(f"RabbitMQ at {channel.connection.where} does not give out the parts of a chord.")
            if channel.ended is not None:
                raise channel.ended
            if self._cancelled:
                raise self._busy()
            if self._complete():
                # Whoever held them before may have finished, and died before the queue was deleted.
                return not self._is_done()
            self.close()
            # One that came meanwhile was counted by nobody: it was here that the others were.
            before, there = there, self._returned(name, there)
            if there <= before:
                return False
        return False

    def _is_done(self) -> bool:
        """Whether somebody has finished it: then nothing of it is left."""
        if self._ask(DONE + self._group) is None:
            return False
        self._link.control(lambda channel: _delete(channel, OPEN + self._group))
        return True

    def _free(self, name: str) -> int:
        """How many parts are ready when nobody holds any. Others do so for moments."""
        until = time.monotonic() + PATIENCE
        while True:
            there, consumers = self._ask(name) or (0, 0)
            if not consumers:
                return there
            if time.monotonic() > until:
                raise self._busy()
            time.sleep(0.01)

    def _returned(self, name: str, least: int) -> int:
        """How many are ready, once those that were given back are. A queue of the kind quorum takes a moment.

        Somebody else may have them by then. If it takes long that is looked at again: among them may be one of which
        nobody else knows that it was the last.
        """
        until = time.monotonic() + self._link.timeout
        while True:
            found = self._ask(name)
            if found is None or found[0] >= least:
                return 0 if found is None else found[0]
            if time.monotonic() > until:
                raise self._busy()
            time.sleep(0.01)

    def _ask(self, name: str) -> tuple[int, int] | None:
        return self._link.control(lambda channel: _count(channel, name))

    def _consume(self, name: str, wanted: int) -> Channel:
        self._wanted, self._came = wanted, []
        self._cancelled = False
        self._all.clear()
        channel = self._channel = self._link.connection().channel()
        channel.on_message = self._arrived
        channel.on_end = lambda error: self._all.set()
        channel.on_cancel = self._lost
        args = (b"\0\0", frames.short(name), frames.short(""), bytes((EXCLUSIVE,)), encode_table({}))
        try:
            channel.call(frames.method(channel.number, frames.BASIC_CONSUME, *args), frames.BASIC_CONSUME_OK)
        except Refused as error:
            # Who was looked for a moment ago may have come, or have finished the join, and the queue is gone.
            if error.code == NOT_FOUND or (error.code == REFUSED and "exclusive" in str(error)):
                raise self._busy() from error
            raise
        return channel

    def _busy(self) -> BrokerError:
        return trouble(f"Somebody else sees to the chord {self._group} now.")

    def _arrived(self, came: Delivered) -> None:
        self._came.append(came)
        if len(self._came) >= self._wanted:
            self._all.set()

    def _lost(self, tag: str) -> None:
        """The queue was deleted."""
        self._cancelled = True
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
        assert self._channel is not None
        try:
            self._finish(self._channel)
        except BrokerError as error:
            if not error.temporary:
                raise
            # The parts are in their queue again: whoever takes them is to know that they have been of use.
            self._link.control(self._finish)

    def _finish(self, channel: Channel) -> None:
        _have(channel, DONE + self._group, REMEMBERED, {})
        _delete(channel, OPEN + self._group)

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.on_message = channel.on_end = channel.on_cancel = None
            channel.close()  # what it has not acknowledged goes back


def _letter(arrival: Arrival) -> Letter:
    headers = {INDEX: arrival.index, SIZE: arrival.size, GROWS: arrival.grows}
    properties = encode_properties(Properties(headers=headers, delivery_mode=PERSISTENT))
    return Letter("", OPEN + arrival.group, properties, arrival.value)


def _have(channel: Channel, name: str, kept: int, kind: Mapping[str, Any]) -> None:
    data = frames.queue_declare(channel.number, name, DURABLE, {"x-expires": kept, **kind})
    channel.call(data, frames.QUEUE_DECLARE_OK)


def _count(channel: Channel, name: str) -> tuple[int, int] | None:
    """Messages that are ready, and consumers; None, and the channel is closed, where there is no such queue.

    Raises a temporary error where it is away, and so not known to be complete, or finished, or neither.
    """
    try:
        answer = channel.call(frames.queue_declare(channel.number, name, PASSIVE, {}), frames.QUEUE_DECLARE_OK)
    except Refused as error:
        if error.code == NOT_FOUND and AWAY not in str(error):
            return None
        error.temporary = error.temporary or error.code == NOT_FOUND
        raise
    answer.short()
    return int(answer.number(4)), int(answer.number(4))


def _delete(channel: Channel, name: str) -> None:
    data = frames.method(channel.number, frames.QUEUE_DELETE, b"\0\0", frames.short(name), b"\0")
    channel.call(data, frames.QUEUE_DELETE_OK)
