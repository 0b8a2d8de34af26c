"""One subscriber connection for all threads of a process that wait for messages on some channels.

It is made when somebody first waits, and closed `IDLE` seconds after nobody does any more.

Who reads it?  A thread of its own would have to be woken for every message, to wake the thread that waits for it: two
switches of threads, each with its turn of the interpreter's lock, where one will do.  So the threads that wait read for
each other: the first of them, the *leader*, sleeps on the connection; the others, its *followers*, each on a lock.  The
leader hands messages to whom they are for, and when it has what it waited for itself, it makes a follower the leader.
A program that waits in one thread (most do) never switches threads at all.

Everything about the connection happens under one lock, except the leader's sleep.  `close` and `ring` of a listener
take no lock: they are called by event loops and by the garbage collector.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from celery.redis.channel import Channel
from celery.redis.link import Link
from celery.utils.bell import Chime
from celery.utils.descriptors import POLLIN, Poll, poll

IDLE = 5.0
"""Seconds without a listener after which the connection is closed."""
TICK = 1.0
"""Seconds between looks whether that is so, and at messages that nobody reads just now."""
LONGEST = 3600.0
"""Seconds that are slept at once."""
MOST_STALE = 32
"""Channels nobody listens to any more that stay subscribed, to end many of them by one command: not so many that
whoever subscribes next has to wait for it."""

MOST_KEPT = 1_000_000
"""Bytes of messages that are kept for a listener who does not come to take them."""


class Listener:
    """Hears of messages on its channels. One thread, except `ring` and `close`. Made by `Inbox.listen`."""

    def __init__(self, inbox: Inbox, names: Iterable[str]) -> None:
        self.names = [name.encode() for name in dict.fromkeys(names)]
        self.inbox = inbox
        self.era = -1
        self.joined = False
        self.error: Exception | None = None
        self.closed = False
        self.rung = False
        self.heard: deque[tuple[bytes, bytes | None] | None] = deque()
        """Channels that had messages, each with it or, above `MOST_KEPT`, None; None: any of them may have had some."""
        self.kept = 0
        self._signal = threading.Lock()
        self._signal.acquire()

    def wait(self, timeout: float | None) -> bool:
        """Block until a message on one of the channels, or `ring`; False after *timeout* seconds or `close`.

        May wake without a message: after the connection was made anew, any may have been missed.
        """
        return self.inbox.wait(self, timeout)

    def hear(self, name: bytes, message: bytes) -> None:
        """Note a message, to be `taken`."""
        fits = self.kept + len(message) <= MOST_KEPT
        self.kept += len(message) * fits
        self.heard.append((name, message if fits else None))

    def taken(self) -> dict[str, bytes | None] | None:
        """The channels that had messages since the last call, and the last one of each.

        None in place of a message: it was not kept.  None: any of them may have had some.
        """
        found: dict[str, bytes | None] = {}
        every = False
        while self.heard:
            if (heard := self.heard.popleft()) is None:
                every = True
            else:
                found[heard[0].decode()] = heard[1]
        self.kept = 0
        return None if every else found

    def ring(self) -> None:
        """Make `wait` return True, now or when it is called next. Never blocks."""
        self.rung = True
        self.inbox.rouse(self)

    def close(self) -> None:
        """End a `wait` that is under way and all later ones. Idempotent; never blocks."""
        if not self.closed:
            self.closed = True
            self.inbox.leaving.append(self)
            self.inbox.rouse(self)

    def sleep(self, seconds: float | None) -> bool:
        """Sleep until `signal`; False if so many seconds passed first."""
        return self._signal.acquire(timeout=LONGEST if seconds is None else min(LONGEST, max(0.0, seconds)))

    def signal(self) -> None:
        """Wake the thread from `sleep`, now or when it next sleeps."""
        with suppress(RuntimeError):  # it has one already
            self._signal.release()


class Inbox:
    """The listeners of one process at one server, and their connection. Thread-safe; survives a fork.

    Raises what the link raises when the connection cannot be made.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.era = 0
        """Rises with a fork: listeners of before have to join again."""
        self._begin()
        _inboxes.add(self)

    def _begin(self) -> None:
        self.leaving: deque[Listener] = deque()
        self._joining: deque[Listener] = deque()
        self._lock = threading.Lock()
        self._leader: Listener | None = None
        self._followers: dict[Listener, bool] = {}
        self._ears: dict[bytes, list[Listener]] = {}
        self._channel: Channel | None = None
        self._generation = 0
        self._subscribed: set[bytes] = set()
        self._chime = Chime()
        self._poll = poll()
        self._polled = -1
        self._caretaker: threading.Event | None = None

    def forked(self) -> None:
        """In the child: nothing of the parent's may be touched, its lock least of all."""
        self.era += 1
        if self._channel is not None:
            self._channel.closed = True
            self._channel.fileno()  # it finds out that it is in a child, and lets go of what it shares with the parent
        self._begin()

    def listen(self, names: Iterable[str]) -> Listener:
        """A listener that hears of every message sent after this returned."""
        listener = Listener(self, names)
        self._join(listener)
        return listener

    def close(self) -> None:
        """Close the connection; listeners wake, and whoever listens next makes a new one."""
        with self._lock:
            self._disconnect()

    # -- listeners ------------------------------------------------------------------------------------------------

    def wait(self, listener: Listener, timeout: float | None) -> bool:
        if listener.era != self.era:
            self._join(listener)
            listener.heard.append(None)
            return not listener.closed
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                with self._lock:
                    if listener.closed or listener.rung:
                        return self._depart(listener)
                    leads = self._leader is None
                    if leads:
                        self._leader = listener
                    else:
                        self._followers[listener] = True
                if leads:
                    return self._lead(listener, deadline)
                if listener.sleep(None if deadline is None else deadline - time.monotonic()):
                    continue
                with self._lock:
                    if self._followers.pop(listener, False) and deadline is not None:
                        return self._depart(listener)
        except BaseException:
            with self._lock:
                self._depart(listener)
            raise

    def rouse(self, listener: Listener) -> None:
        """Let *listener* look at its marks. Takes no lock."""
        listener.signal()
        if self._leader is listener:
            self._chime.ring()

    def _join(self, listener: Listener) -> None:
        """Returns when the server has confirmed its channels: together with those of all who came meanwhile."""
        listener.joined, listener.error = False, None
        self._joining.append(listener)
        with self._lock:
            if not listener.joined and listener.error is None:
                self._admit(listener)
        if listener.error is not None:
            raise listener.error
        listener.era = self.era

    def _admit(self, first: Listener) -> None:
        """Let in *first* and all who wait behind it. One command for all of them: each may bring thousands of names."""
        self._dismiss()
        new = [self._joining.popleft() for _ in range(len(self._joining))]
        try:
            self._hear(None)  # what was sent before they came is not for them: it may be about a result deleted since
            for listener in new:
                for name in listener.names:
                    self._ears.setdefault(name, []).append(listener)
            channel = self._connect()
            wanted = {name for listener in new for name in listener.names} - self._subscribed
            if wanted:
                channel.subscribe(*wanted)
                self._subscribed |= wanted
        except BaseException as error:
            for listener in new:
                self._deafen(listener)
                listener.error = error if isinstance(error, Exception) else None
            if not isinstance(error, Exception):  # it is about this thread; the others try again
                self._joining.extend(listener for listener in new if listener is not first)
                raise
        else:
            for listener in new:
                listener.joined = True
            self._hear(None)

    def _dismiss(self) -> None:
        """Forget those who have left."""
        while self.leaving:
            self._deafen(self.leaving.popleft())
        if self._channel is not None and len(self._subscribed) - len(self._ears) > MOST_STALE:
            stale = self._subscribed.difference(self._ears)
            self._subscribed -= stale
            self._channel.unsubscribe(*stale)

    def _deafen(self, listener: Listener) -> None:
        for name in listener.names:
            ears = self._ears.get(name)
            if ears and listener in ears:
                ears.remove(listener)
                if not ears:
                    del self._ears[name]

    def _depart(self, listener: Listener) -> bool:
        """The answer to *listener*, who leaves `wait`, and another leader if there is none."""
        if self._leader is listener:
            self._leader = None
        self._followers.pop(listener, None)
        if self._leader is None and self._followers:
            self._followers.popitem()[0].signal()
        rung, listener.rung = listener.rung, False
        return rung and not listener.closed

    def _wake(self, listener: Listener, reader: Listener | None) -> None:
        listener.rung = True
        if self._followers.pop(listener, False):
            listener.signal()
        elif listener is self._leader and listener is not reader:
            self._chime.ring()

    def _wake_all(self) -> None:
        for listener in {listener for ears in self._ears.values() for listener in ears}:
            listener.heard.append(None)
            self._wake(listener, None)

    # -- the connection -------------------------------------------------------------------------------------------

    def _lead(self, listener: Listener, deadline: float | None) -> bool:
        """Read for everybody until *listener* has heard something."""
        while True:
            with self._lock:
                self._dismiss()
                channel = self._connect()
                self._hear(listener)
                left = LONGEST if deadline is None else deadline - time.monotonic()
                if listener.rung or listener.closed or left <= 0:
                    return self._depart(listener)
                sleeper, chime = self._pollable(channel)
            for ready, _ in sleeper.poll(min(left, LONGEST) * 1000.0):
                if ready == chime.fileno():
                    chime.clear()

    def _pollable(self, channel: Channel) -> tuple[Poll, Chime]:
        """What the leader sleeps on: the connection, and what wakes it beside that."""
        descriptor, chime = channel.fileno(), self._chime
        if descriptor != self._polled:
            self._poll, self._polled = poll(), descriptor
            self._poll.register(descriptor, POLLIN)
            self._poll.register(chime, POLLIN)
        return self._poll, chime

    def _hear(self, reader: Listener | None) -> None:
        """Hand on what the server has sent so far."""
        channel = self._channel
        if channel is None:
            return
        try:
            while (found := channel.get(0.0)) is not None:
                for listener in self._ears.get(found[1], ()):
                    listener.hear(found[1], found[2])
                    self._wake(listener, reader)
        except BaseException:
            self._disconnect()
            raise
        if channel.generation != self._generation:
            if self._generation:
                self._wake_all()
            self._generation = channel.generation

    def _connect(self) -> Channel:
        if self._channel is None:
            channel = Channel(self._link)
            names = list(self._ears)
            try:
                if names:
                    channel.subscribe(*names)
            except BaseException:
                channel.close()
                raise
            self._channel, self._generation, self._subscribed = channel, channel.generation, set(names)
            self._caretaker = threading.Event()
            threading.Thread(target=self._care, args=(self._caretaker,), name="celery-inbox", daemon=True).start()
        return self._channel

    def _disconnect(self) -> None:
        """Close the connection. Everybody may have missed something from now on."""
        channel, self._channel, self._subscribed, self._polled = self._channel, None, set(), -1
        if self._caretaker is not None:
            self._caretaker.set()
            self._caretaker = None
        if channel is not None:
            channel.close()
            self._wake_all()

    def _care(self, stop: threading.Event) -> None:
        """Read what nobody is there to read just now, and close the connection when nobody needs it any more."""
        needed = time.monotonic()
        while not stop.wait(TICK):
            with self._lock:
                if stop.is_set():
                    return
                self._dismiss()
                if self._ears:
                    needed = time.monotonic()
                    if self._leader is None:
                        with suppress(Exception):  # the listeners were woken; they will find out when they look
                            self._hear(None)
                elif time.monotonic() - needed >= IDLE:
                    self._disconnect()


_inboxes: weakref.WeakSet[Inbox] = weakref.WeakSet()


def _after_fork() -> None:
    for inbox in _inboxes:
        inbox.forked()


os.register_at_fork(after_in_child=_after_fork)
