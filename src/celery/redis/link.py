"""Requests to a Redis server: a few connections, each used by one thread at a time, under one deadline.

A `Lane` is a connection, remade in place. Its states:

```
         connect                    send
closed ----------> ready ------------------------> busy
   ^  ^              ^      every answer is read     |
   |  |              +-------------------------------+
   |  +-- refused (password, database, version)      |  error of the socket or the protocol, no answer in time, an
   |                                                  |  exception in this thread (a signal, a time limit), or a server
   +--------------------------------------------------+  that is no primary any more
```

Only a *ready* lane is sent to: whatever leaves one *busy* with an answer on its way makes it *closed*, at the latest
when it is next looked at.  No state survives a connection: scripts are sent again when the server does not know them.

A request on a `Link` begins with any lane and ends with its answer, with a refusal (at once), or with its deadline:
when the lane breaks, the server that is the primary now is looked for and the request sent again, at first at once,
then after pauses that grow from 0.05 to 1 s, each with a jitter.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from celery.redis.address import Address
from celery.redis.greeting import Server, refuse_unusable
from celery.redis.replies import LATER, STRANGER, Refused, code_of, reason, refusal
from celery.redis.scripts import Script
from celery.redis.wire import Argument, Broken, ReplyError, Wire, pack

Call = tuple[Script, Sequence[Argument], Sequence[Argument]]
"""A script, its keys and its arguments."""
TIMEOUT = 5.0
"""Seconds for one request, reconnecting included, unless the option `timeout` says otherwise."""
SURPLUS = 5.0
"""Seconds that a lane beyond the first stays unused before it is closed."""
SLICE = 0.02
"""Seconds that are waited for one lane before the others are looked at."""
ENOUGH = 0.15
"""Seconds that an attempt has to have, for its failure to say more than that of the attempts before it."""
PAUSES = 0.05, 1.0
"""Seconds before the second attempt to connect, and the most before any."""


class Lane:
    """One connection and the lock that whoever uses it holds. Remade in place when it breaks."""

    def __init__(self, link: Link, *, kept: bool = False) -> None:
        self.lock: Any = threading.RLock()  # which knows its owner; nobody takes a lane that is its own already
        self.name = uuid4().hex
        self.number = 0
        """For requests that must not be carried out twice: counts them."""
        self.made = 0
        """How often it was connected: what the server knew of an earlier connection is gone."""
        self.used = 0.0
        self.kept = kept
        self._link = link
        self._wire: Wire | None = None

    @property
    def state(self) -> str:
        """`closed`, `ready`, or `busy`: an exchange is under way, or was left."""
        wire = self._wire
        if wire is None:
            return "closed"
        return "ready" if wire.whole else "busy"

    @property
    def connected(self) -> bool:
        """Whether it can be sent to as it is."""
        wire = self._wire
        return wire is not None and wire.whole and wire.epoch is forks.epoch

    def connect(self, deadline: float) -> None:
        """Make the connection anew. Raises `Refused` or one of `Broken`."""
        self.close()
        self._wire = self._link.open_wire(deadline)
        self.made += 1

    def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def shutdown(self) -> None:
        """End the connection under the thread that uses it."""
        wire = self._wire
        if wire is not None:
            wire.shutdown()

    def exchange(self, packed: bytes, replies: int, deadline: float) -> list[Any]:
        """Send and read so many replies; errors of the server are among them. Raises one of `Broken`.

        The lane must be connected. Whatever is raised, it is closed.
        """
        wire = self._wire
        if wire is None:
            raise ConnectionError("not connected")
        try:
            return wire.exchange(packed, replies, deadline, self._link.patience(deadline))
        except BaseException:  # also one that a signal raised: nobody may read this answer as that to another request
            self.close()
            raise


class Link:
    """The connections of one broker or store to its server. Thread-safe; survives a fork.

    *options*, besides those of `celery.redis.address`: `timeout`, seconds for a request; `max_connections` (else
    `limit`), how many there may be at once, 0 or None for any number.  *check* is asked about the server when one is
    first connected to, and answers with a sentence if it cannot be used.

    Methods raise *error* with one sentence, within `timeout` seconds (*deadline*, of `time.monotonic`, overrides it).
    Its attribute `temporary` says whether the same request may succeed later, `code` is the first word of the server's
    answer if it was one.  A request whose connection broke is sent again, so it must be one that may be carried out
    twice.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        options: Mapping[str, Any],
        *,
        error: type[Exception],
        check: Callable[[Server], str | None] = refuse_unusable,
    ) -> None:
        self._given = url, options
        self.address = Address(url, options)
        self.timeout = self.address.timeout or TIMEOUT
        self.limit = self.address.limit
        self._error = error
        self._check = check
        self._lanes: tuple[Lane, ...] = ()
        self._mutex = threading.Lock()
        self._epoch = forks.epoch
        self._trim_at = 0.0
        self._server: Server | None = None
        self._budget = self.address.patience or float("inf")

    def twin(self) -> Link:
        """Another one to the same server, which shares no connection and no lock with this one."""
        return Link(*self._given, error=self._error, check=self._check)

    @property
    def prefix(self) -> str:
        return self.address.prefix

    @property
    def server(self) -> Server:
        """What the server last connected to says of itself; connects if there was none."""
        if self._server is None:
            self.call("PING")
        assert self._server is not None
        return self._server

    def call(self, *command: Argument, deadline: float | None = None) -> Any:
        """One command, its reply."""
        return self._request(pack(command), 1, (), deadline)[0]

    def calls(self, commands: Sequence[Sequence[Argument]], *, deadline: float | None = None) -> list[Any]:
        """Several commands in one go, their replies; raises at the first one that is an error."""
        packed = b"".join([pack(tuple(command)) for command in commands])
        return self._request(packed, len(commands), (), deadline) if commands else []

    def run(
        self,
        script: Script,
        keys: Sequence[Argument],
        args: Sequence[Argument],
        lane: Lane | None = None,
        *,
        deadline: float | None = None,
    ) -> Any:
        """What *script* returns; on *lane* if the caller holds one."""
        packed = pack(("EVALSHA", script.sha, len(keys), *keys, *args))
        if lane is not None:
            return self.exchange(lane, packed, 1, (script,), deadline=deadline)[0]
        return self._request(packed, 1, (script,), deadline)[0]

    def run_in_turn(self, calls: Sequence[Call], lane: Lane) -> list[Any]:
        """What each of the scripts returns, in one round trip; on *lane*, which the caller holds.

        If one of them raises, those behind it have run all the same.
        """
        packed = [pack(("EVALSHA", script.sha, len(keys), *keys, *args)) for script, keys, args in calls]
        return self.exchange(lane, b"".join(packed), len(calls), [script for script, _, _ in calls])

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """A connection that nobody else uses meanwhile."""
        lane = self.take()
        try:
            yield lane
        finally:
            lane.lock.release()

    def take(self, deadline: float | None = None) -> Lane:
        """A lane whose lock the caller holds and releases."""
        if self._epoch is not forks.epoch:
            self._forget()
        now = time.monotonic()
        for lane in self._lanes:
            lock = lane.lock
            if lock._is_owned():
                continue
            try:
                if lock.acquire(False):
                    lane.used = now
                    if now >= self._trim_at:
                        self._trim(now)
                    return lane
            except BaseException:  # a signal raised in here: who asked does not get the lane, so it is let go of
                if lock._is_owned():
                    lock.release()
                raise
        return self._take_more(deadline or now + self.timeout)

    def open_lane(self) -> Lane:
        """A lane for one user's own state on its connection; others may use it while that user does not hold its lock.

        It is the first one they take, so that a process which consumes has one connection for all it does: that of a
        lane which nobody uses just now, if there is one.
        """
        if self._epoch is not forks.epoch:
            self._forget()
        with self._mutex:
            for lane in self._lanes:
                if not lane.kept and lane.lock.acquire(blocking=False):
                    lane.kept = True
                    lane.lock.release()
                    break
            else:
                lane = Lane(self, kept=True)
            self._lanes = (lane, *(other for other in self._lanes if other is not lane))
        return lane

    def exchange(
        self,
        lane: Lane,
        packed: bytes,
        replies: int = 1,
        scripts: Sequence[Script] = (),
        *,
        deadline: float | None = None,
    ) -> list[Any]:
        """Send *packed* on *lane*, whose lock the caller holds, until it is answered or the time is up.

        *scripts*: those that *packed* runs, to be loaded where the server does not know them.
        """
        if deadline is None:
            deadline = time.monotonic() + self.timeout
        pause, load = 0.0, b""
        trouble: Exception | None = None
        while True:
            left = self.timeout if trouble is None else deadline - time.monotonic()
            try:
                if not lane.connected:
                    lane.connect(deadline)
                if load:
                    found = lane.exchange(load + packed, len(scripts) + replies, deadline)
                    load, loaded, found = b"", found[: len(scripts)], found[len(scripts) :]
                    for bad in loaded:
                        if bad.__class__ is ReplyError:
                            raise self._raised(refusal(bad))
                else:
                    found = lane.exchange(packed, replies, deadline)
            except Refused as refused:
                raise self._raised(refused) from refused.__cause__
            except Broken as broken:
                lane.close()
                if trouble is None or left > ENOUGH:
                    trouble = broken
            else:
                for bad in found:
                    if bad.__class__ is ReplyError:
                        break
                else:
                    return found
                code = code_of(bad)
                if code == "NOSCRIPT" and scripts:
                    load = b"".join([pack(("SCRIPT", "LOAD", script.text)) for script in scripts])
                    continue
                if code not in LATER and code not in STRANGER:
                    raise self._raised(refusal(bad)) from bad
                lane.close()
                trouble = refusal(bad)
            pause = self._rest(pause, deadline, trouble)

    def close(self) -> None:
        """Close every connection; the link may be used again."""
        if self._epoch is not forks.epoch:
            self._forget()
        with self._mutex:
            lanes, self._lanes = self._lanes, ()
        for lane in lanes:
            if lane.lock.acquire(timeout=min(1.0, self.timeout)):
                lane.close()
                lane.lock.release()
            else:
                lane.shutdown()

    def patience(self, deadline: float) -> float:
        """Seconds without a byte after which a connection is given up: time is left for another attempt."""
        left = deadline - time.monotonic()
        return min(self._budget, max(left / 2, 0.25))

    def open_wire(self, deadline: float) -> Wire:
        """A new connection to the server that is the primary now. Raises `Refused` or one of `Broken`."""
        wire, server = self.address.connect(deadline, self.patience(deadline), self._server)
        if server != self._server:
            sentence = self._check(server)
            if sentence:
                wire.close()
                raise Refused(sentence)
            self._server = server
        wire.epoch = forks.epoch
        return wire

    def explain(self, error: Exception) -> Exception:
        """What is raised for *error*, a `Refused` or one of `Broken`."""
        return self._raised(error) if isinstance(error, Refused) else self._unreachable(error)

    def _request(self, packed: bytes, replies: int, scripts: Sequence[Script], deadline: float | None) -> list[Any]:
        if deadline is None:
            deadline = time.monotonic() + self.timeout
        lane = self.take(deadline)
        try:
            return self.exchange(lane, packed, replies, scripts, deadline=deadline)
        finally:
            lane.lock.release()

    def _take_more(self, deadline: float) -> Lane:
        """A new lane, or, where there may be no more, the first one that somebody lets go of."""
        for position in itertools.count():
            left = deadline - time.monotonic()
            lane = Lane(self)
            try:
                with self._mutex:
                    lanes = self._lanes
                    if not self.limit or len(lanes) < self.limit:
                        lane.lock.acquire()
                        lane.used = time.monotonic()
                        self._lanes = (*lanes, lane)
                        return lane
            except BaseException:  # as in `take`
                if lane.lock._is_owned():
                    lane.lock.release()
                raise
            if left <= 0:
                break
            lane = lanes[position % len(lanes)]
            if lane.lock._is_owned():
                time.sleep(min(left, SLICE))
            elif self._seize(lane, min(left, SLICE)):
                return lane
        raised = self._error(
            f"All {self.limit} connections to Redis at {self.address.name} are in use: raise max_connections (or"
            " broker_pool_limit)."
        )
        raised.temporary = True  # type: ignore[attr-defined]
        raise raised

    def _seize(self, lane: Lane, timeout: float) -> bool:
        """Whether this thread has the lane, which was another's, within *timeout* seconds."""
        now = time.monotonic()
        try:
            if lane.lock.acquire(timeout=timeout):
                if lane in self._lanes:
                    lane.used = now
                    return True
                lane.lock.release()
        except BaseException:
            if lane.lock._is_owned():
                lane.lock.release()
            raise
        return False

    def _trim(self, now: float) -> None:
        """Close the lanes that nobody has used for a while, all but the first."""
        self._trim_at = now + SURPLUS / 5
        if len(self._lanes) < 2:
            return
        with self._mutex:
            for lane in self._lanes[1:]:
                if now - lane.used < SURPLUS or (lane.kept and lane.connected) or lane.lock._is_owned():
                    continue
                if lane.lock.acquire(blocking=False):  # and kept: whoever still sees this lane must not get it
                    lane.close()
                    self._lanes = tuple(other for other in self._lanes if other is not lane)
                    if lane.kept:
                        lane.lock.release()

    def _forget(self) -> None:
        """In a child process: the connections are its parent's, which goes on using them."""
        lanes, self._lanes = self._lanes, ()
        self._mutex = threading.Lock()
        self._epoch = forks.epoch
        for lane in lanes:
            lane.lock = threading.RLock()
            lane.close()
            if lane.kept:
                self._lanes = (*self._lanes, lane)

    def _rest(self, pause: float, deadline: float, trouble: Exception) -> float:
        """Sleep before the next attempt; how long to sleep before the one after it. Raises when time is up."""
        left = deadline - time.monotonic()
        if left < 0.01:
            raise self._unreachable(trouble) from trouble
        time.sleep(min(pause, left / 2) * random.uniform(0.5, 1.0))
        return min(PAUSES[1], pause * 2 or PAUSES[0])

    def _unreachable(self, trouble: Exception) -> Exception:
        state = "is not ready" if isinstance(trouble, Refused) else "cannot be reached"
        raised = self._error(f"Redis at {self.address.name} {state}: {reason(trouble)}.")
        raised.temporary = True  # type: ignore[attr-defined]
        raised.code = trouble.code if isinstance(trouble, Refused) else ""  # type: ignore[attr-defined]
        return raised

    def _raised(self, refused: Refused) -> Exception:
        raised = self._error(f"Redis at {self.address.name} refuses: {refused}.")
        raised.temporary = refused.temporary  # type: ignore[attr-defined]
        raised.code = refused.code  # type: ignore[attr-defined]
        return raised


class _Forks:
    """Counts the forks that lead to this process."""

    def __init__(self) -> None:
        self.epoch = object()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.epoch = object()


forks = _Forks()
