"""What a consumer has claimed, and the letters that take the place of such a message. Pure; times are arguments."""

from __future__ import annotations

import msgspec

from celery.amqp.frames import Delivered
from celery.amqp.messages import AGAIN, COUNT, DEAD, DIED, INNER, PLACE, REASON, TAG, copy_of, home_of, sent_back
from celery.amqp.publisher import Letter
from celery.wire.message import Settlement


class Held(msgspec.Struct):
    """A claim. `tag`: the server's, on the present connection; 0 if the message is not ours to acknowledge now."""

    came: Delivered
    queue: str
    source: str
    name: str
    fence: int
    tag: int
    deliveries: int
    since: float
    """When it was claimed, or came again: monotonic seconds."""
    doubled: bool = False
    """There may be copies of it."""
    started: bool = False
    gone: bool = False
    """Acknowledged already, by `let_go`."""

    @property
    def lost(self) -> bool:
        """Whether it has nothing to be acknowledged by, and is not acknowledged."""
        return not (self.tag or self.gone)


def dead_letter(settlement: Settlement, held: Held, now: float) -> Letter:
    """For the dead set. *now*: Unix seconds."""
    headers = {
        REASON: settlement.reason,
        PLACE: held.queue,
        TAG: str(settlement.delivery.tag),
        DIED: int(now * 1000),
        COUNT: held.deliveries + held.started,
    }
    return copy_of(held.came, DEAD + held.queue, **headers)


def next_turn(held: Held) -> Letter:
    """The same message once more, for its queue."""
    count = held.deliveries + held.started
    return copy_of(held.came, held.source, **({COUNT: count} if count else {}), **sent_back(held.came))


def put_off(came: Delivered, source: str) -> tuple[int, Letter]:
    """A letter for later, since somebody runs this message, which came from *source*; and how often it was put off.

    It goes where only workers of ours listen: others would run it.
    """
    headers = came.properties.headers or {}
    times = int(headers.get(AGAIN) or 0)
    kept = {COUNT: headers[COUNT]} if COUNT in headers else {}
    place = INNER + source.removeprefix(INNER)
    return times, copy_of(came, place, **kept, **{AGAIN: times + 1, PLACE: home_of(came, source)})


def came_home(came: Delivered, source: str) -> tuple[Delivered, str]:
    """A message that was put off, and its source, as if it had never been; others as they are."""
    home = home_of(came, source)
    if home == source and PLACE not in (came.properties.headers or ()):
        return came, source
    return msgspec.structs.replace(came, exchange="", routing_key=home.removeprefix(INNER), redelivered=True), home
