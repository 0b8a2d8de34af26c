"""The Lua scripts, as the server keeps them: by the SHA-1 of their text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from celery.redis.address import Address
from celery.redis.envelopes import INNER
from celery.utils.clock import SYSTEM, Clock
from celery.utils.digests import sha1

MOST_BYTES = 8_000_000
"""Bytes of messages after which a claim takes no more."""

_LIMITED = ("slips", "permits")
_EMPTYING = (*_LIMITED, "uniques", "emptying")
PARTS: Mapping[str, tuple[str, ...]] = {
    "push": (),
    "publish": ("slips", "sending"),
    "advance": ("slips", "sending"),
    "once": ("slips", "uniques", "sending"),
    "disown": ("slips", "uniques"),
    "purge": _EMPTYING,
    **dict.fromkeys(("leave", "sweep"), (*_EMPTYING, "leaving")),
    **dict.fromkeys(("claim", "release", "park", "resume", "withdraw", "unpark"), _LIMITED),
}
"""The files that come before a script, where it is not `slips` alone."""
_FOLDER = Path(__file__).parent


class Script:
    """A script's text, and the name under which a server that has seen it knows it."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.sha = sha1(text.encode())


@cache
def script(name: str, prelude: str = "", *parts: str) -> Script:
    """`<name>.lua`, after *prelude* (Lua text: the constants it uses) and the files called *parts*."""
    texts = [prelude, *((_FOLDER / f"{part}.lua").read_text() for part in (*parts, name))]
    return Script(name, "\n".join(text for text in texts if text))


def lua_text(value: str) -> str:
    """*value* as a Lua string constant."""
    return '"' + "".join(f"\\{byte:03d}" for byte in value.encode()) + '"'


class Scripts:
    """The scripts of one broker, for its keys: `scripts["claim"]`."""

    def __init__(self, address: Address, steps: tuple[int, ...], sep: str, clock: Clock) -> None:
        self.steps = (INNER, *steps)
        """Of the ready lists of a queue, in the order in which they are served."""
        self._prefix = address.prefix
        self.sep = sep
        """Between a queue and its step, and the parts of a binding."""
        self._clock = clock
        self._head = (
            f"local P, SEP, STEPS, DB = {lua_text(address.prefix)}, {lua_text(sep)}, "
            f"{{{', '.join(map(str, self.steps))}}}, {address.db}\nlocal MOST_BYTES, INNER = {MOST_BYTES}, {INNER}"
        )
        self._made: dict[str, Script] = {}

    def __getitem__(self, name: str) -> Script:
        found = self._made.get(name)
        if found is None:
            parts = PARTS.get(name, ("slips",))
            found = self._made[name] = script(name, self._head if parts else "", *parts)
        return found

    def commit(self, store: Address | None) -> Script:
        """The script that settles, and writes results where *store* is."""
        db, prefix = (store.db, store.prefix) if store is not None else (0, "")
        head = f"{self._head}\nlocal STORE_DB, STORE_P = {db}, {lua_text(prefix)}"
        return script("commit", head, "slips", "permits", "uniques", "records")

    def ready_key(self, queue: str, step: int) -> str:
        """The key of the list of ready messages."""
        if step == INNER:
            return f"{self._prefix}celeriac.inner.{queue}"
        return f"{self._prefix}{queue}{self.sep}{step}" if step else f"{self._prefix}{queue}"

    def now(self) -> str | int:
        """What scripts are told of the time: nothing, they ask the server; or a test's clock, in ms."""
        return "" if self._clock is SYSTEM else int(self._clock.time() * 1000)

    def time(self) -> float:
        """This machine's clock, in Unix seconds."""
        return self._clock.time()

    def monotonic(self) -> float:
        """Seconds on the clock that never goes back."""
        return self._clock.monotonic()
