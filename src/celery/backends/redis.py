"""Results in Redis, under Celery's keys: `redis://host:6379/0`, and every other form of URL that `redis.address` has.

Clients and workers of original Celery read, write and wait for the same keys. `docs/redis.md` lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar
from uuid import uuid4

from celery.backends.store import Store, StoreCapabilities, Watch
from celery.exceptions import BackendError
from celery.redis.book import RedisBook
from celery.redis.envelopes import SEP, STEPS
from celery.redis.inbox import Inbox, Listener
from celery.redis.link import Link
from celery.redis.scripts import Scripts, script
from celery.utils.clock import SYSTEM, Clock
from celery.utils.log import get_logger
from celery.wire.message import Arrival, Record

logger = get_logger(__name__)
AT_ONCE = 1000
"""Keys in one command or script: a server that carries out a larger one lets everybody else wait for it."""
ANSWER_KEPT = 60_000
"""Milliseconds that an answer which is given once is kept, for a caller whose connection broke and who asks again."""

PUT = script("put", "", "records")
SET = script("set", f"local ANSWER_KEPT = {ANSWER_KEPT}", "records")
JOT = script("jot", "", "records")
FORGET = script("forget", "", "records")
ARRIVE = script("arrive", "", "records")

is_random = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$").search

T = TypeVar("T")


class RedisStore(Store):
    """A store in one database of a Redis server. Options: those of `redis.address`, and `timeout` (seconds).

    A `put`, `set_many`, `delete` or `get` of more than 1,000 is carried out in several steps of 1,000.
    """

    can = StoreCapabilities(durable=True, shared=True, notify=True, expire=True, shared_joins=True)

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self.link = Link(url, self.options, error=BackendError)
        self._prefix = self.link.prefix
        self._inbox = Inbox(self.link)

    def close(self) -> None:
        self._inbox.close()
        self.link.close()

    def put(self, records: Sequence[Record]) -> list[bool]:
        stored: list[bool] = []
        for portion in _portions(records):
            args: list[str | bytes | int] = [self._prefix]
            for record in portion:
                args += record.value, record.state, record.writer, _milliseconds(record.ttl)
            answer = self.link.run(PUT, [record.key for record in portion], args)
            stored += _flags(answer)
        return stored

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values. A key of another type is an error if it is the only one asked for, else as if absent."""
        if len(keys) == 1:
            return [self._get(keys[0])]
        values: list[bytes | None] = []
        for portion in _portions(keys):
            values += self.link.call("MGET", *portion)
        return values

    def book(self, name: str) -> RedisBook:
        return RedisBook(self.link, Scripts(self.link.address, STEPS, SEP, self.clock), name, None)

    def _get(self, key: str) -> bytes | None:
        try:
            value: bytes | None = self.link.call("GET", key)
        except BackendError as error:
            if getattr(error, "code", "") != "WRONGTYPE":
                raise
            raise BackendError(
                f"The key {key} holds no result but a value of another type: delete it, or choose another"
                " global_keyprefix for the results."
            ) from error
        return value

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._set(key, value, ttl, "")

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> None:
        for portion in _portions(list(values)):
            self.link.run(JOT, portion, [_milliseconds(ttl), *(values[key] for key in portion)])

    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        return self._set(key, value, ttl, "add")

    def _set(self, key: str, value: bytes, ttl: float | None, how: str) -> bool:
        return bool(self.link.run(SET, [key, self._answer()], [self._prefix, value, _milliseconds(ttl), how]))

    def delete(self, keys: Sequence[str]) -> int:
        return sum(self.link.run(FORGET, portion, [self._prefix]) for portion in _portions(keys))

    def watch(self, keys: Sequence[str]) -> RedisWatch:
        return RedisWatch(self._inbox.listen(keys))

    def arrive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        completed: list[bool] = []
        for portion in _portions(arrivals):
            args: list[str | bytes | int] = []
            for arrival in portion:
                args += arrival.group, arrival.index, arrival.value, arrival.size, int(arrival.grows)
            completed += _flags(self.link.run(ARRIVE, (), args))
        return completed

    def arrived(self, group: str) -> list[bytes]:
        parts: list[bytes] = self.link.call("ZRANGE", f"{group}j", 0, -1)
        return parts

    def expire(self) -> int:
        """The server does it by itself."""
        return 0

    def _answer(self) -> str:
        """A key for the answer to one call, should its connection break."""
        return f"{self._prefix}celeriac.answer.{uuid4().hex}"


class RedisWatch(Watch):
    """Hears of writes on Celery's channels, which are named like the keys."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def wait(self, timeout: float | None = None) -> bool:
        return self._listener.wait(timeout)

    def written(self) -> dict[str, bytes | None] | None:
        # Channels are the server's, not the database's: where ids are not random, as they are not where programs make
        # them up, another application's task of that id may have ended.
        taken = self._listener.taken()
        return taken and {key: value if is_random(key) else None for key, value in taken.items()}

    def ring(self) -> None:
        self._listener.ring()

    def close(self) -> None:
        self._listener.close()


def _portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    if len(items) <= AT_ONCE:
        return iter((items,) if items else ())
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))


def _milliseconds(ttl: float | None) -> int:
    """For the scripts, to which 0 is for ever."""
    return 0 if ttl is None else max(1, round(ttl * 1000))


def _flags(answer: bytes) -> list[bool]:
    return [flag == 0x31 for flag in answer]


def __getattr__(name: str) -> Any:
    """The classes for programs that derive from them: they stand above the store, which is all that an app needs."""
    if name in {"RedisBackend", "SentinelBackend"}:
        return getattr(import_module("celery.backends.redisbackend"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
