"""Containers: dictionaries with attributes, stacked dictionaries, sets and buffers with a limit."""

from __future__ import annotations

import heapq
import time
from collections import ChainMap as _ChainMap
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from queue import Empty
from typing import Any

REPR_LIMITED_SET = "<{name}({size}): maxlen={0.maxlen}, expires={0.expires}, minlen={0.minlen}>"
_MISSING: Any = object()


class AttributeDictMixin:
    """Items as attributes."""

    def __getattr__(self, k: str) -> Any:
        try:
            return self[k]  # type: ignore[index]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class AttributeDict(dict[str, Any], AttributeDictMixin):
    """A dictionary whose items are attributes too."""


class DictAttribute:
    """An object whose attributes are read and set as items."""

    obj: Any = None

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self.obj, key, default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and hasattr(self.obj, key)

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self.obj))

    def keys(self) -> Iterator[str]:
        return iter(self)

    def values(self) -> Iterator[Any]:
        return (getattr(self.obj, key) for key in self)

    def items(self) -> Iterator[tuple[str, Any]]:
        return ((key, getattr(self.obj, key)) for key in self)

    iterkeys, itervalues, iteritems = keys, values, items


def force_mapping(m: Any) -> Any:
    """A mapping as it is; of any other object its attributes as a mapping."""
    return m if isinstance(m, Mapping | DictAttribute) else DictAttribute(m)


def lpmerge(L: Any, R: Mapping[Any, Any]) -> Any:  # noqa: N803 - the public name
    """Put into *L* what *R* has and is not None."""
    L.update({key: value for key, value in R.items() if value is not None})
    return L


class ChainMap(MutableMapping[str, Any]):
    """Mappings behind one another: the first that has a key answers, and the first takes what is set.

    *key_t*: changes a key before it is looked up.
    """

    maps: list[Any]
    changes: Any
    defaults: list[Any]
    key_t: Callable[[str], str] | None
    _observers: list[Callable[..., Any]]

    def __init__(self, *maps: Any, **kwargs: Any) -> None:
        stack = list(maps or [{}])
        self.__dict__.update(key_t=kwargs.get("key_t"), maps=stack, changes=stack[0], defaults=stack[1:], _observers=[])

    def bind_to(self, callback: Callable[..., Any]) -> None:
        """Call *callback* with what is given to `update`."""
        self._observers.append(callback)

    def add_defaults(self, d: Any) -> None:
        """Add *d* before the other defaults."""
        d = force_mapping(d)
        self.defaults.insert(0, d)
        self.maps.insert(1, d)

    def _key(self, key: str) -> str:
        return self.key_t(key) if self.key_t is not None else key

    def __missing__(self, key: str) -> Any:
        raise KeyError(key)

    def __getitem__(self, key: str) -> Any:
        wanted = self._key(key)
        for mapping in self.maps:
            try:
                return mapping[wanted]
            except KeyError:
                pass
        return self.__missing__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.changes[self._key(key)] = value

    def __delitem__(self, key: str) -> None:
        try:
            del self.changes[self._key(key)]
        except KeyError:
            raise KeyError(f"Key not found in the first mapping: {key!r}") from None

    def pop(self, key: str, *default: Any) -> Any:
        try:
            return self.changes.pop(self._key(key), *default)
        except KeyError:
            raise KeyError(f"Key not found in the first mapping: {key!r}") from None

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        given = dict(*args, **kwargs)
        for key, value in given.items():
            self[key] = value
        for callback in self._observers:
            callback(**given)

    def clear(self) -> None:
        """Forget what was set; the defaults stay."""
        self.changes.clear()

    def copy(self) -> ChainMap:
        return type(self)(dict(self.maps[0]), *self.maps[1:])

    @classmethod
    def fromkeys(cls, it: Iterable[str], value: Any = None) -> ChainMap:
        return cls(dict.fromkeys(it, value))

    def __len__(self) -> int:
        return len(set(self))

    def __iter__(self) -> Iterator[str]:
        return iter(_ChainMap(*[dict.fromkeys(mapping) for mapping in self.maps]))

    def __contains__(self, key: object) -> bool:
        wanted = self._key(str(key))
        return any(wanted in mapping for mapping in self.maps)

    def __bool__(self) -> bool:
        return any(self.maps)

    def iterkeys(self) -> Iterator[str]:
        return iter(self)

    def itervalues(self) -> Iterator[Any]:
        return iter(self.values())

    def iteritems(self) -> Iterator[tuple[str, Any]]:
        return iter(self.items())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.maps))})"


