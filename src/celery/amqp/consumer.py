"""What one worker takes from its queues, on a connection of its own.

What the server pushes waits in the `Intake` until it is claimed; of what is claimed the consumer knows whether it has
started, and by what it is acknowledged.

When the connection ends the server gives everything to whoever asks, also to this consumer once it has connected again.
A message that comes again to the one that still runs it is neither run twice nor given away: the claim that it has goes
on.  One that has been settled meanwhile is acknowledged when it comes again.  Where another consumer gets it while the
one that runs it lives, it is put off: a copy waits in the queues of delays, and looks again after a while.  Where that
is refused it is kept (`celery.amqp.kept`).

The same happens on purpose to what runs for long, since a server ends the channel of whoever keeps a message without
acknowledging it for its `consumer_timeout`: the copy comes by every so often, and finds its owner alive or dead.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from celery.amqp.frames import Delivered
from celery.amqp.held import (
    Claimed,
    Held,
    counted,
    dead_letter,
    next_turn,
    parted,
    put_off,
    refuse_effects,
    taken,
    taken_by_others,
)
from celery.amqp.intake import Intake
from celery.amqp.kept import Departures, Kept
from celery.amqp.link import Link
from celery.amqp.marks import UNMARKED, Mark, Marks
from celery.amqp.messages import INNER, comes_again, name_of, task_of
from celery.amqp.publisher import Letter
from celery.amqp.receipts import MOST_REMEMBERED, Finished, Receipts
from celery.amqp.returns import Returns, anew
from celery.backends.store import Store
from celery.brokers.base import LEASE, NOTHING, Consumer, Needs, Verdict
from celery.brokers.revocations import Revocations
from celery.exceptions import BackendError, BrokerError
from celery.utils.clock import Clock
from celery.utils.uuids import uuid
from celery.wire.message import Delivery, Outgoing, Record, Settlement

PUTTING_OFF = (
    "What runs already cannot be put off: it is kept without acknowledging it, and all else is served.",
    "What runs already can be put off again",
)
SENDING_ANEW = (
    "What has come back often cannot be sent anew: RabbitMQ drops it if it comes back as often once more.",
    "What has come back often can be sent anew again",
)
MOVED_AFTER = 600.0
"""Seconds: a third of the server's consumer_timeout, unless that was set."""


