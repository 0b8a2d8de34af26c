"""Requests to a Redis server: a few connections, each used by one thread at a time, under one deadline.

A connection is *idle* (nobody holds its lock), *busy* (one exchange runs on it) or *broken*: when anything about it is
in doubt (an error, a timeout, an answer that did not come whole) it is closed and the next exchange begins with a new
one.  No state survives a connection: scripts are sent again when the server does not know them.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import hiredis
import redis

from celery.redis.address import Address
from celery.redis.scripts import Script

TIMEOUT = 5.0
"""Seconds for one request, reconnecting included, unless the option `timeout` says otherwise."""
SPINS = 24
"""Times that an answer is looked for before the thread sleeps for it. A server on this machine answers in less time
than it takes to fall asleep and be woken: 26 us for an exchange instead of 70, for the same time of the processor."""

Argument = bytes | str | int | float
pack: Callable[[Sequence[Argument]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub wants one
Broken = (OSError, redis.ConnectionError, redis.TimeoutError)


class Lane:
    """One connection and the lock that whoever uses it holds. Remade in place when it breaks."""

    def __init__(self, address: Address) -> None:
        self.lock = threading.Lock()
        self.name = uuid4().hex
        self.number = 0
        """For requests that must not be carried out twice: counts them."""
        self.made = 0
        """How often it was connected: what the server knew of an earlier connection is gone."""
        self._address = address
        self._connection: Any = None
        self._spins = SPINS

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def connect(self, timeout: float) -> None:
        self._connection, self._socket = self._address.connect(timeout)
        self._descriptor = self._socket.fileno()
        self._reader = hiredis.Reader()
        self.made += 1

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def exchange(self, packed: bytes, replies: int, deadline: float) -> list[Any]:
        """Send and read so many replies; errors of the server are among them. Raises one of `Broken`."""
        sent = os.write(self._descriptor, packed) if len(packed) < 32768 else 0
        if sent < len(packed):
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._socket.sendall(memoryview(packed)[sent:])
        reader, found = self._reader, []
        for _ in range(self._spins):
            try:
                data = os.read(self._descriptor, 65536)
            except BlockingIOError:
                continue
            if not data:
                raise redis.ConnectionError("the server closed the connection")
            reader.feed(data)
            break
        while True:
            reply = reader.gets()
            if reply is not False:
                found.append(reply)
                if len(found) == replies:
                    return found
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise redis.TimeoutError("no answer in time")
            self._socket.settimeout(left)
            data = self._socket.recv(262144)
            if not data:
                raise redis.ConnectionError("the server closed the connection")
            reader.feed(data)


class Link:
    """The connections of one broker or store to its server. Thread-safe; survives a fork.

    Methods raise *error* with one sentence, within `timeout` seconds.  A request whose connection broke is sent again,
    so it must be one that may be carried out twice.
    """

    def __init__(self, url: str, options: Mapping[str, Any], *, error: type[Exception]) -> None:
        self.address = Address(url, options)
        self.timeout = float(options.get("timeout") or TIMEOUT)
        self._error = error
        self._lanes: list[Lane] = []
        self._pid = os.getpid()

    @property
    def prefix(self) -> str:
        return self.address.prefix

    def call(self, *command: Argument) -> Any:
        """One command, its reply."""
        return self.calls([command])[0]

    def calls(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Several commands in one go, their replies; raises at the first one that is an error."""
        packed = b"".join(pack(tuple(command)) for command in commands)
        with self.lane() as lane:
            return self.exchange(lane, packed, len(commands))

    def run(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument], lane: Lane | None = None) -> Any:
        """What *script* returns; on *lane* if the caller holds one."""
        packed = pack(("EVALSHA", script.sha, len(keys), *keys, *args))
        if lane is not None:
            return self.exchange(lane, packed, script=script)[0]
        with self.lane() as free:
            return self.exchange(free, packed, script=script)[0]

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """A connection that nobody else uses meanwhile."""
        lane = self.take()
        try:
            yield lane
        finally:
            lane.lock.release()

    def take(self) -> Lane:
        """A lane whose lock the caller holds and releases."""
        if self._pid != os.getpid():
            self._lanes, self._pid = [], os.getpid()
        for lane in self._lanes:
            if lane.lock.acquire(blocking=False):
                return lane
        lane = Lane(self.address)
        lane.lock.acquire()
        self._lanes.append(lane)
        return lane

    def open_lane(self) -> Lane:
        """A lane for one user's own state on its connection; others may use it while that user does not hold its lock.

        It is the first one they take, so that a process which consumes has one connection for all it does.
        """
        lane = Lane(self.address)
        self._lanes.insert(0, lane)
        return lane

    def exchange(self, lane: Lane, packed: bytes, replies: int = 1, script: Script | None = None) -> list[Any]:
        """Send *packed* on *lane*, whose lock the caller holds, until it is answered or the time is up."""
        deadline = time.monotonic() + self.timeout
        pause = 0.0
        while True:
            try:
                if not lane.connected:
                    lane.connect(max(0.001, deadline - time.monotonic()))
                found = lane.exchange(packed, replies, deadline)
            except Broken as error:
                lane.close()
                trouble: Exception = error
            except redis.RedisError as error:
                lane.close()
                raise self._refusal(error) from error
            else:
                bad = next((reply for reply in found if isinstance(reply, hiredis.ReplyError)), None)
                if bad is None:
                    return found
                if script is None or not str(bad).startswith("NOSCRIPT"):
                    raise self._refusal(bad)
                packed_load = pack(("SCRIPT", "LOAD", script.text))
                lane.exchange(packed_load, 1, deadline)
                continue
            if time.monotonic() + pause >= deadline:
                raise self._unreachable(trouble) from trouble
            time.sleep(pause)
            pause = min(1.0, (pause * 2 or 0.05)) * random.uniform(0.8, 1.2)

    def close(self) -> None:
        """Close every connection; the link may be used again."""
        for lane in self._lanes:
            with lane.lock:
                lane.close()
        self._lanes = []

    def _unreachable(self, error: Exception) -> Exception:
        raised = self._error(f"Redis at {self.address.place} cannot be reached: {error}.")
        raised.temporary = True  # type: ignore[attr-defined]
        return raised

    def _refusal(self, error: Exception) -> Exception:
        return self._error(f"Redis at {self.address.place} refuses: {error}.")
