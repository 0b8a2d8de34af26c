"""Remote control and events over Redis, where kombu has them.

Fan-out is PUBLISH and SUBSCRIBE on channels named as kombu names its own.  A box is a list, as a queue of kombu's is,
bound to its exchange in kombu's set of bindings; whoever posts reads there who has opened it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from celery.brokers.base import NO_SLOT, Box, Bus, Slot, Subscription
from celery.exceptions import BrokerError
from celery.redis.channel import Channel
from celery.redis.envelopes import SEP
from celery.redis.link import Lane, Link
from celery.redis.scripts import script
from celery.redis.wire import pack

KEPT = 3600.0
"""Seconds after which kombu forgets the bindings of an exchange that nobody has bound anything to meanwhile."""
BOX_KEPT = 60.0
"""Seconds after which a box whose reader died is forgotten, unless its slot says otherwise."""
SLICE = 1.0
"""Seconds that one BRPOP waits at most."""


class RedisBus(Bus):
    """Topics are channels `/<db>.<exchange>[/<routing key>]`: applications on two databases do not hear each other.

    Options, as kombu has them: `fanout_prefix` (False, or another beginning, in which `{db}` is the database) and
    `fanout_patterns` (False: a channel for each exchange, whatever the routing key).
    """

    def __init__(self, link: Link, options: Mapping[str, Any] | None = None) -> None:
        options = options or {}
        self._link = link
        self._sep = str(options.get("sep") or SEP)
        given = options.get("fanout_prefix", True)
        beginning = given if isinstance(given, str) else "/{db}."
        self._start = link.prefix + (beginning.replace("{db}", str(link.address.db)) if given else "")
        self._has_keys = bool(options.get("fanout_patterns", True))

    def publish(self, topic: str, payload: bytes) -> None:
        self._link.call("PUBLISH", self._start + self._channel_of(topic), payload)

    def hears(self, topic: str) -> bool:
        """As far as this server knows: patterns of anybody count, whatever they are for."""
        channel = self._start + self._channel_of(topic)
        try:
            patterns, (_, listeners) = self._link.calls([("PUBSUB", "NUMPAT"), ("PUBSUB", "NUMSUB", channel)])
            return bool(patterns or listeners)
        except BrokerError:
            return True  # it is away, or does not let us ask

    def subscribe(self, topics: Sequence[str], slot: Slot = NO_SLOT) -> RedisSubscription:
        channel = Channel(self._link)
        wanted = [self._start + self._channel_of(topic) for topic in topics]
        names = [name for name in wanted if not name.endswith("*")]
        patterns = [_escape(name[:-1]) + "*" for name in wanted if name.endswith("*")]
        try:
            if names:
                channel.subscribe(*names)
            if patterns:
                channel.psubscribe(*patterns)
        except BaseException:
            channel.close()
            raise
        return RedisSubscription(channel, len(self._start))

    def post(self, exchange: str, key: str, payload: bytes, ttl: float) -> None:
        prefix, sep = self._link.prefix, self._sep
        usual = f"{key}{sep}{sep}{key}.{exchange}"
        args = (prefix, sep, key, usual, max(1, int(ttl * 1000)), payload)
        self._link.run(script("post"), (f"{prefix}_kombu.binding.{exchange}",), args)

    def open_box(self, exchange: str, key: str, slot: Slot = NO_SLOT) -> RedisBox:
        return RedisBox(self._link, exchange, key, self._sep, slot)

    def channel_of(self, exchange: str, key: str) -> str:
        """Where what is sent to a fanout exchange is heard."""
        return self._start + self._channel_of(f"{exchange}/{key}" if key else exchange)

    def _channel_of(self, topic: str) -> str:
        return topic if self._has_keys else topic.partition("/")[0]


class RedisSubscription(Subscription):
    """A connection of its own. What is sent while it is being remade is not heard."""

    def __init__(self, channel: Channel, skipped: int) -> None:
        self._channel = channel
        self._skipped = skipped

    def get(self, timeout: float | None = None) -> tuple[str, bytes] | None:
        found = self._channel.get(timeout)
        return None if found is None else (found[1].decode()[self._skipped :], found[2])

    def fileno(self) -> int:
        return self._channel.fileno()

    def close(self) -> None:
        self._channel.close()


class RedisBox(Box):
    """A list that BRPOP takes from, on a connection of its own.

    While it is open its name is in kombu's set of bindings.  If its reader dies, the next box that is opened takes it
    out of there, and the list ends by its own time to live.
    """

    def __init__(self, link: Link, exchange: str, key: str, sep: str, slot: Slot) -> None:
        prefix = link.prefix
        self._link = link
        self._exchange = exchange
        self._queue = slot.name or f"{key}.{exchange}"
        self._member = f"{key}{sep}{sep}{self._queue}"
        self._life = (slot.expires or 0.0) + slot.lasts or BOX_KEPT
        self._keys = (
            f"{prefix}_kombu.binding.{exchange}",
            f"{prefix}_kombu.binding_deadlines",
            f"{prefix}celeriac.boxes.{exchange}",
            f"{prefix}_kombu.binding_permanent.{exchange}",
        )
        self._list = f"{prefix}{self._queue}"
        self._lane: Lane | None = None
        self._said = 0.0
        self._open()

    def get(self, timeout: float) -> bytes | None:
        until = time.monotonic() + timeout
        # A server that answers nothing for half of the time left is given up: BRPOP must answer well before that.
        most = min(SLICE, self._link.patience(float("inf")) / 2)
        while True:
            now = time.monotonic()
            if now - self._said > self._life / 2:
                self._open()
            left = until - now
            if left <= 0:
                return self._take()
            wait = min(left, most)
            found = self._ask(pack(("BRPOP", self._list, f"{max(wait, 0.001):.3f}")), wait)
            if found is not None:
                return bytes(found[1])

    def close(self) -> None:
        lane, self._lane = self._lane, None
        if self._said:
            self._said = 0.0
            self._link.run(script("shutbox"), self._keys[:3], (self._exchange, self._member, self._list))
        if lane is not None:
            lane.close()

    def _open(self) -> None:
        args = (self._exchange, self._member, int(self._life * 1000), int(KEPT * 1000))
        self._link.run(script("openbox"), self._keys, args)
        self._said = time.monotonic()

    def _take(self) -> bytes | None:
        found = self._ask(pack(("RPOP", self._list)), 0.0)
        return None if found is None else bytes(found)

    def _ask(self, packed: bytes, wait: float) -> Any:
        lane = self._lane
        if lane is None:
            lane = self._lane = Lane(self._link)
        deadline = time.monotonic() + max(self._link.timeout, 3 * wait)
        with lane.lock:
            return self._link.exchange(lane, packed, deadline=deadline)[0]


def _escape(text: str) -> str:
    """*text* as a pattern that matches nothing else."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^-" else letter for letter in text)
