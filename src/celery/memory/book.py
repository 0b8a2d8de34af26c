"""The schedule book of a broker in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from celery.brokers.book import HISTORY, Advance, Book, Lead
from celery.memory.space import Space
from celery.utils.clock import Clock


class Pages:
    """What the books of one name share."""

    def __init__(self) -> None:
        self.token, self.who, self.until, self.version = 0, "", 0.0, 0
        self.states: dict[str, bytes] = {}
        self.definitions: dict[str, bytes] = {}
        self.paused: set[str] = set()
        self.history: dict[str, deque[bytes]] = {}


class MemoryBook(Book):
    """A book in one space; every method holds its lock."""

    sends = True

    def __init__(self, space: Space, name: str, clock: Clock) -> None:
        self._space = space
        self._clock = clock
        with space.lock:
            self._pages: Pages = space.books.setdefault(name, Pages())

    def lead(self, who: str, ttl: float) -> Lead:
        pages = self._pages
        with self._space.lock:
            now = self._clock.time()
            if ttl and (pages.until <= now or pages.who == who):
                if pages.until <= now:
                    pages.token += 1
                pages.who, pages.until = who, now + ttl
            held = pages.until > now
            token = pages.token if held and pages.who == who else 0
            return Lead(token, pages.who if held else "", max(0.0, pages.until - now), now, pages.version)

    def resign(self, token: int) -> None:
        with self._space.lock:
            if self._pages.token == token:
                self._pages.until = 0.0

    def advance(self, token: int, ttl: float, advances: Sequence[Advance]) -> list[bool] | None:
        pages, space = self._pages, self._space
        with space.lock:
            now = self._clock.time()
            if pages.token != token or pages.until <= now:
                return None
            targets = [[space.targets(message) for message in advance.messages] for advance in advances]
            pages.until = now + ttl
            done = []
            for advance, places in zip(advances, targets, strict=True):
                state = pages.states.get(advance.name, b"")
                if state == advance.old:
                    pages.states[advance.name] = advance.new
                    self._note(advance.name, advance.note)
                    for message, names in zip(advance.messages, places, strict=True):
                        space.push(message, names, now)
                done.append(state in {advance.old, advance.new})
            return done

    def states(self) -> dict[str, bytes]:
        with self._space.lock:
            return dict(self._pages.states)

    def definitions(self) -> dict[str, bytes]:
        with self._space.lock:
            return dict(self._pages.definitions)

    def paused(self) -> frozenset[str]:
        with self._space.lock:
            return frozenset(self._pages.paused)

    def define(self, definitions: Mapping[str, bytes | None]) -> None:
        pages = self._pages
        with self._space.lock:
            for name, definition in definitions.items():
                if definition is None:
                    for table in (pages.definitions, pages.states, pages.history):
                        table.pop(name, None)
                    pages.paused.discard(name)
                else:
                    pages.definitions[name] = definition
            pages.version += 1

    def pause(self, names: Sequence[str], *, paused: bool) -> None:
        with self._space.lock:
            (self._pages.paused.update if paused else self._pages.paused.difference_update)(names)
            self._pages.version += 1

    def note(self, name: str, note: bytes) -> None:
        with self._space.lock:
            self._note(name, note)

    def history(self, name: str) -> list[bytes]:
        with self._space.lock:
            return list(self._pages.history.get(name, ()))

    def _note(self, name: str, note: bytes) -> None:
        if note:
            self._pages.history.setdefault(name, deque(maxlen=HISTORY)).appendleft(note)
