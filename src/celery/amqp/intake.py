"""What the server pushes to one consumer: connection and channel, credit, and the messages that nobody has claimed yet.

The server pushes up to as many messages as may be un-acknowledged (the credit).  It follows what is asked for; what
nobody claims for a second or two goes back, and nothing more comes until somebody asks again.

```
out  ----- ask_for ----->  open  ---- rest, nobody claims ---->  resting (no subscription, no credit)
 ^                          |  ^                                   |
 |                          |  +------------- ask_for -------------+
 +-- the connection ends ---+
```
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from celery.amqp import frames
from celery.amqp.channel import Channel
from celery.amqp.connection import Connection
from celery.amqp.exact import settle_in
from celery.amqp.frames import Delivered
from celery.amqp.held import Claimed, picked
from celery.amqp.link import Link
from celery.amqp.messages import INNER
from celery.amqp.presence import Presence
from celery.exceptions import BrokerError
from celery.utils.bell import Chime
from celery.utils.descriptors import Gathering, is_green
from celery.utils.functional import noop

IDLE = 1.0
"""Seconds after which what is buffered and not claimed goes back."""
MOST_TAGS = 200
"""Subscriptions, former ones among them, whose messages are taken."""
FEW = 16
"""A credit up to which no message more than asked for is fetched."""
MANY = 200
"""What is asked for when tasks are tiny: twice as many are fetched, so that server and worker never wait for each
other."""


def credit_for(need: int) -> int:
    """How many messages may be un-acknowledged where so many are to be held: some more wait at hand."""
    if need <= FEW:
        return need
    return need + (need // 4 if need < MANY else need)


def _never(*_: object) -> bool:
    return False


class Intake:
    """Of *queues*. Its methods are called by one thread at a time, unless they say otherwise.

    *lock* guards what whoever reads the connection changes too, here and in what it calls: *known* says whether the
    consumer has taken a message that came, *lost* is called when the connection has ended.  *held* says how many
    messages the consumer has that are not acknowledged; *leave* is called before there is a new connection.
    *keeps* says which messages, each with its source, are not given back while nobody claims.
    *fleeting*: what nobody claims stays.  *exact*: what was published before somebody asked has come by then.
    """

    def __init__(
        self,
        link: Link,
        queues: Sequence[str],
        name: str,
        lock: threading.RLock,
        declare: Callable[[Sequence[str]], object],
        *,
        held: Callable[[], int],
        known: Callable[[Delivered], bool],
        lost: Callable[[], object],
        leave: Callable[[], object],
        keeps: Callable[[Delivered, str], bool],
        exact: bool = False,
        fleeting: bool = False,
    ) -> None:
        self.channel: Channel | None = None
        """None when the connection has ended, or none was made yet."""
        self.open: dict[int, None] = {}
        """What is not acknowledged on this channel, in the order of its tags. Changed with the lock held."""
        self.chime = Chime()
        self._news = Gathering(self.chime.fileno())
        self._link = link
        self._name = name
        self._lock = lock
        self._held, self._known, self._lost, self._leave, self._keeps = held, known, lost, leave, keeps
        self._exact, self._fleeting = exact, fleeting
        self._settling = False
        """Somebody is just about to claim what comes, however long that takes."""
        self._numbers = itertools.count(1)
        self._connection: Connection | None = None
        self._queues = len(queues)
        self._sources = [*(INNER + queue for queue in queues), *queues]
        self._buffers: dict[str, deque[Delivered]] = {source: deque() for source in self._sources}
        self._consuming: dict[str, str] = {}
        """By source: the tag of our subscription there."""
        self._source_of: dict[str, str] = {}
        self._credit = 0
        self._turn, self._claimed_at = 0, time.monotonic()
        self._presence = Presence(self._sources, declare)
        self._presence.see_to(self._sources, self._claimed_at)

    # -- asking ----------------------------------------------------------------------------------------------------

    def ask_for(self, limit: int) -> None:
        """Have the server push *limit* messages besides those that are held. Connects if need be."""
        self._claimed_at = time.monotonic()
        channel = self.channel
        if channel is None or not channel.usable:
            channel = self._connect()
        with self._lock:
            need = self._held() + limit
            idle = [source for source in self._sources if source not in self._consuming]
        if need > self._credit:
            self._credit = need if self._exact else credit_for(need)
            idle = self._sources
        for source in self._presence.of(idle, self._claimed_at) if idle else ():
            self._consume(channel, source)
        if self._exact:
            self._settling = True
            try:
                settle_in(lambda: self.channel, self._buffers, self.hear, limit)
            finally:
                self._claimed_at, self._settling = time.monotonic(), False

    def _connect(self) -> Channel:
        """A new connection and channel; all that came over the former ones is lost by now."""
        if (former := self._connection) is not None:
            former.close()
        self._leave()
        connection = self._connection = self._link.retried(self._link.open)
        channel = connection.channel()
        channel.on_message = self._arrived
        channel.on_messages = self.chime.ring
        channel.on_cancel = self._cancelled
        channel.on_end = self._ended
        connection.on_tick = self._slim
        if not is_green():  # there, all threads are one
            connection.attended = True
            # A new one: the former socket stays in the old one for as long as a child process has it open.
            self._news.close()
            self._news = Gathering(self.chime.fileno(), connection.fileno())
        with self._lock:  # a subscription may have been noted on a channel that had just ended
            self._credit = 0
            self._consuming.clear()
            self._source_of.clear()
            self.channel = channel
        self._presence.see_to(self._sources, time.monotonic())
        return channel

    def _consume(self, channel: Channel, source: str) -> None:
        before, tag = self._consuming.get(source, ""), f"{self._name}-{next(self._numbers)}"
        with self._lock:
            self._source_of[tag] = source
            self._consuming[source] = tag
        data = frames.consume(channel.number, source, tag, self._credit, before)
        channel.call(data, frames.BASIC_QOS_OK)
        with self._lock:  # a queue of the kind quorum sends on to the former subscription for a moment
            while len(self._source_of) > MOST_TAGS:
                del self._source_of[next(iter(self._source_of))]

    # -- taking ----------------------------------------------------------------------------------------------------

    def hear(self, seconds: float = 0.0) -> bool:
        """Read what has come by now or within *seconds*, in this thread, so that no other one takes turns with it."""
        heard = seconds > 0 and self.wait(seconds)
        self.chime.clear()
        if (connection := self._connection) is not None and connection.attended:
            connection.look()
        return heard

    def wait(self, seconds: float) -> bool:
        """Sleep until there is something to `hear`; False if nothing came."""
        return self._news.wait(seconds)

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to `hear`. It changes with the connection."""
        return self._news.fileno()

    def take(self, limit: int) -> Claimed:
        """What has come: from the queues of the machinery first, then one of each queue in turn."""
        with self._lock:
            found, self._turn = picked(self._buffers, self._queues, self._turn, limit)
            if len(found) == limit or any(self._buffers.values()):
                self.chime.ring()  # there may be more
        return found

    def put_back(self, found: Claimed) -> None:
        """These were not claimed after all, and are the next. Any thread."""
        with self._lock:
            for source, came in reversed(found):
                if came.tag in self.open:
                    self._buffers[source].appendleft(came)

    def waiting(self) -> dict[str, deque[Delivered]]:
        """By source: what has come and was not taken. The lock is held."""
        return self._buffers

    # -- giving back, by any thread with the lock held -------------------------------------------------------------

    def ack(self, tags: Iterable[int]) -> None:
        """In one write; all that are contiguous from the oldest on in one frame."""
        channel = self.channel
        wanted = {tag for tag in tags if tag in self.open}
        if channel is None or not wanted:
            return
        data = frames.acks(channel.number, self.open, wanted)
        for tag in wanted:
            del self.open[tag]
        with suppress(BrokerError):  # then they are lost, and the server gives them to somebody
            channel.send(data)

    def give_back(self, tags: Iterable[int]) -> None:
        channel = self.channel
        data = [tag for tag in tags if self.open.pop(tag, 0) is None]
        if channel is not None and data:
            with suppress(BrokerError):
                channel.send(b"".join(frames.nack(channel.number, tag) for tag in sorted(data)))

    def rest(self, *, wholly: bool = True) -> None:
        """Give back what has come and was not taken; nothing more comes until somebody asks. It takes the lock.

        What is kept goes back only *wholly*.
        """
        with self._lock:
            if (channel := self.channel) is None:
                return
            tags: list[int] = []
            for source, buffer in self._buffers.items():
                stay = [] if wholly else [came for came in buffer if self._keeps(came, source)]
                tags += {came.tag for came in buffer}.difference(came.tag for came in stay)
                buffer.clear()
                buffer.extend(stay)
            if not (tags or self._consuming):
                return
            data = b"".join(frames.cancel(channel.number, tag) for tag in self._consuming.values())
            self._consuming.clear()
            self._source_of.clear()
            self._credit = 0
            with suppress(BrokerError):
                channel.send(data)
            self.give_back(tags)
        self.chime.ring()

    def say_goodbye(self) -> bool:
        """Have an answer, whatever it is, to something that was sent after all acknowledgements; whether it came."""
        channel = self.channel
        if channel is None or not channel.usable:
            return False
        try:
            channel.call(frames.qos(channel.number, 1), frames.BASIC_QOS_OK)
        except BrokerError:
            return False
        return True

    def part(self) -> None:
        """Close the connection: the server has what is not acknowledged."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """After `part`. Whoever waits stops waiting.

        It lets go of its consumer: in a circle both would keep their descriptors until the garbage is collected.
        """
        self.chime.close()
        self._news.close()
        self._held, self._lost, self._leave = int, noop, noop
        self._known, self._keeps = _never, _never

    # -- by whoever reads the connection ---------------------------------------------------------------------------

    def _arrived(self, came: Delivered) -> None:
        with self._lock:
            self.open[came.tag] = None
            source = self._source_of.get(came.consumer)
            if source is None:
                self.give_back((came.tag,))
            elif not self._known(came):
                self._buffers[source].append(came)
                self._claimed_at = time.monotonic()  # who has waited for it for long is to have the time to claim it

    def _cancelled(self, tag: str) -> None:
        """The server took our subscription away: its queue was deleted, or its leader moved. We ask again."""
        with self._lock:
            source = self._source_of.pop(tag, None)
            if source is not None:
                self._consuming.pop(source, None)
        self.chime.ring()

    def _ended(self, error: BrokerError) -> None:
        with self._lock:
            self.channel = None
            self._credit = 0
            self._consuming.clear()
            self._source_of.clear()
            self.open.clear()
            for buffer in self._buffers.values():
                buffer.clear()
            self._lost()
        self.chime.ring()

    def _slim(self) -> None:
        """Rest when nobody has claimed anything for a while."""
        if (
            not (self._fleeting or self._settling)
            and time.monotonic() - self._claimed_at >= IDLE
            and any(self._buffers.values())
        ):
            self.rest(wholly=False)
