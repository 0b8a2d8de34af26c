"""What one worker takes from its queues, on a connection of its own.

The server pushes up to as many messages as may be un-acknowledged (the credit); they wait in a buffer until they are
claimed.  The credit follows what `claim` asks for; what nobody claims for a second or two goes back, and the consumer
stops until the next claim.

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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from celery.amqp import frames
from celery.amqp.channel import Channel
from celery.amqp.connection import Connection
from celery.amqp.exact import settle_in
from celery.amqp.frames import Delivered
from celery.amqp.held import (
    Claimed,
    Held,
    counted,
    dead_letter,
    next_turn,
    parted,
    picked,
    put_off,
    refuse_effects,
    taken,
    taken_by_others,
)
from celery.amqp.kept import Departures, Kept
from celery.amqp.link import Link
from celery.amqp.marks import ENDED, UNMARKED, Mark, Marks
from celery.amqp.messages import INNER, comes_again, name_of, task_of
from celery.amqp.presence import Presence
from celery.amqp.publisher import Letter
from celery.amqp.receipts import MOST_REMEMBERED, Finished, Receipts
from celery.backends.store import Store
from celery.brokers.base import LEASE, NOTHING, Consumer, Needs, Verdict
from celery.brokers.revocations import Revocations
from celery.exceptions import BackendError, BrokerError
from celery.utils.bell import Chime
from celery.utils.clock import Clock
from celery.utils.descriptors import Gathering, is_green
from celery.utils.uuids import uuid
from celery.wire.message import Delivery, Outgoing, Record, Settlement

IDLE = 1.0
"""Seconds after which what is buffered and not claimed goes back."""
MOST_TAGS = 200
"""Consumers, former ones among them, whose messages are taken."""
FEW = 16
"""A credit up to which no message more than asked for is fetched."""
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
    ) -> None:
        self.queues = tuple(queues)
        self.name = name
        self._id = uuid()
        self._link = link
        self._marks = Marks(store, self._id, lease, clock)
        self._lease_time = lease
        self._revocations, self._bury, self._ended = revocations, bury, ended
        self._informed = False
        """Whether it knows what was revoked before it began."""
        self._moved_after = moved_after
        self._clock = clock
        self._send, self._post, self._declare, self._delay = send, post, declare, delay
        self._exact, self._fleeting = exact, fleeting
        self._chime = Chime()
        self._news = Gathering(self._chime.fileno())
        self._woken = self._closed = False
        self._lock = threading.RLock()
        """Never held while an answer of the server is waited for: its thread takes it."""
        self._moving = threading.Lock()
        """Held while what has run for long is moved."""
        self._numbers = itertools.count(1)
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._sources = [*(INNER + queue for queue in queues), *queues]
        self._buffers: dict[str, deque[Delivered]] = {source: deque() for source in self._sources}
        self._consuming: dict[str, str] = {}
        """By source: the tag of our consumer there."""
        self._source_of: dict[str, str] = {}
        self._credit = 0
        self._open: dict[int, None] = {}
        """What is not acknowledged on this channel, in the order of its tags."""
        self._held: dict[str, Held] = {}
        self._orphans: dict[str, str] = {}
        """By name: claims whose connection has ended."""
        self._finished = Finished()
        self._kept, self._departures = Kept(lease, 2 * moved_after), Departures(send, lease)
        self._receipts = Receipts(time.monotonic(), link.timeout)
        self._turn, self._claimed_at = 0, time.monotonic()
        self._presence = Presence(self._sources, declare)
        self._presence.see_to(self._sources, self._claimed_at)

    # -- claiming --------------------------------------------------------------------------------------------------

    def claim(self, limit: int, timeout: float = 0.0, wanted: Mapping[str, int] = NOTHING) -> list[Delivery]:
        if self._closed:
            raise BrokerError(f"The consumer {self.name} is closed.")
        if not self._informed:
            self._revocations.refresh()
            self._informed = True
        end = time.monotonic() + timeout
        while True:
            self._ask_for(limit)
            if self._exact:
                settle_in(lambda: self._channel, self._buffers, self._hear, limit)
            self._hear()
            if self._kept:
                self._look_again()
            found = self._lease(self._take(limit))
            left = end - time.monotonic()
            if found or left <= 0 or self._woken or self._chime.closed:
                self._woken = False
                return found
            due = self.due_in()
            self._news.wait(left if due is None else min(left, due))

    def _hear(self, seconds: float = 0.0) -> bool:
        """Read what has come by now or within *seconds*, in this thread, so that no other one takes turns with it."""
        heard = seconds > 0 and self._news.wait(seconds)
        self._chime.clear()
        if (connection := self._connection) is not None and connection.attended:
            connection.look()
        return heard

    def _ask_for(self, limit: int) -> None:
        """Have the server push as much as is to be claimed. Connects if need be."""
        self._claimed_at = time.monotonic()
        channel = self._channel
        if channel is None or not channel.usable:
            channel = self._connect()
        with self._lock:
            need = sum(held.tag > 0 for held in self._held.values()) + len(self._kept) + limit
            idle = [source for source in self._sources if source not in self._consuming]
        if need > self._credit:
            self._credit = need if self._exact or need <= FEW else need + need // 4
            idle = self._sources
        for source in self._presence.of(idle, self._claimed_at) if idle else ():
            self._consume(channel, source)

    def _connect(self) -> Channel:
        """A new connection and channel; everything that the former ones had is orphaned by now."""
        if (former := self._connection) is not None:
            former.close()
        self._receipts.tidy(self._marks, time.monotonic())
        connection = self._connection = self._link.retried(self._link.open)
        channel = connection.channel()
        channel.on_message = self._arrived
        channel.on_messages = self._chime.ring
        channel.on_cancel = self._cancelled
        channel.on_end = self._lost
        connection.on_tick = self._slim
        if not is_green():  # there, all threads are one
            connection.attended = True
            # A new one: the former socket stays in the old one for as long as a child process has it open.
            self._news.close()
            self._news = Gathering(self._chime.fileno(), connection.fileno())
        with self._lock:  # a consumer may have been noted on a channel that had just ended
            self._credit = 0
            self._consuming.clear()
            self._source_of.clear()
            self._channel = channel
        self._presence.see_to(self._sources, time.monotonic())
        return channel

    def _consume(self, channel: Channel, source: str) -> None:
        before, tag = self._consuming.get(source, ""), f"{self.name}-{next(self._numbers)}"
        with self._lock:
            self._source_of[tag] = source
            self._consuming[source] = tag
        data = frames.consume(channel.number, source, tag, self._credit, before)
        channel.call(data, frames.BASIC_QOS_OK)
        with self._lock:  # a queue of the kind quorum sends on to the former consumer for a moment
            while len(self._source_of) > MOST_TAGS:
                del self._source_of[next(iter(self._source_of))]

    def _take(self, limit: int) -> Claimed:
        """From the buffers: those of the machinery first, then one of each queue in turn."""
        with self._lock:
            found, self._turn = picked(self._buffers, len(self.queues), self._turn, limit)
            if len(found) == limit or any(self._buffers.values()):
                self._chime.ring()  # there may be more
        return found

    def _lease(self, found: Claimed) -> list[Delivery]:
        marks: dict[str, Mark] = {}
        try:
            if self._marks and any(comes_again(came) for _, came in found):
                marks = self._marks.read([name_of(came) for _, came in found if comes_again(came)])
                found = self._put_off(found, marks)
        except BaseException:
            with self._lock:
                for source, came in reversed(found):
                    if came.tag in self._open:
                        self._buffers[source].appendleft(came)
            raise
        claimed: list[Delivery] = []
        now, marked, revoked = time.monotonic(), bool(self._marks), self._revocations
        with self._lock:
            for source, came in found:
                if came.tag not in self._open:
                    continue  # its connection has ended meanwhile
                name = name_of(came)
                mark = marks.get(name, UNMARKED)
                if mark.ended:
                    self._ack([came.tag])
                    continue
                fence = next(self._numbers)
                tag, gone = f"{self._id}-{fence}", bool(revoked) and task_of(came) in revoked
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
                self._kept.add([one for one in busy if one[1].tag in self._open], now)
                self._chime.ring()  # there is to be room for others
            self._ack([came.tag for _, came in (*(busy if sent else ()), *over)])
        return free

    def _look_again(self, *, claiming: bool = True) -> None:
        """At what is kept: what nobody runs any more is claimed next, or goes back if nobody is *claiming* here."""
        now = time.monotonic()
        with self._lock:
            due, running = self._kept.due(now), {held.name for held in self._held.values()}
        running |= self._marks.running([name_of(kept.came) for kept in due])
        with self._lock:
            free, back = self._kept.looked(due, running, now)
            for source, came in reversed(free if claiming else ()):
                self._buffers[source].appendleft(came)
            back += [came.tag for _, came in free if not claiming]
            self._give_back([tag for tag in back if self._open.pop(tag, 0) is None])

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
            channel = self._channel
        self._marks.write(counts)
        if self._channel is channel or not self._marks:
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
            self._ack(tags)

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
        self._marks.write(dict.fromkeys(known, ENDED))
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
            self._ack(tags)
        self._marks.write(dict.fromkeys(lost, ENDED))
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
        names, data = [], []
        with self._moving, self._lock:
            for delivery in deliveries:
                held = self._of(delivery)
                if held is None:
                    continue
                self._forget(delivery)
                if held.started:
                    names.append(held.name)
                if held.tag and self._open.pop(held.tag, 0) is None:
                    data.append((held.tag, held.deliveries))
        self._marks.clear(names)
        self._give_back([tag for tag, _ in data])

    def _of(self, delivery: Delivery) -> Held | None:
        held = self._held.get(str(delivery.tag))
        return held if held is not None and held.fence == delivery.fence else None

    def _forget(self, delivery: Delivery) -> None:
        held = self._held.pop(str(delivery.tag), None)
        if held is not None:
            self._orphans.pop(held.name, None)

    def _ack(self, tags: Sequence[int]) -> None:
        """In one write; all that are contiguous from the oldest on in one frame. The lock is held."""
        channel = self._channel
        wanted = {tag for tag in tags if tag in self._open}
        if channel is None or not wanted:
            return
        data = frames.acks(channel.number, self._open, wanted)
        for tag in wanted:
            del self._open[tag]
        with suppress(BrokerError):  # then they are orphans, and the server gives them to somebody
            channel.send(data)

    def _give_back(self, tags: Sequence[int]) -> None:
        channel = self._channel
        if channel is not None and tags:
            with suppress(BrokerError):
                channel.send(b"".join(frames.nack(channel.number, tag) for tag in sorted(tags)))

    # -- the rest --------------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        if self._closed:
            return False
        self._marks.sign()
        self._revocations.refresh()
        self._receipts.tidy(self._marks, time.monotonic())
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
                self._ack([held.tag for _, held in still])
                for tag, held in still:
                    held.tag = 0
                    if not held.gone:
                        self._orphans[held.name] = tag

    def wake(self) -> None:
        self._woken = True
        self._chime.ring()

    def fileno(self) -> int:
        return self._news.fileno()

    def due_in(self) -> float | None:
        with self._lock:
            return self._kept.due_in(time.monotonic())

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """By queue: what is held, and what waits in the buffers."""
        with self._lock:
            return counted(self.queues, self._held.values(), self._buffers)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            connection, self._connection = self._connection, None
            self._take_leave()
            with suppress(BackendError):  # then it ends by itself
                self._receipts.tidy(self._marks, time.monotonic(), 10 * MOST_REMEMBERED)
                self._marks.resign()
            if connection is not None:
                connection.close()
            with self._lock:
                self._held.clear()
                self._orphans.clear()
            self._chime.close()
            self._news.close()

    def _take_leave(self) -> None:
        """Have an answer, whatever it is, to something that was sent after all acknowledgements."""
        channel = self._channel
        if channel is not None and channel.usable:
            with suppress(BrokerError):
                channel.call(frames.qos(channel.number, 1), frames.BASIC_QOS_OK)
                with self._lock:
                    self._receipts.finish()

    # -- on the connection's thread --------------------------------------------------------------------------------

    def _arrived(self, came: Delivered) -> None:
        with self._lock:
            source = self._source_of.get(came.consumer)
            if source is None:
                self._give_back([came.tag])
                return
            self._open[came.tag] = None
            if (self._finished or self._orphans) and comes_again(came):
                name = name_of(came)
                if self._finished.take(name):
                    self._ack([came.tag])
                    return
                orphan = self._held.get(self._orphans.pop(name, ""))
                if orphan is not None:
                    orphan.came, orphan.tag, orphan.since, orphan.doubled = came, came.tag, time.monotonic(), True
                    return
            self._buffers[source].append(came)
            self._claimed_at = time.monotonic()  # who has waited for it for long is to have the time to claim it

    def _cancelled(self, tag: str) -> None:
        """The server took our consumer away: its queue was deleted, or its leader moved. The next claim asks again."""
        with self._lock:
            source = self._source_of.pop(tag, None)
            if source is not None:
                self._consuming.pop(source, None)
        self._chime.ring()

    def _lost(self, error: BrokerError) -> None:
        with self._lock:
            self._channel = None
            self._credit = 0
            self._consuming.clear()
            self._source_of.clear()
            self._open.clear()
            self._kept.clear()
            for buffer in self._buffers.values():
                buffer.clear()
            for tag, held in self._held.items():
                held.tag = 0
                if not held.gone:
                    self._orphans[held.name] = tag
            for name in self._receipts.lose():
                self._finished.add(name)
        self._chime.ring()

    def _slim(self) -> None:
        """Give back what nobody has claimed for a while, and take no more until somebody claims."""
        if not self._fleeting and time.monotonic() - self._claimed_at >= IDLE and any(self._buffers.values()):
            self.rest()

    def rest(self) -> None:
        with self._lock:
            if (channel := self._channel) is None:
                return
            tags = [came.tag for buffer in self._buffers.values() for came in buffer]
            for buffer in self._buffers.values():
                buffer.clear()
            data = b"".join(frames.cancel(channel.number, tag) for tag in self._consuming.values())
            self._consuming.clear()
            self._source_of.clear()
            self._credit = 0
            for tag in tags:
                self._open.pop(tag, None)
            with suppress(BrokerError):
                channel.send(data)
            self._give_back(tags)
        self._chime.ring()
