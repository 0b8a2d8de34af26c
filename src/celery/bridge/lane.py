"""One connection, one channel, and the thread that both belong to: it takes messages of some queues.

kombu's channels are not thread-safe, so what others want of the channel they leave here as work.  Transports are
polled: as long as there is room, again at once after a poll that has found something, else after the transport's
interval or when somebody rings.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from celery.bridge.messages import prepare, read
from celery.bridge.way import PAUSES, Way, hang_up, library
from celery.exceptions import BrokerError
from celery.utils.log import get_logger

logger = get_logger(__name__)

Work = Callable[[Any], object]
REST = 0.5
"""Seconds after which a lane that has nothing to do looks around."""
TRIES = 5
"""How often work that fails is tried."""
NONBLOCKING = 0.05
"""Seconds for a poll of a transport that has a socket of its own."""


def _nothing(_: Any) -> None:
    """No greeting, no farewell."""


class Lane:
    """*arrived* is called on the thread, with the queue and the message; *room* says how many more are wanted.

    *ready* is called with every new channel, *leaving* with the last one, *greet* with a source and a channel before
    that listens to it; *heard* after every poll, *tick* at least every `REST` seconds while nothing blocks; *lost* when
    a connection has ended whose messages are nobody's now.  *pace*: seconds between two polls that find nothing.
    """

    def __init__(
        self,
        way: Way,
        sources: Sequence[str],
        arrived: Callable[[Lane, str, Any], None],
        room: Callable[[Lane], int],
        *,
        heard: Callable[[], None],
        tick: Callable[[], None] = lambda: None,
        lost: Callable[[Lane], None] = lambda lane: None,
        ready: Work = _nothing,
        greet: Callable[[str, Any], object] = lambda source, channel: None,
        leaving: Work = _nothing,
        no_ack: bool = False,
        pace: Callable[[], float] | None = None,
    ) -> None:
        self._way = way
        self.sources = tuple(sources)
        self._arrived, self._room, self._heard, self._tick, self._lost = arrived, room, heard, tick, lost
        self._ready, self._greet, self._leaving = ready, greet, leaving
        self._no_ack = no_ack
        self._pace = pace or (lambda: way.interval)
        self._connection: Any = None
        self._channel: Any = None
        self._credit = -1
        self._listened: set[str] = set()
        """Sources that the channel listens to."""
        self._open: dict[int, Any] = {}
        """What is not acknowledged, by identity: two queues may have got messages with one and the same tag."""
        self._works: deque[Work] = deque()
        self._tries = 0
        self._pause = PAUSES[0]
        self._event = threading.Event()
        self._stopping = False
        self.asked = 0
        self.answered = 0
        """Requests that a poll has been made for since, which found nothing more."""
        self.error: BrokerError | None = None
        """Why there is no connection now."""
        self._thread = threading.Thread(target=self._run, name=f"celery-{way.scheme}", daemon=True)
        self._thread.start()

    # -- any thread ------------------------------------------------------------------------------------------------

    def ask(self) -> int:
        """Poll now; `answered` reaches the number that is returned when that has been done."""
        self.asked += 1
        self._event.set()
        return self.asked

    def listen(self, source: str) -> None:
        """Take messages of *source* too, from now on. One thread at a time."""
        self.sources = (*self.sources, source)
        self.do(self._listen)

    def do(self, work: Work) -> None:
        """Have *work* called with the channel, soon; again if it fails, a few times."""
        self._works.append(work)
        self._event.set()

    def ack(self, messages: Sequence[Any]) -> None:
        def work(channel: Any) -> None:
            for message in messages:
                self._end(channel, message, channel.basic_ack)

        if messages:
            self.do(work)

    def refuse(self, messages: Sequence[Any]) -> None:
        """Leave it to the transport what becomes of these: with SQS, to the redrive policy of their queue."""

        def work(channel: Any) -> None:
            for message in messages:
                self._end(channel, message, channel.basic_reject)

        if messages:
            self.do(work)

    def give_back(self, messages: Sequence[tuple[str, Any]], then: Callable[[], object] = lambda: None) -> None:
        """Put these back into their queues, each given with its own, and call *then*."""

        def work(channel: Any) -> None:
            for source, message in messages:
                self._back(channel, source, message)
            then()

        if messages:
            self.do(work)

    def flush(self, timeout: float) -> bool:
        """Wait until what was asked for so far is done."""
        done = threading.Event()
        self.do(lambda channel: done.set())
        return done.wait(timeout)

    def stop(self) -> None:
        """Do what is left to do and end; see `join`."""
        self._stopping = True
        self._event.set()

    def join(self, timeout: float) -> bool:
        """Whether it has ended, after *timeout* seconds at most."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- its own thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - whatever a transport raises is trouble with its broker
                self._fail(error)
        try:
            if self._works or self._channel is not None:
                self._work()
                with self._way.still:
                    self._leaving(self._have())
        except Exception as error:  # noqa: BLE001 - as above; what is not given back is in the spool, or leased
            logger.warning("Could not take leave of %s:// properly: %s", self._way.scheme, self._way.trouble(error))
        hang_up(self._connection)

    def _turn(self) -> None:
        self._event.clear()
        asked = self.asked
        self._tick()
        self._work()
        if self._room(self) <= 0:
            self._answer(asked)
            self._event.wait(REST)
            return
        if self._poll():
            self._heard()
            return
        self._answer(asked)
        if not self._works:
            self._event.wait(self._pace() or 0.01)

    def _answer(self, asked: int) -> None:
        if asked > self.answered:
            self.answered = asked
            self._heard()

    def _have(self) -> Any:
        if self._channel is None:
            self._connection, channel = self._way.open()
            self._ready(channel)
            self._listened = set()
            self._listen(channel)
            self._channel, self._credit = channel, -1
            self.error, self._pause = None, PAUSES[0]
        return self._channel

    def _listen(self, channel: Any) -> None:
        """To the sources that *channel* does not listen to."""
        for source in self.sources:
            if source not in self._listened:
                self._greet(source, channel)
                library.Consumer(
                    channel,
                    [library.Queue(source)],
                    on_message=lambda message, source=source: self._take(source, message),
                    auto_declare=False,
                    no_ack=self._no_ack,
                ).consume()
                self._listened.add(source)

    def _take(self, source: str, message: Any) -> None:
        if not self._no_ack:
            self._open[id(message)] = message
        self._arrived(self, source, message)

    def _poll(self) -> bool:
        """Whether anything has come."""
        with self._way.still:
            return self._drain(self._have())

    def _drain(self, channel: Any) -> bool:
        credit = 0 if self._no_ack else len(self._open) + self._room(self)
        if credit != self._credit:
            channel.basic_qos(0, credit, False)
            self._credit = credit
        try:
            self._connection.drain_events(timeout=0 if self._way.virtual else NONBLOCKING)
        except TimeoutError:
            return False
        return True

    def _work(self) -> None:
        while self._works:
            with self._way.still:
                self._works[0](self._have())
            self._works.popleft()
            self._tries = 0

    def _end(self, channel: Any, message: Any, verb: Work) -> None:
        if id(message) in self._open:
            self._introduce(channel, message)
            verb(message.delivery_tag)
            del self._open[id(message)]

    def _back(self, channel: Any, source: str, message: Any) -> None:
        if id(message) not in self._open:
            return
        self._introduce(channel, message)
        if self._way.leases or not message.delivery_info.get("exchange"):
            channel.basic_reject(message.delivery_tag, requeue=True)
        else:
            # kombu would put it back into the exchange, and into every queue behind that.
            channel.basic_publish(prepare(channel, read(message)), exchange="", routing_key=source)
            channel.basic_ack(message.delivery_tag)
        del self._open[id(message)]

    def _introduce(self, channel: Any, message: Any) -> None:
        """Where kombu keeps the books, *channel* has to be told of a message that came before it was made."""
        if self._way.virtual:
            try:
                channel.qos.get(message.delivery_tag)
            except KeyError:
                channel.qos.append(message, message.delivery_tag)

    def _fail(self, error: Exception) -> None:
        trouble = self._way.trouble(error)
        if self._works and self._channel is not None:
            self._tries += 1
            if self._tries >= TRIES:
                self._works.popleft()
                self._tries = 0
                logger.error("What could not be done on %s:// is not tried again: %s", self._way.scheme, trouble)
        if self.error is None:
            logger.warning("%s Trying again.", trouble)
        self.error = trouble
        hang_up(self._connection)
        self._connection = self._channel = None
        if not self._way.virtual:
            self._open.clear()
            self._lost(self)
        self._answer(self.asked)
        self._heard()
        until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, PAUSES[1])
        while not self._stopping and time.monotonic() < until:
            time.sleep(0.05)
