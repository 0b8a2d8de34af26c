"""Bytes to and from a Redis server: sockets, and requests that are answered whole or not at all.

Errors of the connection are `OSError` (of which `TimeoutError` is one) and `hiredis.ProtocolError`; together: `Broken`.
"""

from __future__ import annotations

import os
import select
import socket
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from celery.exceptions import ImproperlyConfigured
from celery.utils.descriptors import POLLIN, POLLOUT, is_green, poll, read, write

try:
    import hiredis
except ImportError as missing:  # pragma: no cover - the extra brings it
    raise ImproperlyConfigured("Redis needs the package hiredis: pip install 'celery[redis]'.") from missing

SPINS = 120
"""Times that an answer is looked for before the thread sleeps for it. A server on this machine answers in less time
than it takes to fall asleep and be woken: 26 us for an exchange instead of 70, 75 for a script instead of 115. Between
two looks whoever else wants this processor gets it: on a small machine that may be the server."""
ALONE = 8
"""Looks before it gives way."""
MISSES = 8
"""Answers in a row that came later than that, after which looking is given up..."""
REST = 512
"""...for so many exchanges. Then one is looked for again."""
CHUNK = 1 << 16
"""Bytes read at once; sixteen times as many once an answer turns out to be long."""
give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
CLOSED = "the server closed the connection"
HALF_OPEN = 10.0
"""Seconds after which a connection that the other side does not know any more is noticed by TCP itself."""

POLLS = os.name == "posix"
"""Whether descriptors of sockets can be read and polled here."""