class ConfigurationView(ChainMap, AttributeDictMixin):
    """Changes over defaults, read by item or attribute.

    *keys* are functions that give other names under which a setting may stand; *prefix* stands before the names.
    """

    prefix: str
    _keys: Sequence[Callable[[str], str]]

    def __init__(
        self,
        changes: Any,
        defaults: Sequence[Any] | None = None,
        keys: Sequence[Callable[[str], str]] | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(changes, *(defaults or ()))
        self.__dict__.update(
            prefix=(prefix.rstrip("_") + "_" if prefix else ""),
            _keys=tuple(keys or ()),
        )

    def _to_keys(self, key: str) -> tuple[str, ...]:
        names = (key, f"{self.prefix}{key}") if self.prefix and not key.startswith(self.prefix) else (key,)
        return (*names, *(other(name) for name in names for other in self._keys))

    def __getitem__(self, key: str) -> Any:
        for name in self._to_keys(key):
            for mapping in self.maps:
                try:
                    return mapping[name]
                except KeyError:
                    pass
        return self.__missing__(key)

    def __contains__(self, key: object) -> bool:
        return any(name in mapping for name in self._to_keys(str(key)) for mapping in self.maps)

    def first(self, *keys: str) -> Any:
        """The first of these settings that is there and not None."""
        return next((value for value in map(self.get, keys) if value is not None), None)

    def swap_with(self, other: ConfigurationView) -> None:
        """Become *other*."""
        self.__dict__.update(other.__dict__)

    def copy(self) -> ConfigurationView:
        return type(self)(dict(self.maps[0]), self.maps[1:], self._keys, self.prefix or None)


class LimitedSet:
    """A set that forgets the oldest beyond *maxlen*, and what is older than *expires* seconds while more than *minlen*.

    0 is no limit. Times are `time.monotonic()` unless given. Iterates oldest first. Not thread-safe.
    """

    def __init__(self, maxlen: int = 0, expires: float = 0, data: Any = None, minlen: int = 0) -> None:
        self.maxlen = maxlen or 0
        self.minlen = minlen or 0
        self.expires = expires or 0
        if self.maxlen < 0 or self.minlen < 0 or (self.maxlen and self.minlen > self.maxlen):
            raise ValueError("minlen must be a positive number, less or equal to maxlen.")
        if self.expires < 0:
            raise ValueError("expires cannot be negative!")
        self._data: dict[Hashable, float] = {}
        # Entries of items that were added again or discarded stay here until they come up: `_data` says which count.
        self._heap: list[tuple[float, int, Hashable]] = []
        self._count = 0
        if data:
            self.update(data)

    def add(self, item: Hashable, now: float | None = None) -> None:
        """Add *item*, or make it young again."""
        moment = time.monotonic() if now is None else float(now)
        self._put(item, moment)
        if self.maxlen and len(self._data) > self.maxlen:
            self._drop_oldest()
        if self.expires:
            self.purge(moment)

    def _put(self, item: Hashable, moment: float) -> None:
        self._data[item] = moment
        self._count += 1
        heapq.heappush(self._heap, (moment, self._count, item))
        if len(self._heap) > 2 * len(self._data) + 64:
            self._heap = [entry for entry in self._heap if self._data.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def _oldest(self) -> tuple[float, Hashable] | None:
        while self._heap:
            moment, _, item = self._heap[0]
            if self._data.get(item) == moment:
                return moment, item
            heapq.heappop(self._heap)
        return None

    def _drop_oldest(self) -> Any:
        oldest = self._oldest()
        if oldest is None:
            return _MISSING
        heapq.heappop(self._heap)
        del self._data[oldest[1]]
        return oldest[1]

    def update(self, other: Any) -> None:
        """Add items from a set, a mapping of items to their times, or any iterable."""
        if isinstance(other, LimitedSet):
            other = other.as_dict()
        if isinstance(other, Mapping):
            for item, moment in other.items():
                if not isinstance(moment, int | float):
                    raise TypeError(f"{item!r} needs the time it was added as a number, not {moment!r}.")
                self._put(item, float(moment))
            self.purge()
        else:
            for item in other or ():
                self.add(item)

    def discard(self, item: Hashable) -> None:
        """Remove *item* if it is there."""
        self._data.pop(item, None)

    pop_value = discard

    def pop(self, default: Any = None) -> Any:
        """Remove and return the oldest."""
        found = self._drop_oldest()
        return default if found is _MISSING else found

    def purge(self, now: float | Callable[[], float] | None = None) -> None:
        """Forget what is too much or too old."""
        moment = time.monotonic() if now is None else float(now() if callable(now) else now)
        while self.maxlen and len(self._data) > self.maxlen:
            self._drop_oldest()
        while self.expires and len(self._data) > self.minlen >= 0:
            oldest = self._oldest()
            if oldest is None or oldest[0] + self.expires > moment:
                break
            self._drop_oldest()

    def clear(self) -> None:
        self._data.clear()
        self._heap.clear()

    def as_dict(self) -> dict[Hashable, float]:
        """Items and the times they were added."""
        return dict(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitedSet) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __contains__(self, item: object) -> bool:
        return item in self._data

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(self._data, key=self._data.__getitem__))

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return REPR_LIMITED_SET.format(self, name=type(self).__name__, size=len(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.maxlen, self.expires, self.as_dict(), self.minlen)


class Evictable:
    """Something that lets go of what is too much."""

    Empty = Empty

    def evict(self) -> None:
        """Take out as much as is too much."""
        while self._evictcount > 0:
            self._pop_to_evict()

    @property
    def _evictcount(self) -> int:
        return 0

    def _pop_to_evict(self) -> Any:
        raise self.Empty


class Messagebuffer(Evictable):
    """A queue that forgets its oldest beyond *maxsize*."""

    def __init__(
        self, maxsize: int | None, iterable: Iterable[Any] | None = None, deque: Callable[..., Any] = deque
    ) -> None:
        self.maxsize = maxsize
        self.data = deque(iterable or ())

    def put(self, item: Any) -> None:
        self.data.append(item)
        self.evict()

    def extend(self, it: Iterable[Any]) -> None:
        self.data.extend(it)
        self.evict()

    def take(self, *default: Any) -> Any:
        """Remove and return the oldest; raises `Empty` without a default."""
        try:
            return self.data.popleft()
        except IndexError:
            if default:
                return default[0]
            raise self.Empty from None

    def _pop_to_evict(self) -> Any:
        return self.take()

    @property
    def _evictcount(self) -> int:
        return len(self.data) - self.maxsize if self.maxsize else 0

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, item: object) -> bool:
        return item in self.data

    def __iter__(self) -> Iterator[Any]:
        yield from self.data

    def __reversed__(self) -> Iterator[Any]:
        yield from reversed(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}/{self.maxsize}>"


class BufferMap(OrderedDict[Any, Messagebuffer], Evictable):
    """A queue for each key, at most *maxsize* items in all and *bufmaxsize* for one key."""

    Buffer = Messagebuffer

    def __init__(self, maxsize: int, iterable: Iterable[Any] | None = None, bufmaxsize: int | None = 1000) -> None:
        super().__init__()
        self.maxsize = maxsize
        self.bufmaxsize = bufmaxsize
        self.total = 0
        for key, items in dict(iterable or ()).items():
            self.extend(key, items)

    def _buffer(self, key: Any) -> Messagebuffer:
        found = self.get(key)
        if found is None:
            found = self[key] = self.Buffer(self.bufmaxsize)
        self.move_to_end(key)
        return found

    def put(self, key: Any, item: Any) -> None:
        self.extend(key, [item])

    def extend(self, key: Any, it: Iterable[Any]) -> None:
        buffer = self._buffer(key)
        before = len(buffer)
        buffer.extend(it)
        self.total += len(buffer) - before
        self.evict()

    def take(self, key: Any, *default: Any) -> Any:
        """Remove and return the oldest of *key*; raises `Empty` without a default."""
        buffer = self.get(key)
        if buffer is not None:
            try:
                item = buffer.take()
            except self.Empty:
                pass
            else:
                self.total -= 1
                if not buffer:
                    del self[key]
                return item
        if default:
            return default[0]
        raise self.Empty

    def _pop_to_evict(self) -> Any:
        return self.take(next(iter(self)))

    @property
    def _evictcount(self) -> int:
        return self.total - self.maxsize if self.maxsize else 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.total}/{self.maxsize}>"


class LazyObject:
    """Stands for Django's class of that name where Django is not installed: nothing is an instance of it."""


__all__ = [
    "AttributeDict",
    "AttributeDictMixin",
    "BufferMap",
    "ChainMap",
    "ConfigurationView",
    "DictAttribute",
    "Evictable",
    "LazyObject",
    "LimitedSet",
    "Messagebuffer",
    "OrderedDict",
    "force_mapping",
    "lpmerge",
]
