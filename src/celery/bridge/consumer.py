"""What one worker takes from its queues over kombu.

Lanes fetch as many messages as `claim` asks for; what nobody claims for a second goes back, and nothing more is
fetched until somebody claims again.  A message that is not due yet is held here, as original workers do it, unless its
transport can delay it.  What is held is in the spool where the transport would forget it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from celery.amqp.marks import Mark, Marks
from celery.backends.store import Store
from celery.bridge import sqs
from celery.bridge.lane import Lane
from celery.bridge.messages import (
    COUNT,
    DEAD,
    DIED,
    DUE,
    INNER,
    INTERRUPTED,
    PLACE,
    REASON,
    TAG,
    name_of,
    put_together,
    read,
    task_of,
    with_headers,
)
from celery.bridge.spool import Spool
from celery.bridge.way import Way
from celery.brokers.base import NOTHING, Consumer, Needs, Verdict
from celery.brokers.revocations import Revocations
from celery.exceptions import BackendError, BrokerError
from celery.utils.bell import Chime
from celery.utils.clock import Clock
from celery.utils.log import get_logger
from celery.utils.uuids import uuid
from celery.wire.message import Delivery, Outgoing, Record, Settlement
from celery.wire.protocol import Message

logger = get_logger(__name__)

IDLE = 1.0
"""Seconds after which what is fetched and not claimed goes back."""
FORGOTTEN = 12.0
"""Seconds without a claim after which nothing is fetched."""
EXACT = 30.0
"""Seconds that an exact claim waits for its poll."""

Send = Callable[[str, Message, float], object]
"""Publish a message to a queue, to be delivered after so many seconds."""


class Held(msgspec.Struct):
    """A message that is here. `number`: its name in the spool."""

    number: int
    source: str
    lane: Lane
    came: Any
    message: Message
    deliveries: int
    interrupted: bool
    again: bool
    """The transport says that it was handed out before."""
    doubtful: bool
    """It may have been."""
    since: float
    started: bool = False
    gone: bool = False
    """Acknowledged already, by `let_go`."""

    @property
    def queue(self) -> str:
        return self.source.removeprefix(INNER)


class KombuConsumer(Consumer):
    """*send* publishes copies of messages, *post* messages. *ready* is called with every channel, *ended* at last."""

    def __init__(
        self,
        way: Way,
        queues: Sequence[str],
        name: str,
        store: Store | None,
        clock: Clock,
        *,
        lease: float,
        revocations: Revocations,
        send: Send,
        post: Callable[[Sequence[Outgoing]], object],
        spool: Spool | None = None,
        ready: Callable[[Any], object] = lambda channel: None,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self.queues = tuple(queues)
        self.name = name
        self._id = uuid()
        self._way = way
        self._marks = Marks(store, self._id, lease, clock)
        self._revocations = revocations
        self._informed = False
        """Whether it knows what was revoked before it began."""
        self._clock = clock
        self._send, self._post = send, post
        self._chime = Chime()
        self._woken = False
        self._closed = False
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._inner = [INNER + queue for queue in queues if way.may_have(INNER + queue)]
        self._sources = [*self._inner, *queues]
        self._buffers: dict[str, deque[Held]] = {source: deque() for source in self._sources}
        self._later: list[tuple[float, int, Held]] = []
        """Not due yet, as a heap."""
        self._held: dict[str, Held] = {}
        """By tag: what is claimed."""
        self._turn = 0
        self._demand = 0
        self._claimed_at = time.monotonic()
        self._visible: dict[str, int] = {}
        self._spool = spool
        self._ended = ended
        groups = [[source] for source in self._sources] if way.waits else [self._sources]
        self._lanes = [
            Lane(
                way,
                group,
                self._arrived,
                self._room,
                heard=self._heard,
                tick=self._slim,
                lost=self._lost,
                ready=ready,
            )
            for group in groups
        ]

    # -- claiming --------------------------------------------------------------------------------------------------

    def claim(self, limit: int, timeout: float = 0.0, wanted: Mapping[str, int] = NOTHING) -> list[Delivery]:
        self._check_open()
        if not self._informed:
            self._revocations.refresh()
            self._informed = True
        end = time.monotonic() + timeout
        while True:
            self._ask_for(limit)
            self._chime.clear()
            found = self._lease(self._take(limit))
            left = end - time.monotonic()
            if found or left <= 0 or self._woken or self._chime.closed:
                self._woken = False
                return found
            self._chime.wait(min(left, FORGOTTEN / 2))

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerError(f"The consumer {self.name} is closed.")

    def _ask_for(self, limit: int) -> None:
        with self._lock:
            self._demand = limit
            self._claimed_at = time.monotonic()
        broken = self._broken()
        asked = [(lane, lane.ask()) for lane in self._lanes]
        if self._way.exact and broken is None:
            until = time.monotonic() + EXACT
            while time.monotonic() < until and any(lane.answered < number for lane, number in asked):
                self._chime.wait(0.05)
                self._claimed_at = time.monotonic()  # what has come meanwhile is not left over
            broken = self._broken()
        if broken is not None:
            raise broken

    def _broken(self) -> BrokerError | None:
        return next((lane.error for lane in self._lanes if lane.error is not None), None)

    def _room(self, lane: Lane) -> int:
        """How many messages more are wanted of this lane."""
        if self._closed or time.monotonic() - self._claimed_at > FORGOTTEN:
            return 0
        return self._demand - sum(len(self._buffers[source]) for source in lane.sources)

    def _take(self, limit: int) -> list[Held]:
        """From the buffers: those of the machinery first, then one of each queue in turn."""
        found: list[Held] = []
        with self._lock:
            self._bring_due()
            usual = self.queues
            for source in self._inner:
                while self._buffers[source] and len(found) < limit:
                    found.append(self._buffers[source].popleft())
            empty = 0
            while len(found) < limit and empty < len(usual):
                source = usual[self._turn % len(usual)]
                self._turn += 1
                if self._buffers[source]:
                    found.append(self._buffers[source].popleft())
                    empty = 0
                else:
                    empty += 1
            # A claim that has got all it asked for is no wish for more; the next one is.
            self._demand = limit - len(found)
            if len(found) == limit or any(self._buffers.values()):
                self._chime.ring()  # there may be more
        return found

    def _bring_due(self) -> None:
        now = self._clock.time()
        while self._later and self._later[0][0] <= now:
            held = heapq.heappop(self._later)[2]
            self._buffers[held.source].append(held)

    def _lease(self, found: Sequence[Held]) -> list[Delivery]:
        try:
            marks = self._marks.read([name_of(held.message) for held in found if held.doubtful])
        except BaseException:
            with self._lock:
                for held in reversed(found):
                    self._buffers[held.source].appendleft(held)
            raise
        claimed = []
        with self._lock:
            for held in found:
                mark = marks.get(name_of(held.message))
                if mark is None or self._is_claimable(held, mark):
                    claimed.append(self._deliver(held))
        return claimed

    def _is_claimable(self, held: Held, mark: Mark) -> bool:
        """Whether a message with such a mark is to be run; of one that is running only the new receipt is of use."""
        if mark.ended:
            self._end(held)
            return False
        if mark.alive and self._counts():
            name = name_of(held.message)
            for running in self._held.values():
                if name_of(running.message) == name:
                    running.came, running.since = held.came, held.since
            return False
        if not mark.alive:
            held.deliveries += mark.count
            held.interrupted = True
        return True

    def _deliver(self, held: Held) -> Delivery:
        fence = next(self._numbers)
        tag = f"{self._id}-{fence}"
        self._held[tag] = held
        again = held.deliveries > 0 or (held.again and not self._marks)
        info = held.came.delivery_info
        key = held.queue if held.source != held.queue else str(info.get("routing_key") or held.queue)
        envelope = put_together(held.message, str(info.get("exchange") or ""), key, again=again)
        revoked = bool(self._revocations) and task_of(held.message) in self._revocations
        return Delivery(tag, held.queue, envelope, fence, held.deliveries, held.interrupted, again, revoked)

    # -- starting and ending ---------------------------------------------------------------------------------------

    def start(
        self, deliveries: Sequence[Delivery], records: Sequence[Record] = (), needs: Needs = NOTHING
    ) -> list[Verdict]:
        _refuse_effects(bool(records))
        verdicts: list[Verdict] = []
        begun: list[Held] = []
        with self._lock:
            for delivery in deliveries:
                held = self._held.get(str(delivery.tag))
                if held is None:
                    verdicts.append("lost")
                elif self._revocations and task_of(held.message) in self._revocations:
                    verdicts.append("revoked")
                else:
                    verdicts.append("ok")
                    if not held.started:
                        held.started = True
                        begun.append(held)
            if self._spool is not None:
                self._spool.mark(held.number for held in begun if not held.gone)
        self._marks.write({name_of(held.message): held.deliveries + 1 for held in begun})
        return verdicts

    def let_go(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            found = [held for delivery in deliveries if (held := self._held.get(str(delivery.tag))) is not None]
            for held in found:
                if not held.gone:
                    held.gone = True
                    self._end(held)

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        _refuse_effects(any(s.records or s.arrivals for s in settlements))
        applied: list[bool] = []
        ended: list[tuple[Settlement, Held]] = []
        seen: set[str] = set()
        with self._lock:
            for settlement in settlements:
                tag = str(settlement.delivery.tag)
                held = None if tag in seen else self._held.get(tag)
                seen.add(tag)
                applied.append(held is not None)
                if held is not None:
                    ended.append((settlement, held))
        messages = [message for settlement, _ in ended for message in settlement.messages]
        if messages:
            self._post(messages)
        kept = [held for settlement, held in ended if self._keeps(settlement, held)]
        for settlement, held in ended:
            if settlement.verb == "dead" and not self._way.may_have(DEAD + held.queue):
                self._refuse(held, settlement.reason)
            elif settlement.verb != "done" and held not in kept:
                self._send(*self._moved(settlement, held))
        self._marks.clear([name_of(held.message) for _, held in ended if held.started])
        with self._lock:
            for settlement, held in ended:
                self._held.pop(str(settlement.delivery.tag), None)
                if held in kept:
                    self._hold(held, self._clock.time() + settlement.delay)
                elif not held.gone:
                    self._end(held)
        self._flush()
        return applied

    def _refuse(self, held: Held, reason: str) -> None:
        """There is no queue of the dead: what the transport does with a refused message has to do."""
        text = "A message of %r is refused, as there is no queue %r among the predefined ones: %s"
        logger.error(text, held.queue, DEAD + held.queue, reason)
        if not held.gone:
            held.gone = True
            held.lane.refuse([held.came])

    def _keeps(self, settlement: Settlement, held: Held) -> bool:
        """Whether a message that waits for its time does so here."""
        waits = settlement.verb == "requeue" and settlement.delay > 0
        return waits and not held.started and not held.gone and not self._way.delays(held.source)

    def _counts(self) -> bool:
        """Whether the transport says how often it has handed out a message."""
        return self._way.kind == "sqs"

    def _moved(self, settlement: Settlement, held: Held) -> tuple[str, Message, float]:
        """What takes the place of a message that is not done."""
        count = held.deliveries + held.started
        if settlement.verb == "dead":
            headers = {
                REASON: settlement.reason,
                PLACE: held.queue,
                TAG: str(settlement.delivery.tag),
                DIED: int(self._clock.time() * 1000),
                COUNT: count,
            }
            return DEAD + held.queue, with_headers(held.message, **headers), 0.0
        return held.source, _counted(held.message, count), settlement.delay

    def release(self, deliveries: Sequence[Delivery]) -> None:
        found: list[Held] = []
        for delivery in deliveries:
            held = self._held.get(str(delivery.tag))
            if held is None:
                continue
            if held.gone:  # the transport has forgotten it
                self._send(held.source, _counted(held.message, held.deliveries), 0.0)
            found.append(held)
            with self._lock:
                self._held.pop(str(delivery.tag), None)
        self._marks.clear([name_of(held.message) for held in found if held.started])
        self._give_back([held for held in found if not held.gone])
        self._flush()

    def _end(self, held: Held) -> None:
        held.lane.ack([held.came])
        self._drop([held.number])

    def _drop(self, numbers: Sequence[int]) -> None:
        if self._spool is not None:
            self._spool.drop(numbers)

    def _give_back(self, found: Sequence[Held]) -> None:
        """Uncounted, as they came."""
        for lane in self._lanes:
            mine = [held for held in found if held.lane is lane]
            numbers = [held.number for held in mine]
            lane.give_back([(held.source, held.came) for held in mine], partial(self._drop, numbers))

    def _flush(self) -> None:
        if self._way.exact:
            for lane in self._lanes:
                lane.flush(EXACT)

    # -- the rest --------------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        """Have SQS keep from others what is held here."""
        if not self._closed:
            self._marks.sign()
            self._revocations.refresh()
        if self._way.kind == "sqs" and not self._closed:
            now = time.monotonic()
            with self._lock:
                found = [*self._held.values(), *(entry[2] for entry in self._later)]
                found += [held for buffer in self._buffers.values() for held in buffer]
            for source in self._sources:
                mine = [held for held in found if held.source == source and not held.gone]
                if mine:
                    mine[0].lane.do(partial(self._extend, source, mine, now))
        return not self._closed

    def _extend(self, source: str, found: Sequence[Held], now: float, channel: Any) -> None:
        if source not in self._visible:
            self._visible[source] = sqs.visibility(channel, source, [found[0].came])
        seconds = self._visible[source]
        late = [held for held in found if now - held.since > seconds / 3]
        sqs.extend(channel, source, [held.came for held in late], seconds)
        for held in late:
            held.since = now

    @property
    def closed(self) -> bool:
        return self._closed

    def wake(self) -> None:
        self._woken = True
        self._chime.ring()

    def fileno(self) -> int:
        return self._chime.fileno()

    def due_in(self) -> float | None:
        with self._lock:
            return max(0.0, self._later[0][0] - self._clock.time()) if self._later else None

    def counts(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """By queue: what is claimed, what is fetched, and what waits for its time."""
        claimed, fetched, later = (dict.fromkeys(self.queues, 0) for _ in range(3))
        with self._lock:
            for held in self._held.values():
                claimed[held.queue] += 1
            for buffer in self._buffers.values():
                for held in buffer:
                    fetched[held.queue] += 1
            for _, _, held in self._later:
                later[held.queue] += 1
        return claimed, fetched, later

    def close(self) -> None:
        """Give back everything; what cannot be given back is in the spool, or comes back by itself."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            claimed = list(self._held.values())
            rest = [*(held for buffer in self._buffers.values() for held in buffer), *(e[2] for e in self._later)]
            self._held.clear()
            self._later.clear()
            for buffer in self._buffers.values():
                buffer.clear()
        for held in claimed:
            if held.started and not held.gone:
                self._interrupt(held)
        self._resign()
        waiting = [held for held in claimed if not held.started]
        self._give_back(sorted([*waiting, *rest], key=lambda held: held.number))
        for lane in self._lanes:
            lane.stop()
        until = time.monotonic() + self._way.timeout + self._way.patience
        ended = [lane.join(max(0.0, until - time.monotonic())) for lane in self._lanes]
        if not all(ended):
            logger.warning("The broker %s:// does not answer: its connection is left alone.", self._way.scheme)
        try:
            self._ended()
        except BrokerError as error:
            logger.warning("A queue of this worker's own could not be deleted: %s", error)
        else:
            if self._spool is not None:
                self._spool.disown()
        if self._spool is not None:
            self._spool.leave()
        self._chime.close()

    def _resign(self) -> None:
        try:
            self._marks.resign()
        except BackendError as error:
            logger.warning("Could not say that this worker has gone; its sign of life ends by itself: %s", error)

    def _interrupt(self, held: Held) -> None:
        """It was started, and nobody has said what came of it."""
        if self._marks:
            return self._give_back([held])  # the mark says it to whoever gets the message
        headers = {COUNT: held.deliveries + 1, INTERRUPTED: True}
        try:
            self._send(held.source, with_headers(held.message, **headers), 0.0)
        except BrokerError as error:
            logger.warning("Could not give back what was running: %s", error)
            return None
        self._end(held)
        return None

    # -- on the threads of the lanes -------------------------------------------------------------------------------

    def _arrived(self, lane: Lane, source: str, came: Any) -> None:
        message = read(came)
        headers, number = message.headers, next(self._numbers)
        if self._spool is not None:
            self._spool.keep(number, source, message)
        again = sqs.received(came) > 1 if self._counts() else bool(came.delivery_info.get("redelivered"))
        held = Held(
            number,
            source,
            lane,
            came,
            message,
            int(headers.get(COUNT) or 0),
            bool(headers.get(INTERRUPTED)),
            again,
            again or not self._counts(),
            time.monotonic(),
        )
        due = float(headers.get(DUE) or 0) / 1000
        left = due - self._clock.time()
        if left > 0 and self._way.delays(source):
            # It waits as long as the transport lets it, again.
            self._send(source, message, left)
            self._end(held)
            return
        with self._lock:
            if self._closed:
                self._give_back([held])
            elif left > 0:
                self._hold(held, due)
            else:
                self._buffers[source].append(held)
                self._claimed_at = time.monotonic()  # who has waited for it for long is to have the time to claim it
        self._chime.ring()

    def _hold(self, held: Held, due: float) -> None:
        heapq.heappush(self._later, (due, next(self._numbers), held))
        self._chime.ring()  # for whoever waits until the next one is due

    def _heard(self) -> None:
        if self._way.exact or self._broken() is not None:
            self._chime.ring()

    def _slim(self) -> None:
        """Give back what nobody has claimed for a while, and fetch no more until somebody claims."""
        if time.monotonic() - self._claimed_at < IDLE or not any(self._buffers.values()):
            return
        with self._lock:
            found = [held for buffer in self._buffers.values() for held in buffer]
            for buffer in self._buffers.values():
                buffer.clear()
            self._demand = 0
        self._give_back(found)

    def _lost(self, lane: Lane) -> None:
        """The server gives to others what came over this connection."""
        with self._lock:
            for source, buffer in self._buffers.items():
                self._buffers[source] = deque(held for held in buffer if held.lane is not lane)
            self._held = {tag: held for tag, held in self._held.items() if held.lane is not lane}
            self._later = [entry for entry in self._later if entry[2].lane is not lane]
            heapq.heapify(self._later)


def _counted(message: Message, count: int) -> Message:
    """As it came, with how often it was run."""
    return with_headers(message, **({COUNT: count} if count else {}))


def _refuse_effects(given: bool) -> None:
    if given:
        raise ValueError("This broker has no store in the same place: records are to be put before the settlement.")
