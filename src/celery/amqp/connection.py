"""One connection to a node and the thread that reads it. Its states:

```
open <----> blocked          the server takes no messages for now (memory, disk): it said so
  |            |
  +-----+------+
        |  close(), the server's connection.close, an error of the socket, silence for two heartbeats (or, on a watched
        |  connection, after a question), a fork
        v
      ended                  `ended` says why; everyone who waits is told, and nothing is sent any more
```

A connection is never remade in place: whoever needs one takes the next (`celery.amqp.link`), so that what a channel
knows (delivery tags, numbers of confirms) cannot be mistaken for that of another.

Any thread may send: into the socket if it takes it, else into a buffer that the I/O thread empties.  The I/O thread
reads, unless a guest does: a thread that waits for an answer, which it so gets without another one being woken first.
Of several guests one reads for all; when it leaves it wakes another one to take its place.
What arrives for a channel is handed to that channel's callbacks, which must not block, by whoever reads.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from struct import error as StructError  # noqa: N812 - it is a class, whatever its name

from celery.amqp import frames
from celery.amqp.address import Greeted, trouble
from celery.amqp.channel import Channel, Refused, closed
from celery.amqp.frames import HEAD, Args
from celery.exceptions import BrokerError
from celery.utils.bell import Chime
from celery.utils.descriptors import POLLIN, POLLOUT, Poll, is_green, poll
from celery.utils.log import get_logger

logger = get_logger(__name__)

CHUNK = 65_536
TICK = 500.0
"""Milliseconds between two calls of `Connection.on_tick`, when nothing happens."""
QUIET = 2.0
"""Seconds of silence after which a server is asked whether it is there, on a connection that is watched."""
LINGER = 0.05
"""Seconds after the last guest before the thread reads again, unless somebody waits for it."""
LEAVING = 2.0
"""Seconds that the server has to answer connection.close."""
WANTS = (BlockingIOError, InterruptedError)


class Guest(ABC):
    """Somebody who waits for something that arrives on a connection, and reads it if nobody else does."""

    __slots__ = ("_woken",)
    _woken: threading.Event

    @abstractmethod
    def is_served(self) -> bool:
        """Whether it has what it waits for. Called by every thread, also while it reads."""

    def prepare(self) -> None:
        """From now on it can be woken."""
        self._woken = threading.Event()

    def wake(self) -> None:
        """Have it look whether it is served, and whether somebody reads. Any thread."""
        if hasattr(self, "_woken"):
            self._woken.set()

    def sleep(self, seconds: float) -> None:
        self._woken.wait(max(0.0, seconds))


class Connection:
    """Greeted and open. Thread-safe. `channel()` gives what requests are made on.

    *timeout*: the seconds that the server may take to answer.  A *watched* connection finds out that it leads nowhere
    within that time and a little, not only after two heartbeats: the server is asked something as soon as it is silent.
    """

    def __init__(self, greeted: Greeted, where: str, timeout: float, *, watched: bool = False) -> None:
        self.where = where
        self.timeout = timeout
        self.frame_max = greeted.frame_max or 131_072
        self.product, self.version = greeted.product, greeted.version
        self.ended: BrokerError | None = None
        self.blocked = ""
        """Why the server takes no messages, as it says; empty when it does."""
        self.flowing = threading.Event()
        """Set unless it is blocked."""
        self.flowing.set()
        self.on_end: Callable[[], None] | None = None
        self.attended = False
        """Somebody watches `fileno()` and has what is there read by `look()`: the thread leaves it to them, unless they
        do not come for half a second to a second."""
        self.on_tick: Callable[[], None] | None = None
        """Called by the thread at least every half second, if it is there; it must not block."""
        self._greeted = greeted
        self._pid = os.getpid()
        self._socket = greeted.socket
        self._socket.setblocking(False)
        self._number: int = self._socket.fileno()
        self._tls = not isinstance(self._socket, socket.socket) or hasattr(self._socket, "pending")
        self._io = threading.Lock()
        """Held for one call to the socket: OpenSSL knows no second thread."""
        self._reading = threading.Lock()
        """Held by whoever reads."""
        self._guest_poll: Poll | None = None
        self._guests: dict[Guest, None] = {}
        """Those that wait for another one's reading."""
        self._guest = False
        """One reads."""
        self._guest_left = 0.0
        self._peek = poll()
        self._peek.register(self._number, POLLIN)
        self._unread_at = 0.0
        """Since when somebody who reads by themselves leaves something unread; 0 if nobody does."""
        self._waiting = 0
        """Those who rely on the thread."""
        self._out = bytearray()
        self._in = bytes(greeted.rest)
        """What is no whole frame yet."""
        self._chime = Chime()
        self._lock = threading.Lock()
        self._channels: dict[int, Channel] = {}
        self._fresh = iter(range(1, (greeted.channel_max or 2047) + 1))
        self._free: deque[int] = deque()
        """Numbers of channels that have ended."""
        self._heard = self._said = time.monotonic()
        self._watched = watched
        self._asked_at = 0.0
        self._question = 0
        """The channel that is opened and closed in order to have an answer."""
        self._question_open = False
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery-amqp", daemon=True)
        self._thread.start()

    @property
    def state(self) -> str:
        if self.ended is not None or os.getpid() != self._pid:
            return "ended"
        return "blocked" if self.blocked else "open"

    @property
    def usable(self) -> bool:
        return self.ended is None and os.getpid() == self._pid

    def channel(self) -> Channel:
        """A new channel. Raises `BrokerError`."""
        with self._lock:
            number = self._next_number()
            if not number:
                raise BrokerError(f"RabbitMQ at {self.where} allows no further channel on this connection.")
            channel = self._channels[number] = Channel(self, number)
        channel.call(frames.method(number, frames.CHANNEL_OPEN, b"\0"), frames.CHANNEL_OPEN_OK)
        return channel

    def forget(self, number: int) -> None:
        """The channel with this number has ended."""
        if self._channels.pop(number, None) is not None:
            self._free.append(number)

    def _next_number(self) -> int:
        """Of a channel; 0 if all are in use. The lock is held."""
        return next(self._fresh, 0) or (self._free.popleft() if self._free else 0)

    def send(self, data: bytes) -> None:
        """Returns when it is on its way, or in the buffer. Raises `BrokerError` if the connection has ended."""
        if self.ended is not None:
            raise self.ended
        with self._io:
            if self._out:
                self._out += data
                return
            sent = self._write(data)
            if sent == len(data):
                return
            self._out += data[sent:]
        self._chime.ring()

    def _write(self, data: bytes | bytearray) -> int:
        """How much of it the socket took. The lock is held."""
        try:
            sent = int(self._socket.send(data))
        except WANTS:
            return 0
        except OSError as error:
            if _wants_more(error):
                return 0
            self._chime.ring()
            self._fail(trouble(f"The connection to RabbitMQ at {self.where} broke ({error})."))
            return 0
        self._said = time.monotonic()
        return sent

    def host(self, guest: Guest, until: float) -> None:
        """Wait until *guest* is served, or until a time (of `time.monotonic`). It may return sooner: ask again."""
        if self._attend(guest, until):
            return
        guest.prepare()
        with self._lock:
            self._guests[guest] = None
        try:
            # Whoever reads by now sees when it leaves that somebody else waits.
            if guest.is_served() or self._attend(guest, until):
                return
            left = until - time.monotonic()
            if self._out or is_green():
                with self.relying():
                    guest.sleep(left)
            else:
                guest.sleep(left)
        finally:
            with self._lock:
                del self._guests[guest]
            self._hand_on()

    def _attend(self, guest: Guest, until: float) -> bool:
        """Read in this thread until *guest* is served; False where somebody else reads, or has to, or nobody can."""
        if self._out or self.ended is not None or is_green() or not self._reading.acquire(blocking=False):
            return False
        try:
            self._guest = True
            if self._guest_poll is None:
                self._guest_poll = poll()
                self._guest_poll.register(self._socket.fileno(), POLLIN)
            while not guest.is_served() and not self._out and self.ended is None:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._guest_poll.poll(left * 1000)
                self._read_as_guest()
        finally:
            self._guest = False
            self._guest_left = time.monotonic()
            self._reading.release()
            if self._waiting or self._out:
                self._chime.ring()
            self._hand_on()
        return True

    def _hand_on(self) -> None:
        """Have the guest that has waited for longest read, unless somebody does or will."""
        if self._guests and not self._guest and not self._waiting:
            with self._lock:
                guest = next(iter(self._guests), None)
            if guest is not None:
                guest.wake()

    def fileno(self) -> int:
        """The descriptor of its socket."""
        return self._number

    def look(self) -> None:
        """Read what has arrived, in this thread, unless somebody else reads."""
        if self._out or not self._reading.acquire(blocking=False):
            return
        try:
            self._unread_at = 0.0
            self._read_as_guest()
        finally:
            self._reading.release()
            if self._waiting or self._out:
                self._chime.ring()

    def _read_as_guest(self) -> None:
        try:
            self._read()
        except (ValueError, LookupError, StructError) as error:
            self._fail(trouble(f"RabbitMQ at {self.where} sent what cannot be read ({error})."))
        except BaseException:  # a signal, a time limit: half of what came may have been handed on
            self._fail(trouble(f"Reading from RabbitMQ at {self.where} was interrupted."))
            raise

    @contextmanager
    def relying(self) -> Iterator[None]:
        """While it lasts the thread reads, as soon as no guest does."""
        with self._lock:
            self._waiting += 1
            # A guest that reads rings when it leaves.
            if not self._guest and (self.attended or self._left_alone()):
                self._chime.ring()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
            self._hand_on()

    def _left_alone(self) -> bool:
        """Whether guests see to what arrives, or did a moment ago."""
        return self._guest or time.monotonic() - self._guest_left < LINGER

    def close(self) -> None:
        """Say goodbye, and wait for the thread. Idempotent; in a forked child it only lets go."""
        if os.getpid() != self._pid:
            self.ended = self.ended or closed()
            with suppress(OSError):
                os.close(self._socket.detach())
            return
        if self.ended is None and threading.current_thread() is not self._thread:
            with suppress(BrokerError):
                reason = b"\0\xc8" + frames.short("bye") + b"\0\0\0\0"
                self.send(frames.method(0, frames.CONNECTION_CLOSE, reason))
                with self.relying():
                    self._left.wait(LEAVING)
        self._fail(closed())
        if threading.current_thread() is not self._thread:
            self._thread.join(LEAVING)

    def fail(self, error: BrokerError) -> None:
        """End it: somebody has found that it is of no use any more."""
        self._fail(error)

    def _fail(self, error: BrokerError) -> None:
        with self._lock:
            if self.ended is not None:
                return
            self.ended = error
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._chime.ring()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._reading:
                self._feed(b"")
            self._serve()
        except (ValueError, LookupError, StructError) as error:
            logger.exception("RabbitMQ at %s sent what cannot be read", self.where)
            self._fail(trouble(f"RabbitMQ at {self.where} sent what cannot be read ({error})."))
        except Exception as error:
            logger.exception("The thread of a connection to RabbitMQ at %s failed", self.where)
            self._fail(trouble(f"The connection to RabbitMQ at {self.where} failed ({error})."))
        finally:
            ended = self.ended or closed()
            self.ended = ended
            with suppress(OSError):
                self._socket.close()
            self._left.set()
            self.flowing.set()
            for channel in list(self._channels.values()):
                channel.end(ended)
            if self.on_end is not None:
                self.on_end()

    def _serve(self) -> None:
        poller = poll()
        number, beat = self._number, self._greeted.heartbeat
        poller.register(number, POLLIN)
        poller.register(self._chime.fileno(), POLLIN)
        watched = POLLIN
        while self.ended is None:
            alone = self._is_seen_to() if self.attended else self._left_alone()
            away = self._guest or (alone and not self._waiting)
            wanted = (0 if away else POLLIN) | (POLLOUT if self._out else 0)
            if watched != wanted:
                watched = wanted
                poller.register(number, wanted)
            pause = beat * 250 if beat else None
            if away and not self.attended:
                pause = LINGER * 1000 if pause is None else min(LINGER * 1000, pause)
            if self.on_tick is not None or self._watched:
                pause = TICK if pause is None else min(TICK, pause)
            for ready, events in poller.poll(pause):
                if ready != number:
                    self._chime.clear()
                elif events & ~POLLOUT:  # also where only a hang-up is watched for
                    away = False
            self._flush()
            if not away and self._reading.acquire(blocking=False):
                try:
                    self._read()
                finally:
                    self._reading.release()
                self._hand_on()
            if beat:
                self._keep_alive(beat)
            if self._watched:
                self._watch()
            if self.on_tick is not None:
                self.on_tick()

    def _is_seen_to(self) -> bool:
        """Whether somebody has read since the last time that this was asked, or there is nothing to read."""
        if not self._peek.poll(0):
            self._unread_at = 0.0
            return True
        now = time.monotonic()
        self._unread_at = self._unread_at or now
        return now - self._unread_at < TICK / 2000

    def _flush(self) -> None:
        if self._out:
            with self._io:
                sent = self._write(self._out)
                del self._out[:sent]

    def _read(self) -> None:
        while self.ended is None:
            try:
                if self._tls:
                    with self._io:
                        data = self._socket.recv(CHUNK)
                else:
                    data = self._socket.recv(CHUNK)
            except WANTS:
                return
            except OSError as error:
                if not _wants_more(error):
                    self._fail(trouble(f"The connection to RabbitMQ at {self.where} broke ({error})."))
                return
            if not data:
                self._fail(trouble(f"RabbitMQ at {self.where} closed the connection."))
                return
            self._heard = time.monotonic()
            self._feed(data)
            for channel in list(self._channels.values()):
                channel.tell()
            if len(data) < CHUNK and not self._tls:
                return

    def _keep_alive(self, beat: float) -> None:
        now = time.monotonic()
        if now - self._heard > 2 * beat:
            self._fail(trouble(f"RabbitMQ at {self.where} has been silent for two heartbeats ({2 * beat:g} s)."))
        elif now - self._said > beat / 2 and not self._out:
            with suppress(BrokerError):
                self.send(frames.BEAT)

    def _watch(self) -> None:
        """Ask the server something if it has been silent; end the connection if it does not answer.

        Called after everything was read that there is: a process that stood still blames nobody.
        """
        now = time.monotonic()
        if self._heard >= self._asked_at:
            if now - self._heard < QUIET or self.blocked or not self._ask():
                return
            self._asked_at = now
        elif now - self._asked_at > self.timeout and not self.blocked:
            self._fail(trouble(f"RabbitMQ at {self.where} has not answered for {self.timeout:g} s."))

    def _ask(self) -> bool:
        """Whether there was a way to ask: a channel is opened, or closed the next time."""
        if not self._question:
            with self._lock:
                self._question = self._next_number()
        if not self._question:
            return False
        number = self._question
        data = frames.method(number, frames.CHANNEL_OPEN, b"\0")
        if self._question_open:
            data = frames.method(number, frames.CHANNEL_CLOSE, b"\0\xc8" + frames.short("") + b"\0\0\0\0")
        self._question_open = not self._question_open
        with suppress(BrokerError):
            self.send(data)
        return True

    def _feed(self, data: bytes) -> None:
        """Hand on what is there in whole frames."""
        raw = self._in + data if self._in else data
        at, size = 0, len(raw)
        channels, head = self._channels, HEAD.unpack_from
        while size - at >= 8:
            kind, number, length = head(raw, at)
            end = at + 7 + length
            if end >= size:
                break
            if raw[end] != 0xCE:
                raise ValueError("a frame does not end where it says")
            payload = raw[at + 7 : end]
            at = end + 1
            if number:
                channel = channels.get(number)
                if channel is not None:
                    channel.take(kind, payload)
            elif kind == frames.METHOD:
                self._command(payload)
        self._in = raw[at:]

    def _command(self, payload: bytes) -> None:
        """What the server says about the connection."""
        args = Args(payload, 0)
        match args.number(4):
            case frames.CONNECTION_CLOSE:
                code, text = args.number(2), args.short()
                with suppress(BrokerError):
                    self.send(frames.method(0, frames.CONNECTION_CLOSE_OK))
                error = Refused(f"RabbitMQ at {self.where} closed the connection: {text} ({code}).", code)
                error.temporary = code in {320, 541}  # forced by an operator or a node that stops; internal
                self._fail(error)
            case frames.CONNECTION_CLOSE_OK:
                self._left.set()
            case frames.BLOCKED:
                self.blocked = args.short() or "it does not say why"
                self.flowing.clear()
                logger.warning("RabbitMQ at %s takes no messages for now: %s", self.where, self.blocked)
            case frames.UNBLOCKED:
                self.blocked = ""
                self.flowing.set()
                logger.warning("RabbitMQ at %s takes messages again", self.where)


def _wants_more(error: OSError) -> bool:
    """Whether TLS only waits for the other side."""
    return type(error).__name__ in {"SSLWantReadError", "SSLWantWriteError"}