Argument = bytes | str | int | float | memoryview
_pack: Callable[[Sequence[Argument]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub wants one
ReplyError, ProtocolError = hiredis.ReplyError, hiredis.ProtocolError
Broken = (OSError, ProtocolError)


def pack(command: Sequence[Argument]) -> bytes:
    """A command and its arguments, as they are sent."""
    # Numbers become text here: hiredis (3.5) does that itself, but dies if a signal raises meanwhile, as a soft time
    # limit does.
    return _pack(tuple([word if word.__class__ is bytes or word.__class__ is str else _text(word) for word in command]))


def _text(word: Argument) -> Argument:
    return str(word) if isinstance(word, int | float) else word


def processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Wire:
    """A connected socket on which requests are sent and answers read, by one thread at a time.

    `whole` is False from the first byte of a request until the last of its answers: a wire that is left so (whatever
    was raised meanwhile) has an answer on its way that nobody waits for, and can only be closed.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.whole = True
        self.epoch: object = None
        self.client_id = 0
        """This connection's number on the server; 0 if the server did not say."""
        self.socket = connected
        # Not __del__: in a cycle the socket might be finalised first, and complain that nobody closed it.
        self._finalize = weakref.finalize(self, connected.close)
        self.reader = hiredis.Reader()
        connected.settimeout(0.0)
        self.descriptor = connected.fileno()
        if POLLS:
            self._poll = poll()
            self._poll.register(self.descriptor, POLLIN)
        # Greenlets that look for an answer, and find it every time, would never let another one run.
        self._most = self.spins = SPINS if processors() > 1 and not is_green() else 0
        self._misses = 0
        self._rest = REST

    def exchange(self, packed: bytes, replies: int, deadline: float, patience: float) -> list[Any]:
        """Send *packed* and read so many replies; errors of the server are among them.

        Raises one of `Broken` when *deadline* (of `time.monotonic`) passes, or *patience* seconds without one byte.
        """
        self.whole = False
        reader = self.reader
        found: list[Any] = []
        try:
            self.send(packed, deadline, patience)
            self.look()
            size = CHUNK
            while True:
                reply = reader.gets()
                while reply is not False:
                    found.append(reply)
                    if len(found) == replies:
                        if reader.has_data():
                            raise ConnectionError("the server sent more than it was asked for")
                        self.whole = True
                        return found
                    reply = reader.gets()
                self._receive(size, deadline, patience)
                size = CHUNK << 4
        except ConnectionError as error:
            raise self._last_words(found) or error from error

    def send(self, packed: bytes, deadline: float, patience: float) -> None:
        """Send *packed*; whatever arrives meanwhile is kept for `replies`."""
        try:
            sent = write(self.descriptor, packed)
        except BlockingIOError:
            sent = 0
        if sent < len(packed):
            self._send_rest(memoryview(packed)[sent:], deadline, patience)

    def look(self) -> None:
        """Look for an answer a few times without sleeping, where that has been worth it; what came is kept."""
        if not self.spins:
            self._rest -= 1
            if self._rest == 0:
                self.spins = self._most
            return
        descriptor = self.descriptor
        for turn in range(self.spins):
            try:
                data = read(descriptor, CHUNK)
            except BlockingIOError:
                if turn >= ALONE:
                    give_way()  # to the server itself, where there is no other processor for it
                continue
            if not data:
                raise ConnectionResetError(CLOSED)
            self.reader.feed(data)
            self._misses = 0
            return
        self._misses += 1
        if self._misses >= MISSES:
            self.spins, self._misses, self._rest = 0, MISSES - 1, REST

    def wait(self, deadline: float, patience: float) -> None:
        """Sleep until there is something to read that `arrived` has not read. Raises TimeoutError.

        What came while this process itself stood still, past the deadline, is there all the same.
        """
        left = max(0.0, min(deadline - time.monotonic(), patience))
        if not self._poll.poll(left * 1000.0):
            raise TimeoutError("the server does not answer")

    def arrived(self) -> list[Any]:
        """What the server sent so far, without waiting."""
        with suppress(BlockingIOError):
            while self._feed(CHUNK) == CHUNK:
                pass
        found = []
        while (reply := self.reader.gets()) is not False:
            found.append(reply)
        return found

    def close(self) -> None:
        """Only closes this process's end: after a fork the other process's connection lives on."""
        self.whole = False
        self._finalize()

    def shutdown(self) -> None:
        """End the connection: an exchange that another thread is in raises one of `Broken`."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is not connected any more

    def _last_words(self, found: list[Any]) -> ConnectionError | None:
        """Why the server closed the connection, if it said so."""
        with suppress(*Broken):
            found += self.arrived()
        return next((ConnectionError(str(reply)) for reply in found if reply.__class__ is ReplyError), None)

    def _receive(self, size: int, deadline: float, patience: float) -> None:
        """Sleep until there is something to read, and read it."""
        self.wait(deadline, patience)
        with suppress(BlockingIOError):
            self._feed(size)

    def _feed(self, size: int) -> int:
        """Read once what is there; how many bytes. Raises BlockingIOError if there is nothing."""
        data = read(self.descriptor, size)
        if not data:
            raise ConnectionResetError(CLOSED)
        self.reader.feed(data)
        return len(data)

    def _send_rest(self, rest: memoryview, deadline: float, patience: float) -> None:
        """Send what did not fit into the socket's buffer. Reads meanwhile, lest both sides wait for each other."""
        both = poll()
        both.register(self.descriptor, POLLIN | POLLOUT)
        while rest:
            left = max(0.0, min(deadline - time.monotonic(), patience))
            events = both.poll(left * 1000.0)
            if not events:
                raise TimeoutError("the server does not read")
            with suppress(BlockingIOError):
                if events[0][1] & POLLIN:
                    self._feed(CHUNK)
                if events[0][1] & ~POLLIN:
                    rest = rest[write(self.descriptor, rest) :]


class StreamWire(Wire):
    """The same through the socket's own methods.

    For TLS, where the descriptor says little about what there is to read, and where descriptors cannot be polled.
    """

    def look(self) -> None:
        """Nothing: what is done here takes longer than to fall asleep."""

    def send(self, packed: bytes, deadline: float, patience: float) -> None:
        rest = memoryview(packed)
        while rest:
            self._set_timeout(deadline, patience)
            rest = rest[self.socket.send(rest[: CHUNK << 4]) :]

    def wait(self, deadline: float, patience: float) -> None:
        if POLLS:
            super().wait(deadline, patience)
            return
        left = max(0.0, min(deadline - time.monotonic(), patience))
        if not select.select([self.descriptor], [], [], left)[0]:
            raise TimeoutError("the server does not answer")

    def _receive(self, size: int, deadline: float, patience: float) -> None:
        with suppress(BlockingIOError):
            self._feed(size)
            return
        self._set_timeout(deadline, patience)
        data = self.socket.recv(size)
        if not data:
            raise ConnectionResetError(CLOSED)
        self.reader.feed(data)

    def _feed(self, size: int) -> int:
        self.socket.settimeout(0.0)
        try:
            data = self.socket.recv(size)
        except OSError as error:
            if type(error).__name__ in {"SSLWantReadError", "SSLWantWriteError"}:
                raise BlockingIOError from error
            raise
        if not data:
            raise ConnectionResetError(CLOSED)
        self.reader.feed(data)
        # A record may be shorter than what was asked for, and another one be there already.
        return CHUNK

    def _set_timeout(self, deadline: float, patience: float) -> None:
        left = min(deadline - time.monotonic(), patience)
        if left <= 0:
            raise TimeoutError("the server does not answer")
        self.socket.settimeout(left)


def connect_tcp(host: str, port: int, deadline: float, keepalive: Mapping[int, int] | None) -> socket.socket:
    """A TCP connection to the first address of *host* that takes one before *deadline*.

    *keepalive*: options of TCP to set; None turns keeping alive off.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    trouble: OSError | None = None
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if keepalive is not None:
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in keepalive.items():
                    connecting.setsockopt(socket.IPPROTO_TCP, option, value)
            connecting.settimeout(left / (len(addresses) - position))
            connecting.connect(address)
        except OSError as error:
            connecting.close()
            trouble = error
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    raise trouble or TimeoutError("no connection in time")


def connect_unix(path: str, deadline: float) -> socket.socket:
    """A connection to the socket at *path*."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connecting.settimeout(max(0.001, deadline - time.monotonic()))
        connecting.connect(path)
    except BaseException:
        connecting.close()
        raise
    return connecting


def default_keepalive() -> dict[int, int]:
    """TCP's options, as far as this system has them, that make it notice within `HALF_OPEN` that nobody is there."""
    seconds = int(HALF_OPEN)
    wanted = {
        "TCP_KEEPIDLE": seconds // 2 - 1,
        "TCP_KEEPALIVE": seconds // 2 - 1,  # the same by Apple's name
        "TCP_KEEPINTVL": 2,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": seconds * 1000,
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def tls() -> Any:
    """The module `ssl`, which only those load who use it."""
    return import_module("ssl")
