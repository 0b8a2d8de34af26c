"""What a consumer has claimed, and the letters that take the place of such a message. Pure; times are arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from celery.amqp.delays import LAST, arrived_from
from celery.amqp.frames import Delivered
from celery.amqp.marks import Mark
from celery.amqp.messages import (
    AGAIN,
    COUNT,
    DEAD,
    DIED,
    INNER,
    PLACE,
    REASON,
    SENT,
    TAG,
    comes_again,
    copy_of,
    home_of,
    is_direct,
    name_of,
    put_together,
    sent_at,
    sent_back,
    task_of,
)
from celery.amqp.publisher import Letter
from celery.wire.message import Delivery, Settlement

Claimed = list[tuple[str, Delivered]]
"""Messages, each with the queue that it came from."""


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


def taken(
    came: Delivered,
    source: str,
    name: str,
    mark: Mark,
    tag: str,
    fence: int,
    now: float,
    *,
    marked: bool,
    revoked: bool,
) -> tuple[Held, Delivery]:
    """The claim *tag* of a message that came from *source*. *marked*: whether what is started is marked at all."""
    direct, queue, started, doubled = is_direct(came), source.removeprefix(INNER), mark.count, False
    if not direct:
        doubled, headers = comes_again(came), came.properties.headers or {}
        came, source = came_home(came, source)
        started = mark.count or int(headers.get(COUNT) or 0)
        if not (started or marked):
            started = int(headers.get("x-delivery-count") or 0)
    exchange, key = came.exchange, came.routing_key
    if exchange == LAST:
        exchange, key = "", arrived_from(key)
    if source != queue:
        key = queue
    again = started > 0 if marked else came.redelivered
    envelope = put_together(came, exchange, key, name, direct=direct)
    held = Held(came, queue, source, name, fence, came.tag, started, now, doubled)
    return held, Delivery(tag, queue, envelope, fence, started, mark.count > 0, again, revoked)


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
    kept = {name: headers[name] for name in (COUNT, SENT) if name in headers}
    place = INNER + source.removeprefix(INNER)
    return times, copy_of(came, place, **kept, **{AGAIN: times + 1, PLACE: home_of(came, source)})


def came_home(came: Delivered, source: str) -> tuple[Delivered, str]:
    """A message that was put off, and its source, as if it had never been; others as they are."""
    home = home_of(came, source)
    if home == source and PLACE not in (came.properties.headers or ()):
        return came, source
    return msgspec.structs.replace(came, exchange="", routing_key=home.removeprefix(INNER), redelivered=True), home


def parted(
    found: Claimed, marks: Mapping[str, Mark], ours: Collection[str], me: str, ended: Callable[[str, float], bool]
) -> tuple[Claimed, Claimed, Claimed]:
    """Messages that may be claimed; those that are being run: by others, or as another copy (of *ours*) by *me*; and
    those that were sent twice, of which the other copy was started, or has *ended* since (task id, Unix time)."""
    free: Claimed = []
    busy: Claimed = []
    over: Claimed = []
    names = set(ours)
    for source, came in found:
        name = name_of(came)
        mark = marks.get(name)
        alive = mark is not None and mark.alive and mark.owner != me
        known, sent, task = mark is not None or name in names, sent_at(came), task_of(came)
        if sent is not None and task and not came.redelivered and known:
            place = over
        elif comes_again(came) and (alive or name in names):
            place = busy
        elif sent is not None and task and mark is None and ended(task, sent):
            place = over
        else:
            place = free
        place.append((source, came))
        names.add(name)
    return free, busy, over


def taken_by_others(unsure: Iterable[Held], marks: Mapping[str, Mark], me: str) -> set[int]:
    """Fences of those that somebody else than *me* has started meanwhile."""
    return {
        held.fence
        for held in unsure
        if (mark := marks.get(held.name)) is not None and (mark.ended or mark.owner not in ("", me))
    }


def picked(buffers: Mapping[str, deque[Delivered]], first: int, turn: int, limit: int) -> tuple[Claimed, int]:
    """Up to *limit* messages out of the buffers, by source, and the next *turn*.

    All those of the *first* ones first, then one of each other in turn.
    """
    found: Claimed = []
    sources = list(buffers)
    inner, usual = sources[:first], sources[first:]
    for source in inner:
        while buffers[source] and len(found) < limit:
            found.append((source, buffers[source].popleft()))
    empty = 0
    while len(found) < limit and empty < len(usual):
        source = usual[turn % len(usual)]
        turn += 1
        if buffers[source]:
            found.append((source, buffers[source].popleft()))
            empty = 0
        else:
            empty += 1
    return found, turn


def counted(
    queues: Collection[str], held: Iterable[Held], buffers: Mapping[str, Collection[Delivered]]
) -> tuple[dict[str, int], dict[str, int]]:
    """By queue: what is held, and what waits in the buffers."""
    holds, waits = dict.fromkeys(queues, 0), dict.fromkeys(queues, 0)
    for one in held:
        holds[one.queue] = holds.get(one.queue, 0) + 1
    for source, buffer in buffers.items():
        waits[source.removeprefix(INNER)] += len(buffer)
    return holds, waits


def refuse_effects(given: bool) -> None:
    if given:
        raise ValueError("RabbitMQ has no store in the same place: records are to be put before the settlement.")
