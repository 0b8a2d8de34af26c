"""Results in memcached: `cache+memcached://host:11211/`, several servers separated by `;`, through pymemcache.

Values are those of original Celery, under its keys.  What is known of a value besides (how final it is, who wrote it)
is in the 32 bits that memcached keeps beside it for its clients: bits 30 and 31 say how final it is, bits 6 to 29 are
of a hash of its writer.  Every record, and every join, is written in an atomic step of its own.

memcached forgets: with its process, and what was not used for long where its memory is full.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from math import ceil, inf
from struct import Struct
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from celery.backends.polls import PollingWatch
from celery.backends.store import TERMINAL, Store, StoreCapabilities, Watch, place_of
from celery.exceptions import BackendError, ImproperlyConfigured
from celery.utils.clock import SYSTEM, Clock
from celery.utils.digests import sha1
from celery.wire.message import Arrival, Record

PORT = 11211
AT_ONCE = 100
"""Keys in one request."""
RELATIVE = 30 * 86_400
"""Seconds up to which memcached takes a time to live; above that it is a Unix time."""
JOIN_KEPT = 86_400
"""Seconds a completed join is kept, so that a late copy of one of its parts is recognised."""
PLAIN_KEY = re.compile(r"[!-~]{1,250}", re.ASCII).fullmatch
CLIENT = {"connect_timeout": 5.0, "timeout": 5.0}
_STATUS = re.compile(rb'\{"status": ?"(SUCCESS|FAILURE|REVOKED)"').match
_PART = Struct(">8sI")
_NO_PLACE = 0xFFFFFFFF
_WRITER = 0x3FFFFFC0

Found = TypeVar("Found")
Held = tuple[bytes, int]
"""A value and its flags."""


class _Join(msgspec.Struct, array_like=True):
    """`parts`: a hash of the index and the place of each; `last`: that which completed it."""

    parts: bytes = b""
    grown: bytes = b""
    last: bytes = b""


class _Counting:
    """A join while parts enter it. *add* stores the value of one, unless it is there."""

    def __init__(self, join: _Join, add: Callable[[Arrival, bytes], None]) -> None:
        self._parts = dict(_parts(join))
        self._grown = {join.grown[at : at + 8] for at in range(0, len(join.grown), 8)}
        self._last = join.last
        self._add = add

    def enter(self, arrival: Arrival) -> bool:
        """Whether it completes the join, or is the one that has."""
        hashed = _hash(arrival.index)
        if self._last:
            return self._last == hashed and not arrival.grows
        if arrival.grows:
            self._grown.add(hashed)
            return False
        if hashed in self._parts:
            return False
        self._add(arrival, hashed)
        place = place_of(arrival.index)
        self._parts[hashed] = _NO_PLACE if place == inf else min(int(place), _NO_PLACE - 1)
        if len(self._parts) != arrival.size + len(self._grown):
            return False
        self._last = hashed
        return True

    def state(self) -> _Join:
        parts = b"".join(_PART.pack(part, place) for part, place in self._parts.items())
        return _Join(parts, b"".join(sorted(self._grown)), self._last)


class _Serde:
    """Values are bytes; with them come their flags."""

    def serialize(self, key: Any, value: bytes) -> Held:
        return value, 0

    def deserialize(self, key: Any, value: bytes, flags: int) -> Held:
        return value, flags


class MemcachedStore(Store):
    """A store in one or several servers. Options are those of pymemcache's clients, in `cache_backend_options`."""

    can = StoreCapabilities(durable=False, shared=True, notify=False, expire=True)

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self.servers = list(_servers(url))
        self._lock = threading.Lock()
        self._client: Any = None
        self._pid = 0
        self._broken: tuple[type[Exception], ...] = (OSError,)
        self._errors: tuple[type[Exception], ...] = ()

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.close()

    def put(self, records: Sequence[Record]) -> list[bool]:
        """As the port says, each record in a step of its own."""
        return [self._put(record) for record in records]

    def _put(self, record: Record) -> bool:
        final, mine = TERMINAL.get(record.state, 0), _writer(record.writer)
        flags = final << 30 | mine
        key, ttl = _key(record.key), _lifetime(record.ttl, self.clock)
        while True:
            found, cas = self._do(lambda client: client.gets(key))
            if found is None:
                stored = self._do(lambda client: client.add(key, record.value, ttl, noreply=False, flags=flags))
            elif final and found == (record.value, flags):
                return True  # this very record, by a request whose answer was lost
            else:
                was, writer = _known(found)
                if was == 2 or (was == 1 and (not final or writer == mine)):
                    return False
                stored = self._do(
                    lambda client, cas=cas: client.cas(key, record.value, cas, ttl, noreply=False, flags=flags)  # type: ignore[misc]
                )
            if stored:
                return True

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        found: dict[str, Held] = {}
        for portion in _portions([_key(key) for key in keys]):
            found.update(self._do(lambda client, portion=portion: client.get_many(portion)))  # type: ignore[misc]
        return [None if (held := found.get(_key(key))) is None else held[0] for key in keys]

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        name, life = _key(key), _lifetime(ttl, self.clock)
        self._do(lambda client: client.set(name, value, life, noreply=False))

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> None:
        named, life = {_key(key): value for key, value in values.items()}, _lifetime(ttl, self.clock)
        for names in _portions(list(named)):
            some = {name: named[name] for name in names}
            refused = self._do(lambda client, some=some: client.set_many(some, life, noreply=False))  # type: ignore[misc]
            if refused:
                raise BackendError(f"memcached did not store {len(refused)} of {len(some)} values.")

    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        name, life = _key(key), _lifetime(ttl, self.clock)
        tries = 0

        def once(client: Any) -> bool:
            nonlocal tries
            tries += 1
            return bool(client.add(name, value, life, noreply=False))

        if self._do(once):
            return True
        # The answer to the first try was lost: what is there may be this one's.
        return tries > 1 and self.get([key]) == [value]

    def delete(self, keys: Sequence[str]) -> int:
        count = 0
        for key in keys:
            name = _key(key)
            join = self._join(key)[0] if key.endswith(".") else None
            if join is not None:
                self._delete([_part_key(key, part) for part, _ in _parts(join)])
            count += self._delete([name])
        return count

    def _delete(self, names: Sequence[str]) -> int:
        return sum(bool(self._do(lambda client, name=name: client.delete(name, noreply=False))) for name in names)  # type: ignore[misc]

    def watch(self, keys: Sequence[str]) -> Watch:
        return PollingWatch()

    def expire(self) -> int:
        """memcached does it by itself."""
        return 0

    # -- joins -----------------------------------------------------------------------------------------------------

    def arrive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        groups: dict[str, list[int]] = {}
        for position, arrival in enumerate(arrivals):
            groups.setdefault(arrival.group, []).append(position)
        completed = [False] * len(arrivals)
        for group, positions in groups.items():
            answers = self._arrive(group, [arrivals[position] for position in positions])
            for position, answer in zip(positions, answers, strict=True):
                completed[position] = answer
        return completed

    def _arrive(self, group: str, arrivals: Sequence[Arrival]) -> list[bool]:
        name = _key(group)
        while True:
            join, cas = self._join(group)
            counting = _Counting(join or _Join(), self._add_part)
            answers = [counting.enter(arrival) for arrival in arrivals]
            state = counting.state()
            if state == join:
                return answers
            data = msgspec.msgpack.encode(state)
            life = JOIN_KEPT if state.last else 0
            if join is None:
                stored = self._do(lambda client, data=data, life=life: client.add(name, data, life, noreply=False))  # type: ignore[misc]
            else:
                stored = self._do(
                    lambda client, data=data, life=life, cas=cas: client.cas(name, data, cas, life, noreply=False)  # type: ignore[misc]
                )
            if stored:
                if state.last:
                    self._let_end(group, state)
                return answers

    def _add_part(self, arrival: Arrival, hashed: bytes) -> None:
        name = _part_key(arrival.group, hashed)
        self._do(lambda client: client.add(name, arrival.value, 0, noreply=False))

    def _let_end(self, group: str, join: _Join) -> None:
        for part, _ in _parts(join):
            self._do(lambda client, part=part: client.touch(_part_key(group, part), JOIN_KEPT, noreply=False))  # type: ignore[misc]

    def arrived(self, group: str) -> list[bytes]:
        join = self._join(group)[0]
        if join is None:
            return []
        places = {_part_key(group, part): place for part, place in _parts(join)}
        values: list[tuple[int, bytes]] = []
        for portion in _portions(list(places)):
            found = self._do(lambda client, portion=portion: client.get_many(portion))  # type: ignore[misc]
            values += [(places[key], held[0]) for key, held in found.items()]
        return [value for _, value in sorted(values)]

    def _join(self, group: str) -> tuple[_Join | None, Any]:
        name = _key(group)
        found, cas = self._do(lambda client: client.gets(name))
        return (None if found is None else msgspec.msgpack.decode(found[0], type=_Join)), cas

    # -- the connection --------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[Any], Found]) -> Found:
        """Ask the servers; once more if the connection was broken, as it is when a server has been restarted."""
        client = self._connected()
        try:
            try:
                return work(client)
            except self._broken:
                return work(client)
        except self._broken as error:
            raise self._trouble(f"cannot be reached ({error})", temporary=True) from error
        except self._errors as error:
            raise self._trouble(f"refuses: {error}", temporary=False) from error

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                self._client, self._pid = self._connect(), os.getpid()
            return self._client

    def _connect(self) -> Any:
        try:
            base = import_module("pymemcache.client.base")
        except ModuleNotFoundError as error:
            raise ImproperlyConfigured(
                "Results in memcached need pymemcache: pip install 'celery[memcache]'."
            ) from error
        errors = import_module("pymemcache.exceptions")
        self._broken, self._errors = (OSError, errors.MemcacheUnexpectedCloseError), (errors.MemcacheError,)
        options = {name: value for name, value in self.options.items() if name not in {"behaviors", "binary"}}
        options = {**CLIENT, **options, "serde": _Serde(), "default_noreply": False}
        if len(self.servers) == 1:
            return base.PooledClient(self.servers[0], **options)
        return import_module("pymemcache.client.hash").HashClient(self.servers, use_pooling=True, **options)

    def _trouble(self, what: str, *, temporary: bool) -> BackendError:
        where = "; ".join(server if isinstance(server, str) else f"{server[0]}:{server[1]}" for server in self.servers)
        error = BackendError(f"memcached at {where} {what}.")
        error.temporary = temporary
        return error


