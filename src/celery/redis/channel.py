"""Messages that a Redis server sends by itself: a connection that listens to channels, and is never lost for long.

Its states:

```
          subscribe                        every channel is confirmed
unused -------------> connecting --------------------------------------> listening
                        ^    ^  |                                         |
                        |    +--+ failed: after a pause of 0.05 to 1 s    | error of the socket, no answer to PING
                        +-------------------------------------------------+
any of them -- close --> closed
```

A thread of the channel's own, its *keeper*, asks a silent server whether it is there, and connects again; whoever reads
never waits for that. What was sent meanwhile is lost: `generation` tells that there was a meanwhile.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from celery.redis.link import PAUSES, Link, forks
from celery.redis.replies import LATER, Refused, code_of, refusal
from celery.redis.wire import Broken, ReplyError, Wire, pack
from celery.utils.bell import Chime
from celery.utils.descriptors import Gathering

logger = logging.getLogger(__name__)

PONG = 4.0
"""Seconds in which a server that is asked whether it is there has to answer (fewer if requests have fewer)."""
SLICE = 0.01
"""Seconds after which a thread that waits for a confirmation looks whether another thread has read it."""

Arrival = tuple[str, bytes, Any]
"""(`message` or `pmessage`, the channel, what was sent: bytes; on `__redis__:invalidate` a list of keys or None)."""
_ENDS = {b"subscribe": b"unsubscribe", b"psubscribe": b"punsubscribe"}


class Channel:
    """Listens on a connection of its own to the server of *link*.

    `get` belongs to one thread; everything else may be called by any.  Errors are those of the link.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.closed = False
        self.generation = 0
        """How often the connection was made. When it has changed, messages may have been missed before."""
        self._wanted: dict[bytes, set[bytes]] = {b"subscribe": set(), b"psubscribe": set()}
        self._begin()

    def _begin(self) -> None:
        self._epoch = forks.epoch
        self._lock = threading.Lock()
        self._mending = threading.Lock()
        self._wire: Wire | None = None
        self._inbox: deque[Arrival] = deque()
        self._confirmed: dict[bytes, set[bytes]] = {b"subscribe": set(), b"psubscribe": set()}
        self._asked: deque[tuple[bytes, list[bytes]]] = deque()
        """Commands under way, and which of their channels have not been confirmed."""
        self._refused: dict[bytes, Exception] = {}
        self._fresh = False
        self._rung = False
        self._heard_at = 0.0
        self._pinged_at: float | None = None
        self._pause = 0.0
        self._reported = False
        self._chime = Chime()
        self._ready = Gathering(self._chime.fileno())
        self._tick: threading.Event | None = None

    # -- subscribing ---------------------------------------------------------------------------------------------

    def subscribe(self, *channels: str | bytes) -> None:
        """On return every message sent to *channels* from now on arrives. Raises within the link's timeout."""
        self._subscribe(b"subscribe", channels)

    def psubscribe(self, *patterns: str | bytes) -> None:
        """The same for every channel that matches one of *patterns*."""
        self._subscribe(b"psubscribe", patterns)

    def unsubscribe(self, *channels: str | bytes) -> None:
        """Stop listening to *channels*, soon. Never waits."""
        self._unsubscribe(b"subscribe", channels)

    def punsubscribe(self, *patterns: str | bytes) -> None:
        """Stop listening to *patterns*, soon. Never waits."""
        self._unsubscribe(b"psubscribe", patterns)

    def client_id(self) -> int:
        """This connection's number on the server, as CLIENT TRACKING wants it; connects if there is none.

        It is another one whenever `generation` is.
        """
        deadline = time.monotonic() + self._link.timeout
        while True:
            with self._locked():
                self._pump()  # the server may have closed it, and be another one by now
                if self._wire is not None:
                    return self._wire.client_id
            self._connect(deadline)

    def _subscribe(self, begin: bytes, given: Iterable[str | bytes]) -> None:
        names = {name.encode() if isinstance(name, str) else name for name in given}
        deadline = time.monotonic() + self._link.timeout
        with self._locked():
            new = names - self._wanted[begin]
            self._wanted[begin] |= names
            if new and self._wire is not None:
                self._say(begin, sorted(new), deadline)
                self._spin()
        try:
            self._wait_for(begin, names, deadline)
        except BaseException:
            with self._locked():
                self._wanted[begin] -= new
                if new and self._wire is not None:
                    self._say(_ENDS[begin], sorted(new), time.monotonic() + SLICE)
            raise

    def _unsubscribe(self, begin: bytes, given: Iterable[str | bytes]) -> None:
        names = {name.encode() if isinstance(name, str) else name for name in given}
        with self._locked():
            gone = names & self._wanted[begin]
            self._wanted[begin] -= names
            self._confirmed[begin] -= names
            if gone and self._wire is not None:
                self._say(_ENDS[begin], sorted(gone), time.monotonic() + self._link.timeout)

    def _wait_for(self, begin: bytes, names: set[bytes], deadline: float) -> None:
        """Read until the server has confirmed *names*, unless another thread does so first."""
        while True:
            with self._locked():
                self._pump()
                if names <= self._confirmed[begin] or self.closed:
                    return
                for name in names & self._refused.keys():
                    raise self._link.explain(self._refused.pop(name))
                connected = self._wire is not None
            left = deadline - time.monotonic()
            if not connected:
                self._connect(deadline)
            elif left <= 0:
                raise self._link.explain(TimeoutError("the server does not confirm a subscription"))
            else:
                self._ready.wait(min(left, SLICE))

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> Arrival | None:
        """The next message; None when *timeout* seconds passed or the channel was closed.

        Raises nothing when the connection is lost: that is logged, and it is made anew meanwhile.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._locked():
                if not self._inbox:
                    self._pump()
                found = self._inbox.popleft() if self._inbox and not self.closed else None
                self._fresh = False
                self._mark()
            if found is not None or self.closed:
                return found
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return None
            self._ready.wait(left)

    def fileno(self) -> int:
        """A descriptor that is readable when `get(0)` may find something, `generation` has changed, or it was closed.

        Another one after a fork.
        """
        with self._locked():
            return self._ready.fileno()

    def close(self) -> None:
        """End a `get` that waits and all later ones. Idempotent; never waits."""
        self.closed = True
        self._chime.close()
        tick = self._tick
        if tick is not None:
            tick.set()  # should another thread hold the lock just now, the keeper closes the connection
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def __del__(self) -> None:
        if hasattr(self, "_ready"):
            self.close()
            self._ready.close()

    # -- the connection; under the lock --------------------------------------------------------------------------

    def _locked(self) -> threading.Lock:
        """The lock; in a child process that of a new beginning, with nothing of the parent's but what is wanted."""
        if self._epoch is not forks.epoch:
            wire, used = self._wire, self.generation
            self._begin()
            if wire is not None:
                wire.close()
            if self.closed:
                self._chime.close()
            elif used:
                self._start_keeper()
        return self._lock

    def _say(self, command: bytes, names: list[bytes], deadline: float) -> None:
        assert self._wire is not None
        for name in names:
            self._refused.pop(name, None)
        try:
            self._wire.send(pack((command, *names)), deadline, self._link.patience(deadline))
        except Broken as error:
            self._lose(error)
        else:
            self._asked.append((command, names))

    def _spin(self) -> None:
        if self._wire is not None:
            try:
                self._wire.look()
            except Broken as error:
                self._lose(error)

    def _pump(self) -> None:
        """Take in what the server has sent so far."""
        wire = self._wire
        if wire is None:
            return
        try:
            replies = wire.arrived()
            if replies:
                self._heard_at = time.monotonic()
                self._pinged_at = None
                for reply in replies:
                    self._take_in(reply)
        except Broken as error:
            self._lose(error)

    def _take_in(self, reply: Any) -> None:
        """One message, confirmation or refusal. Raises ConnectionError for one that ends the connection."""
        if reply.__class__ is ReplyError:
            if code_of(reply) in LATER or not self._asked:
                raise ConnectionError(str(reply))
            command, names = self._asked.popleft()
            if command in self._wanted:
                self._refused.update(dict.fromkeys(names, refusal(reply)))
                self._wanted[command].difference_update(names)
            return
        kind = reply[0] if reply.__class__ is list else b"pong"
        if kind == b"message":
            self._inbox.append(("message", reply[1], reply[2]))
        elif kind == b"pmessage":
            self._inbox.append(("pmessage", reply[2], reply[3]))
        else:
            self._confirm(kind, reply[1] if reply.__class__ is list else b"")

    def _confirm(self, kind: bytes, name: bytes) -> None:
        if self._asked:
            names = self._asked[0][1]
            with suppress(ValueError):
                names.remove(name)
            if not names or kind == b"pong":
                self._asked.popleft()
        if kind in self._confirmed and name in self._wanted[kind]:
            self._confirmed[kind].add(name)

    def _lose(self, error: Exception) -> None:
        """The connection is not to be trusted any more."""
        self._drop()
        if not self.closed and not self._reported:
            self._reported = True
            logger.warning(
                "The connection to Redis at %s that listens for messages is lost (%s): connecting again.",
                self._link.address.name,
                error,
            )
        if self._tick is not None:
            self._tick.set()

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self._ready.remove(wire.descriptor)
            wire.close()
        self._asked.clear()
        for names in self._confirmed.values():
            names.clear()

    def _mark(self) -> None:
        """Have the descriptor say what there is."""
        wanted = bool(self._inbox) or self._fresh
        if wanted and not self._rung:
            self._chime.ring()
        elif self._rung and not wanted and not self.closed:
            self._chime.clear()
            if self.closed:  # just now
                self._chime.ring()
        self._rung = wanted

    # -- connecting ----------------------------------------------------------------------------------------------

    def _connect(self, deadline: float) -> None:
        """Connect now, for a thread that waits for it. Raises the link's error when *deadline* passes."""
        pause = 0.0
        while True:
            try:
                self._mend(deadline)
                return
            except Refused as refused:
                raise self._link.explain(refused) from None
            except Broken as error:
                left = deadline - time.monotonic()
                if left < SLICE:
                    raise self._link.explain(error) from error
                time.sleep(min(pause, left / 2) * random.uniform(0.5, 1.0))
                pause = min(PAUSES[1], pause * 2 or PAUSES[0])

    def _mend(self, deadline: float) -> None:
        """Connect and subscribe to what is wanted, unless that is done. Raises `Refused` or one of `Broken`."""
        if not self._mending.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError("the server does not answer")
        try:
            with self._locked():
                if self._wire is not None or self.closed:
                    return
                said = [(begin, sorted(names)) for begin, names in self._wanted.items() if names]
            wire = self._link.open_wire(deadline)
            try:
                early = self._introduce(wire, said, deadline)
                with self._locked():
                    self._install(wire, said, early)
            except BaseException:
                if self._wire is not wire:
                    wire.close()
                raise
        finally:
            self._mending.release()

    def _introduce(self, wire: Wire, said: list[tuple[bytes, list[bytes]]], deadline: float) -> list[Any]:
        """Subscribe on a new connection, until all is confirmed; the messages that came meanwhile."""
        patience = self._link.patience(deadline)
        if not wire.client_id:
            (number,) = wire.exchange(pack(("CLIENT", "ID")), 1, deadline, patience)
            wire.client_id = number if isinstance(number, int) else 0
        wire.send(b"".join([pack((begin, *names)) for begin, names in said]), deadline, patience)
        wanted = sum(len(names) for _, names in said)
        early = []
        while wanted:
            replies = wire.arrived()
            if not replies:
                wire.wait(deadline, patience)
            for reply in replies:
                if reply.__class__ is ReplyError:
                    if code_of(reply) in LATER:
                        raise ConnectionError(str(reply))
                    raise refusal(reply)
                if reply[0] in self._wanted:
                    wanted -= 1
                else:
                    early.append(reply)
        return early

    def _install(self, wire: Wire, said: list[tuple[bytes, list[bytes]]], early: list[Any]) -> None:
        """Begin to listen on a connection that is subscribed to what was wanted a moment ago."""
        if self.closed:
            wire.close()
            return
        self._wire = wire
        self._ready.add(wire.descriptor)
        self.generation += 1
        self._fresh = self.generation > 1
        self._heard_at, self._pinged_at, self._pause = time.monotonic(), None, 0.0
        if self._reported:
            self._reported = False
            logger.info("Redis at %s is listened to again.", self._link.address.name)
        for reply in early:
            self._take_in(reply)
        deadline = self._heard_at + self._link.timeout
        subscribed = {begin: set(names) for begin, names in said}
        for begin, wanted in self._wanted.items():
            had = subscribed.get(begin, set())
            self._confirmed[begin] |= had & wanted
            for command, names in ((begin, wanted - had), (_ENDS[begin], had - wanted)):
                if names and self._wire is not None:
                    self._say(command, sorted(names), deadline)
        self._mark()
        self._start_keeper()

    # -- the keeper ----------------------------------------------------------------------------------------------

    def _start_keeper(self) -> None:
        if self._tick is None:
            self._tick = threading.Event()
            keeper = threading.Thread(target=_keep, args=(weakref.ref(self), self._tick), name="redis-keeper")
            keeper.daemon = True
            keeper.start()

    def tend(self) -> float | None:
        """What the keeper does now: check, or connect; seconds until it looks again, None when it is done."""
        with self._locked():
            if self.closed:
                self._drop()
                return None
            if self._wire is not None:
                left = self._check(time.monotonic())
                if self._wire is not None:
                    return left
        try:
            self._mend(time.monotonic() + self._link.timeout)
        except (Refused, *Broken) as error:
            self._report(error)
            self._pause = min(PAUSES[1], self._pause * 2 or PAUSES[0])
            return self._pause * random.uniform(0.5, 1.0)
        return 0.0

    def _check(self, now: float) -> float:
        """Ask a silent server whether it is there; seconds until the next look. A dead one is lost."""
        self._pump()
        self._mark()
        silent = now - self._heard_at
        if self._wire is None or silent < self._link.address.health:
            return self._link.address.health - silent
        allowed = min(PONG, self._link.timeout)
        if self._pinged_at is None:
            self._pinged_at = now
            self._say(b"PING", [], now + allowed)
        elif now - self._pinged_at >= allowed:
            self._lose(TimeoutError("the server does not answer"))
        return min(self._link.address.health, allowed, 1.0)

    def _report(self, error: Exception) -> None:
        """Say once why the connection does not come back, if nobody has said so."""
        with self._locked():
            if isinstance(error, Refused) and self._pause == 0.0:
                logger.error("Redis at %s refuses the connection that listens: %s.", self._link.address.name, error)


def _keep(reference: weakref.ref[Channel], tick: threading.Event) -> None:
    """Look after a channel until it is closed or nobody has it any more."""
    wait: float | None = 0.0
    while wait is not None:
        tick.wait(wait)
        tick.clear()
        channel = reference()
        if channel is None:
            return
        wait = channel.tend()
        del channel
