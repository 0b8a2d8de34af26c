"""The way out for what a worker says of itself: a bounded queue, and a thread that hands it to the broker.

Whoever says something never waits for the network.  While the broker is away the oldest words make room for new ones;
how many were lost that way is logged when the broker is there again.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from celery.brokers.base import NO_SLOT, Bus, Slot, Subscription
from celery.exceptions import BrokerError
from celery.utils.log import get_logger

logger = get_logger(__name__)

MOST = 20_000
"""Words that wait at most."""
GATHER = 0.05
"""Seconds for which words are gathered before they are sent, so that many go at once."""
CHUNK = 500
"""Notes that are sent in one message, at most."""
RETRY = 1.0
"""Seconds between two tries to reach a broker that is away."""
LAST_WORDS = 2.0
"""Seconds within which a worker that stops hands over what it has still to say."""

Payload = tuple[str, bytes]
"""Topic and payload."""
Note = Any
"""What the writer makes payloads of; neither a `Payload` nor callable."""


class Writer(Protocol):
    """Makes payloads of notes. Not asked while nobody listens to its topic, if it names one."""

    topic: str

    def write(self, notes: Sequence[Note]) -> Sequence[Payload]:
        """What to publish for *notes*, which were taken down one after the other."""


class Entry:
    """A call that is made again and again. `cancel` ends that."""

    __slots__ = ("args", "canceled", "every", "fun")

    def __init__(self, every: float, fun: Callable[..., Any], args: Sequence[Any]) -> None:
        self.every = every
        self.fun = fun
        self.args = args
        self.canceled = False

    def cancel(self) -> None:
        self.canceled = True


class Outlet(Bus):
    """Publishes on *bus* from a thread of its own, in the order in which things were said. Any thread may say them.

    Three kinds of things wait in one line: payloads (`publish`), notes (`note`), of which *writer* makes payloads, and
    calls (`call`).  It is a timer too: `call_repeatedly`.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.writer: Writer | None = None
        self.sent = 0
        """Messages that the broker has taken."""
        self.dropped = 0
        """What had to make room since the broker was last there."""
        self._line: deque[Any] = deque()
        self._timers: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count()
        self._bell = threading.Event()
        self._heard: bool | None = None
        """Whether anybody listens to what the writer makes; None: not asked yet for what is said now."""
        self._asleep = False
        self._away = False
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="celery-events", daemon=True)

    # -- for everybody ---------------------------------------------------------------------------------------------

    def note(self, note: Note) -> None:
        """Take down *note*. Costs less than a microsecond."""
        line = self._line
        if len(line) >= MOST:
            self._make_room()
        line.append(note)
        if self._asleep:
            self._bell.set()

    def note_all(self, notes: Sequence[Note]) -> None:
        """Take down several. Hardly costs more than one."""
        line = self._line
        line.extend(notes)
        while len(line) > MOST:
            self._make_room()
        if self._asleep and notes:
            self._bell.set()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish it later. Raises nothing."""
        self.note((topic, payload))

    def call(self, fun: Callable[[], Any]) -> None:
        """Have the thread call *fun*, which may say things here."""
        self.note(fun)

    def subscribe(self, topics: Sequence[str], slot: Slot = NO_SLOT) -> Subscription:
        return self._bus.subscribe(topics, slot)

    def hears(self, topic: str) -> bool:
        return self._bus.hears(topic)

    def call_repeatedly(
        self,
        secs: float,
        fun: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> Entry:
        """Have the thread call *fun* every *secs* seconds, for the first time after as many."""
        entry = Entry(float(secs), fun, args)
        heapq.heappush(self._timers, (time.monotonic() + entry.every, next(self._numbers), entry))
        self._bell.set()
        return entry

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send what is still to be said, if that can be done in two seconds, and end."""
        self._stop_at = time.monotonic() + LAST_WORDS
        self._bell.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(LAST_WORDS + 1.0)

    def _make_room(self) -> None:
        try:
            self._line.popleft()
        except IndexError:  # the thread was quicker
            return
        self.dropped += 1

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._sleep()
            try:
                self._ring_timers()
                self._drain()
            except Exception:
                # A defect, or a class of the user's. Monitoring must not end with it, nor the worker.
                logger.exception("What a worker says of itself could not be sent")
            if self._stop_at is not None and (not self._line or time.monotonic() >= self._stop_at):
                return

    def _sleep(self) -> None:
        """Wait for something to say; then a moment longer, for more of it."""
        if self._stop_at is not None:
            return
        self._asleep = True
        if not self._line:
            until = self._timers[0][0] if self._timers else None
            self._bell.wait(None if until is None else max(0.0, until - time.monotonic()))
        self._asleep = False
        self._bell.clear()
        if self._stop_at is None:
            time.sleep(GATHER)

    def _ring_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now and self._stop_at is None:
            entry = heapq.heappop(self._timers)[2]
            if not entry.canceled:
                heapq.heappush(self._timers, (now + entry.every, next(self._numbers), entry))
                entry.fun(*entry.args)

    def _drain(self) -> None:
        """Say what waits now; what is said meanwhile is for the next time."""
        self._heard = None
        notes: list[Note] = []
        for _ in range(len(self._line)):
            try:
                said = self._line.popleft()
            except IndexError:  # it had to make room
                break
            if callable(said):
                self._write(notes)
                said()
            elif type(said) is tuple and len(said) == 2:
                self._write(notes)
                self._send(said)
            else:
                notes.append(said)
                if len(notes) >= CHUNK:
                    self._write(notes)
        self._write(notes)

    def _write(self, notes: list[Note]) -> None:
        if not notes:
            return
        batch = notes[:]
        notes.clear()
        if self.writer is None:
            return
        if self._heard is None:
            self._heard = not self.writer.topic or self._bus.hears(self.writer.topic)
        for payload in self.writer.write(batch) if self._heard else ():
            self._send(payload)

    def _send(self, payload: Payload) -> None:
        """Publish it, however long that takes, unless the worker stops."""
        while True:
            try:
                self._bus.publish(*payload)
            except BrokerError as error:
                if not self._away:
                    logger.warning("Events cannot be sent, trying again every second: %s", error)
                self._away = True
                if self._stop_at is not None and time.monotonic() + RETRY >= self._stop_at:
                    self.dropped += 1
                    return
                self._bell.wait(RETRY if self._stop_at is None else 0.1)
                self._bell.clear()
            else:
                self.sent += 1
                if self._away:
                    self._away = False
                    logger.warning("Events can be sent again; %s were lost meanwhile", self.dropped)
                    self.dropped = 0
                return