def _servers(url: str) -> Iterator[str | tuple[str, int]]:
    """pymemcache's addresses; of a socket its path."""
    for one in url.partition("://")[2].split(";"):
        if one.startswith(("/", "unix:")):
            yield one.removeprefix("unix:")
            continue
        host, _, port = one.rstrip("/").rpartition(":") if ":" in one else (one.rstrip("/"), "", "")
        if port and not port.isdecimal():
            raise ImproperlyConfigured(f"The port {port!r} of a memcached server is no number.")
        yield host.strip("[]") or "localhost", int(port or PORT)


def _key(key: str) -> str:
    """*key* as memcached takes it: up to 250 characters, no blanks."""
    if PLAIN_KEY(key):
        return key
    name = quote(key, safe="!\"#$&'()*+,/:;<=>?@[\\]^`{|}~")
    return name if len(name) <= 250 else f"{name[:200]}.{sha1(key.encode())}"


def _hash(index: str) -> bytes:
    return bytes.fromhex(sha1(index.encode())[:16])


def _part_key(group: str, part: bytes) -> str:
    return _key(f"{group}{part.hex()}")


def _parts(join: _Join) -> Iterable[tuple[bytes, int]]:
    return _PART.iter_unpack(join.parts)


def _writer(writer: str) -> int:
    return int(sha1(writer.encode())[:8], 16) & _WRITER


def _known(held: Held) -> tuple[int, int]:
    """How final a value is, and a hash of its writer; -1 for one of original Celery."""
    value, flags = held
    if flags & ~0x3F:
        return flags >> 30, flags & _WRITER
    found = _STATUS(value)
    return (TERMINAL[found[1].decode()] if found is not None else 0), -1


def _lifetime(ttl: float | None, clock: Clock) -> int:
    """As memcached has it: 0 is for ever. Its clock has whole seconds, so that one more keeps it from ending early."""
    if not ttl:
        return 0
    seconds = ceil(ttl) + 1
    return seconds if seconds <= RELATIVE else int(clock.time()) + seconds


def _portions(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + AT_ONCE] for start in range(0, len(keys), AT_ONCE))


def __getattr__(name: str) -> Any:
    """The class for programs that derive from it: it stands above the store, which is all that an app needs."""
    if name == "CacheBackend":
        return import_module("celery.backends.cachebackend").CacheBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