class RabbitConsumer(Consumer):
    """*send* publishes letters with confirms, *declare* sees to queues, *post* publishes messages.

    *bury* says whether it has sent a dead message where its queue wants it; *ended* is that of the broker.
    """

    def __init__(
        self,
        link: Link,
        queues: Sequence[str],
        name: str,
        store: Store | None,
        clock: Clock,
        *,
        revocations: Revocations,
        bury: Callable[[Held, str], bool],
        ended: Callable[[str, float], bool],
        send: Callable[[Sequence[Letter]], object],
        post: Callable[[Sequence[Outgoing]], object],
        declare: Callable[[Sequence[str]], object],
        delay: Callable[[str, float], tuple[str, str]],
        exact: bool = False,
        fleeting: bool = False,
        lease: float = LEASE,
        moved_after: float = MOVED_AFTER,
        limits: Mapping[str, int] = NOTHING,
    ) -> None:
        self.queues = tuple(queues)
        self.name = name
        self._id = uuid()
        self._marks = Marks(store, self._id, lease, clock)
        self._lease_time = lease
        self._revocations, self._bury, self._ended = revocations, bury, ended
        self._informed = False
        """Whether it knows what was revoked before it began."""
        self._moved_after = moved_after
        self._clock = clock
        self._send, self._post, self._declare, self._delay = send, post, declare, delay
        self._woken = self._closed = False
        self._lock = threading.RLock()
        """Never held while an answer of the server is waited for: its thread takes it."""
        self._moving = threading.Lock()
        """Held while what has run for long is moved."""
        self._numbers = itertools.count(1)
        self._held: dict[str, Held] = {}
        self._orphans: dict[str, str] = {}
        """By name: claims whose connection has ended."""
        self._finished = Finished()
        self._kept = Kept(lease, 2 * moved_after)
        self._departures, self._renewals = Departures(send, lease, *PUTTING_OFF), Departures(send, lease, *SENDING_ANEW)
        self._receipts = Receipts(time.monotonic(), link.timeout)
        self._returns = Returns(limits, marked=store is not None)
        self._intake = Intake(
            link,
            queues,
            name,
            self._lock,
            declare,
            held=self._unacknowledged,
            known=self._knows,
            lost=self._lose,
            leave=self._tidy,
            keeps=self._returns.are_many,
            exact=exact,
            fleeting=fleeting,
        )

    # -- claiming --------------------------------------------------------------------------------------------------

    def claim(self, limit: int, timeout: float = 0.0, wanted: Mapping[str, int] = NOTHING) -> list[Delivery]:
        if self._closed:
            raise BrokerError(f"The consumer {self.name} is closed.")
        if not self._informed:
            self._revocations.refresh()
            self._informed = True
        end = time.monotonic() + timeout
        while True:
            self._intake.ask_for(limit)
            self._intake.hear()
            if self._kept:
                self._look_again()
            found = self._lease(self._intake.take(limit))
            left = end - time.monotonic()
            if found or left <= 0 or self._woken or self._intake.chime.closed:
                self._woken = False
                return found
            due = self.due_in()
            self._intake.wait(left if due is None else min(left, due))

    def _lease(self, found: Claimed) -> list[Delivery]:
        marks: dict[str, Mark] = {}
        try:
            if self._marks and any(comes_again(came) for _, came in found):
                marks = self._marks.read([name_of(came) for _, came in found if comes_again(came)])
                found = self._put_off(found, marks)
            found = self._send_anew(found, marks)
        except BaseException:
            self._intake.put_back(found)
            raise
        claimed: list[Delivery] = []
        now, marked, revoked, opened = time.monotonic(), bool(self._marks), self._revocations, self._intake.open
        some = bool(revoked)
        with self._lock:
            for source, came in found:
                if came.tag not in opened:
                    continue  # its connection has ended meanwhile
                name = name_of(came)
                mark = marks.get(name, UNMARKED)
                if mark.ended:
                    self._intake.ack([came.tag])
                    continue
                fence = next(self._numbers)
                tag, gone = f"{self._id}-{fence}", some and task_of(came) in revoked
                held, delivery = taken(came, source, name, mark, tag, fence, now, marked=marked, revoked=gone)
                self._held[tag] = held
                claimed.append(delivery)
        return claimed

    def _put_off(self, found: Claimed, marks: Mapping[str, Mark]) -> Claimed:
        """Those that may be claimed; the others are being run, by others or as another copy by us, or have ended."""
        with self._lock:
            ours = {held.name for held in self._held.values()}
        free, busy, over = parted(found, marks, ours, self._id, self._ended)
        now = time.monotonic()
        sent = busy and self._departures.sent(lambda: [self._later(came, source) for source, came in busy], now)
        with self._lock:
            if busy and not sent:
                self._kept.add([one for one in busy if one[1].tag in self._intake.open], now)
                self._intake.chime.ring()  # there is to be room for others
            self._intake.ack([came.tag for _, came in (*(busy if sent else ()), *over)])
        return free

    def _send_anew(self, found: Claimed, marks: Mapping[str, Mark]) -> Claimed:
        """All but those that have come back so often that the server would drop them; of these copies are sent."""
        worn = [
            (source, came)
            for source, came in found
            if came.redelivered and self._returns.is_worn(came, source, marks.get(name_of(came), UNMARKED))
        ]
        if not (worn and self._renewals.sent(lambda: [anew(came, source) for source, came in worn], time.monotonic())):
            return found
        with self._lock:
            self._intake.ack([came.tag for _, came in worn])
            self._intake.chime.ring()  # there is to be room for others
        gone = {came.tag for _, came in worn}
        return [(source, came) for source, came in found if came.tag not in gone]

    def _look_again(self, *, claiming: bool = True) -> None:
        """At what is kept: what nobody runs any more is claimed next, or goes back if nobody is *claiming* here."""
        now = time.monotonic()
        with self._lock:
            due, running = self._kept.due(now), {held.name for held in self._held.values()}
        running |= self._marks.running([name_of(kept.came) for kept in due])
        with self._lock:
            free, back = self._kept.looked(due, running, now)
            if claiming:
                self._intake.put_back(free)
            else:
                back += [came.tag for _, came in free]
            self._intake.give_back(back)

    def _later(self, came: Delivered, source: str, least: float = 1.0) -> Letter:
        """A letter that asks again whether its owner lives, less often each time, but at least once in a lease."""
        times, letter = put_off(came, source)
        wait = max(least, min(2.0**times, self._lease_time))
        letter.exchange, letter.routing_key = self._delay(letter.routing_key, wait)
        return letter

    # -- starting and ending ---------------------------------------------------------------------------------------

    def start(
        self, deliveries: Sequence[Delivery], records: Sequence[Record] = (), needs: Needs = NOTHING
    ) -> list[Verdict]:
        refuse_effects(bool(records))
        verdicts: list[Verdict] = []
        counts: dict[str, int] = {}
        revoked = self._revocations
        with self._lock:
            for delivery in deliveries:
                held = self._of(delivery)
                if held is None or not (held.tag or held.started):
                    self._forget(delivery)
                    verdicts.append("lost")
                elif revoked and task_of(held.came) in revoked:
                    verdicts.append("revoked")
                else:
                    counts[held.name] = held.deliveries + 1
                    held.started = True
                    verdicts.append("ok")
            channel = self._intake.channel
        self._marks.write(counts)
        if self._intake.channel is channel or not self._marks:
            return verdicts
        return self._start_again(deliveries, verdicts)

    def _start_again(self, deliveries: Sequence[Delivery], verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The connection ended while these were marked: whoever got them before knows nothing of it."""
        with self._lock:
            gone = [held for delivery in deliveries if (held := self._of(delivery)) is not None and not held.tag]
        marks = self._marks.read([held.name for held in gone])
        self._marks.clear([name for name, mark in marks.items() if mark.owner == self._id])
        lost = {held.fence for held in gone}
        with self._lock:
            for delivery in deliveries:
                if delivery.fence in lost:
                    self._forget(delivery)
        return ["lost" if d.fence in lost else verdict for d, verdict in zip(deliveries, verdicts, strict=True)]

    def let_go(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            tags = []
            for delivery in deliveries:
                if (held := self._of(delivery)) is not None and not held.gone:
                    held.gone = True
                    self._orphans.pop(held.name, None)
                    if held.tag:
                        tags.append(held.tag)
                        self._receipts.add([held.name], time.monotonic())
                    else:
                        self._finished.add(held.name)
                        self._receipts.miss(held.name)
            self._intake.ack(tags)

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        refuse_effects(any(s.records or s.arrivals for s in settlements))
        self._receipts.tidy(self._marks, time.monotonic(), 2 * len(settlements))
        applied, ended, letters, places = [], [], [], []
        seen: set[str] = set()
        taken = self._taken(settlements) if self._orphans else ()
        with self._lock:
            for settlement in settlements:
                held = self._of(settlement.delivery)
                fresh = held is not None and str(settlement.delivery.tag) not in seen
                if fresh and held is not None and held.fence in taken:
                    self._forget(settlement.delivery)
                    fresh = False
                applied.append(fresh)
                if held is None or not fresh:
                    continue
                seen.add(str(settlement.delivery.tag))
                ended.append((settlement, held))
        messages = [message for settlement, _ in ended for message in settlement.messages]
        if messages:
            self._post(messages)
        for settlement, held in ended:
            if settlement.verb == "dead" and not self._bury(held, settlement.reason):
                letters.append(dead_letter(settlement, held, self._clock.time()))
                places.append(letters[-1].routing_key)
            elif settlement.verb == "requeue":
                letters.append(next_turn(held))
                places.append(held.source)
                if settlement.delay > 0:
                    letters[-1].exchange, letters[-1].routing_key = self._delay(held.source, settlement.delay)
        if letters:
            self._declare(places)
            self._send(letters)
        known = {held.name for _, held in ended if held.lost or (held.doubled and not held.gone)}
        self._marks.end(list(known))
        with self._lock:
            tags = []
            acked = [held.name for _, held in ended if held.started and held.tag and held.name not in known]
            self._receipts.add(acked, time.monotonic())
            lost = {held.name for _, held in ended if held.lost} - known
            for settlement, held in ended:
                self._held.pop(str(settlement.delivery.tag), None)
                self._orphans.pop(held.name, None)
                if held.tag:
                    tags.append(held.tag)
                elif not held.gone:
                    self._finished.add(held.name)
            self._intake.ack(tags)
        self._marks.end(list(lost))
        return applied

    def _taken(self, settlements: Sequence[Settlement]) -> set[int]:
        """Fences of what others have started since its connection ended: they took this consumer for dead."""
        with self._lock:
            unsure = [
                held
                for settlement in settlements
                if (held := self._of(settlement.delivery)) is not None and held.started and held.lost
            ]
        return taken_by_others(unsure, self._marks.read([held.name for held in unsure]), self._id)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        names, tags = [], []
        with self._lock:
            gone = [held for delivery in deliveries if (held := self._of(delivery)) is not None and held.gone]
        if gone:  # the server has forgotten these
            self._send([anew(held.came, held.source) for held in gone])
        with self._moving, self._lock:
            for delivery in deliveries:
                held = self._of(delivery)
                if held is None:
                    continue
                self._forget(delivery)
                if held.started:
                    names.append(held.name)
                if held.tag:
                    tags.append(held.tag)
        self._marks.clear(names)
        with self._lock:
            self._intake.give_back(tags)

    def _of(self, delivery: Delivery) -> Held | None:
        held = self._held.get(str(delivery.tag))
        return held if held is not None and held.fence == delivery.fence else None

    def _forget(self, delivery: Delivery) -> None:
        held = self._held.pop(str(delivery.tag), None)
        if held is not None:
            self._orphans.pop(held.name, None)

    # -- the rest --------------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        if self._closed:
            return False
        self._marks.sign()
        self._revocations.refresh()
        self._tidy()
        if self._marks:
            self._move()
        if self._kept:
            self._look_again(claiming=False)
        return True

    def _move(self) -> None:
        """What has run for long is acknowledged; a copy goes about, for whoever finds that this consumer is dead."""
        since = time.monotonic() - self._moved_after
        with self._moving:
            with self._lock:
                old = [held for held in self._held.values() if held.tag and held.started and held.since < since]
                for held in old:
                    held.doubled = True  # also should it end before its copy is sent
            if not old:
                return

            def copies() -> list[Letter]:
                self._declare(sorted({INNER + held.queue for held in old}))
                return [self._later(held.came, held.source, self._lease_time) for held in old]

            if not self._departures.sent(copies, time.monotonic()):
                return  # the server ends the channel some time, and everything comes again to those who run it
            with self._lock:
                moved = {held.fence for held in old}
                still = [(tag, held) for tag, held in self._held.items() if held.tag and held.fence in moved]
                self._intake.ack([held.tag for _, held in still])
                for tag, held in still:
                    held.tag = 0
                    if not held.gone:
                        self._orphans[held.name] = tag

    def wake(self) -> None:
        self._woken = True
        self._intake.chime.ring()

    def fileno(self) -> int:
        return self._intake.fileno()

    def due_in(self) -> float | None:
        with self._lock:
            return self._kept.due_in(time.monotonic())

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """By queue: what is held, and what waits in the buffers."""
        with self._lock:
            return counted(self.queues, self._held.values(), self._intake.waiting())

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._intake.rest()  # newer servers count what comes back with its channel, and not what is given back
            if self._intake.say_goodbye():
                with self._lock:
                    self._receipts.finish()
            with suppress(BackendError):  # then it ends by itself
                self._receipts.tidy(self._marks, time.monotonic(), 10 * MOST_REMEMBERED)
                self._marks.resign()
            self._intake.part()
            with self._lock:
                self._held.clear()
                self._orphans.clear()
            self._intake.close()

    def rest(self) -> None:
        self._intake.rest()

    def _tidy(self) -> None:
        self._receipts.tidy(self._marks, time.monotonic())

    # -- for the intake, with the lock held ------------------------------------------------------------------------

    def _unacknowledged(self) -> int:
        return sum(held.tag > 0 for held in self._held.values()) + len(self._kept)

    def _knows(self, came: Delivered) -> bool:
        """Whether a message that came is one of those that this consumer has already, or has done."""
        if not ((self._finished or self._orphans) and comes_again(came)):
            return False
        name = name_of(came)
        if self._finished.take(name):
            self._intake.ack([came.tag])
            return True
        orphan = self._held.get(self._orphans.pop(name, ""))
        if orphan is None:
            return False
        orphan.came, orphan.tag, orphan.since, orphan.doubled = came, came.tag, time.monotonic(), True
        return True

    def _lose(self) -> None:
        """The connection has ended: what was claimed on it has nothing to be acknowledged by."""
        self._kept.clear()
        for tag, held in self._held.items():
            held.tag = 0
            if not held.gone:
                self._orphans[held.name] = tag
        for name in self._receipts.lose():
            self._finished.add(name)
